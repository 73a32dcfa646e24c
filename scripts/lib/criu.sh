# shellcheck shell=bash
# Makes the guest image with CRIU in it, for scripts/bench-process.sh. Needs programs.sh, kernel.sh.

# Modules that CRIU checks for before it does anything. It ends if nf_tables is missing.
criu_modules=(nf_tables veth tun unix_diag tcp_diag udp_diag raw_diag netlink_diag af_packet_diag)

# make_criu_image: makes the ordinary guest's image with a second archive behind it, and exports
# NVVMM_GUEST_INITRAMFS. The second archive has Debian's criu, its libraries, and the scripts that
# run it. Linux unpacks one archive after the other.
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

# criu_path: prints the path of criu, which may be in a directory of root's PATH only.
criu_path() { PATH=$PATH:/usr/sbin:/sbin type -P criu; }
