# shellcheck shell=bash
# Which QEMU emulates the nested host. Needs say.sh, tree.sh, packages.sh and kernel.sh.

# choose_qemu: sets qemu to the program. Where NVVMM_NESTED_QEMU=10 is asked for and the installed
# one is older, it is that of bookworm-backports, unpacked into the cache, on the libraries of the
# installed one. Status 77: that does not run here.
choose_qemu() {
  local dir=$NVVMM_CACHE/nested/qemu-10 deb
  qemu='qemu-system-x86_64'
  case ${NVVMM_NESTED_QEMU:-installed} in
    installed) return ;;
    10) ;;
    *) die "NVVMM_NESTED_QEMU=$NVVMM_NESTED_QEMU is not known" "use 10 or installed" ;;
  esac
  [[ $("$qemu" --version) =~ version\ ([0-9]+) ]] && ((BASH_REMATCH[1] >= 10)) && return
  qemu=$dir/usr/bin/qemu-system-x86_64
  if [[ ! -x $qemu ]]; then
    rm -rf "$dir.new"
    mkdir -p "$dir.new/debs"
    (cd "$dir.new/debs" &&
      from_backports fetch_packages qemu-system-x86 qemu-system-common qemu-system-data)
    for deb in "$dir.new"/debs/*.deb; do dpkg -x "$deb" "$dir.new"; done
    rm -rf "$dir.new/debs" "$dir"
    mv "$dir.new" "$dir"
  fi
  "$qemu" --version >/dev/null && return
  say "error: QEMU 10 is not installed, and that of bookworm-backports does not run here"
  say "  try: NVVMM_NESTED_QEMU=installed, whose guests may have no AVX"
  exit 77
}
