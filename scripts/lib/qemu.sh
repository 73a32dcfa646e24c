# shellcheck shell=bash
# Chooses the QEMU that emulates the nested host. Needs say.sh, tree.sh, packages.sh, kernel.sh.

# choose_qemu: sets qemu to the program. If NVVMM_NESTED_QEMU=10 is set and the installed QEMU is
# older, this is the QEMU of bookworm-backports. It is unpacked into the cache and uses the
# libraries of the installed one. Exits with status 77 if that does not run here.
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
