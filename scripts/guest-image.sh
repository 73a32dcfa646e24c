#!/usr/bin/env bash
# Makes a Linux guest from the distribution's packages: a stock cloud kernel and a small initramfs
# with busybox, the virtio drivers, nvvmm-witness and nvvmm-agent.
#
#   scripts/guest-image.sh [--kernel VERSION] [--fresh] [--print]
#
#   --kernel VERSION  6.1 (default): the distribution's kernel, which is 6.1 on Debian 12.
#                     6.12: the kernel of Debian's bookworm-backports, in its own directory
#                     guest-6.12
#                     newest: that of trixie-backports (7.3 in November 2026), in guest-newest
#   --fresh           fetches the kernel again, to get the newest one
#   --print           prints shell assignments of NVVMM_GUEST_KERNEL, NVVMM_GUEST_KERNEL_ELF and
#                     NVVMM_GUEST_INITRAMFS
#   -h, --help        this text
#
# Makes three files in $NVVMM_CACHE/guest: vmlinuz (the bzImage of the package), vmlinux (the same
# kernel unpacked, an ELF file that boots faster on an emulated CPU) and initramfs.cpio. This is
# fast if nothing has changed.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$here/lib/kernel.sh"
source "$here/lib/programs.sh"

# vsock_loopback is there so that tests see the agent refuse programs of the guest.
guest_modules=(virtio_mmio virtio_blk virtio_rng crc32c_generic ext4 vmw_vsock_virtio_transport
  vsock_loopback virtio_pmem nd_pmem erofs virtio_net af_packet tcp_diag unix_diag virtio_balloon)
directory=guest kernel=cloud fresh=0 print=0

while (($#)); do
  case $1 in
    --kernel)
      case ${2:-} in
        6.1) kernel=cloud directory=guest ;;
        6.12) kernel=cloud-6.12 directory=guest-6.12 ;;
        newest)
          kernel=cloud-newest directory=guest-newest
          # Linux has it since 6.13.
          guest_modules+=(ptp_vmclock)
          ;;
        *) die "--kernel ${2:-} is not known" "see ${0##*/} --help" ;;
      esac
      shift
      ;;
    --fresh) fresh=1 ;;
    --print) print=1 ;;
    -h | --help) usage; exit 0 ;;
    *) die "unknown argument $1" "see ${0##*/} --help" ;;
  esac
  shift
done
guest=$NVVMM_CACHE/$directory

prepare_kernel() {
  local version
  if [[ ! -e $guest/kernel/version || $fresh == 1 ]]; then
    is_debian_like ||
      die "the guest's kernel comes from a Debian or Ubuntu package, which needs apt-get"
    fetch_kernel "$kernel" "$guest/kernel"
    rm -f "$guest/vmlinux"
  fi
  [[ ! -e $guest/vmlinux ]] || return 0
  version=$(<"$guest/kernel/version")
  ln -sf "kernel/boot/vmlinuz-$version" "$guest/vmlinuz"
  unpack_bzimage "$guest/vmlinuz" "$guest/vmlinux.new"
  mv "$guest/vmlinux.new" "$guest/vmlinux"
  say "made $guest/vmlinuz and vmlinux: Linux $version"
}

prepare_initramfs() {
  local tree=$guest/initramfs stamp old
  build_guests
  stamp=$(cat "$guest/kernel/version" "$(witness_path)" "$(agent_path)" \
    "$here"/{guest-image.sh,lib/guest-init.sh,lib/guest-dhcp.sh,lib/kernel.sh} | cksum)
  old=$(cat "$guest/initramfs.stamp" 2>/dev/null || true)
  [[ ! -e $guest/initramfs.cpio || $old != "$stamp" ]] || return 0
  rm -rf "$tree"
  mkdir -p "$tree"/{bin,etc,proc,sys,dev,run,mnt,tmp}
  cp "$(command -v busybox)" "$tree/bin/busybox"
  install -m 755 "$here/lib/guest-init.sh" "$tree/init"
  install -m 755 "$here/lib/guest-dhcp.sh" "$tree/bin/guest-dhcp"
  install -m 755 "$(witness_path)" "$tree/bin/nvvmm-witness"
  install -m 755 "$(agent_path)" "$tree/bin/nvvmm-agent"
  add_modules "$guest/kernel" "$tree" "${guest_modules[@]}"
  pack_initramfs "$tree" "$guest/initramfs.cpio"
  say "made $guest/initramfs.cpio ($(du -h "$guest/initramfs.cpio" | cut -f 1))" \
    "with $(wc -l <"$tree/modules/list") modules"
  rm -rf "$tree"
  echo "$stamp" >"$guest/initramfs.stamp"
}

need_rust
need_packages busybox-static kmod cpio xz-utils zstd lz4
mkdir -p "$guest"
hold_lock "$directory/prepare"
prepare_kernel
prepare_initramfs
drop_lock
((!print)) || printf '%s=%q\n' NVVMM_GUEST_KERNEL "$guest/vmlinuz" \
  NVVMM_GUEST_KERNEL_ELF "$guest/vmlinux" NVVMM_GUEST_INITRAMFS "$guest/initramfs.cpio"
