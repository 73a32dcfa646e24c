# shellcheck shell=bash
# The guest image with CRIU in it, for scripts/bench-process.sh only. Needs programs.sh and kernel.sh.

# What CRIU looks for in a kernel before it does anything: it ends where nf_tables is missing.
criu_modules=(nf_tables veth tun unix_diag tcp_diag udp_diag raw_diag netlink_diag af_packet_diag)

# make_criu_image: the ordinary guest's image with a second archive behind it, that holds Debian's criu, the libraries it is linked with, and
# what runs it; exports NVVMM_GUEST_INITRAMFS. Linux unpacks one archive after the other.
make_criu_image() {
  local tree=$NVVMM_CACHE/criu/tree heap
  need_packages criu
  mkdir -p "$NVVMM_CACHE/criu"
  hold_lock criu/prepare
  rm -rf "$tree"
  mkdir -p "$tree/bin" "$tree/criu"
  heap=$(dirname "$(witness_path)")/nvvmm-heap
  install -m 755 "$heap" "$NVVMM_ROOT/scripts/bench-process/in-guest.sh" "$tree/bin"
  add_programs "$tree" "$(criu_path)"
  mv "$tree$(criu_path)" "$tree/bin/criu"
  add_modules "$(dirname "$NVVMM_GUEST_KERNEL")/kernel" "$tree/criu" "${criu_modules[@]}"
  pack_initramfs "$tree" "$NVVMM_CACHE/criu/criu.cpio"
  cat "$NVVMM_GUEST_INITRAMFS" "$NVVMM_CACHE/criu/criu.cpio" >"$NVVMM_CACHE/criu/initramfs.cpio"
  rm -rf "$tree"
  drop_lock
  NVVMM_GUEST_INITRAMFS=$NVVMM_CACHE/criu/initramfs.cpio
  export NVVMM_GUEST_INITRAMFS
}

# It may be where only root's PATH leads.
criu_path() { PATH=$PATH:/usr/sbin:/sbin type -P criu; }
