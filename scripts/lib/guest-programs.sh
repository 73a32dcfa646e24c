# shellcheck shell=bash
# Makes the guest image with programs whose processes are captured. Needs programs.sh and kernel.sh.

# make_programs_image: makes the ordinary guest's image with a second archive behind it, and
# exports NVVMM_GUEST_PROGRAMS. The second archive has `subject` (guest/process) and the
# distribution's CPython, sqlite3 and xz. Linux unpacks one archive after the other.
make_programs_image() {
  local guest tree python file crypto=libssl3
  guest=$(dirname "$NVVMM_GUEST_INITRAMFS")
  tree=$guest/programs
  [[ -z $(apt-cache pkgnames libssl3t64 2>/dev/null) ]] || crypto=libssl3t64
  need_packages python3-minimal sqlite3 xz-utils "$crypto"
  build_guests || return 1
  hold_lock "$(basename "$guest")/programs"
  rm -rf "$tree"
  mkdir -p "$tree/bin" "$tree/etc"
  install -m 755 "$(subject_path)" "$tree/bin/subject"
  # A file that only root may read.
  install -m 600 /dev/null "$tree/etc/shadow"
  add_programs "$tree" /usr/bin/python3 /usr/bin/sqlite3 /usr/bin/xz
  python=$(basename "$(readlink -f /usr/bin/python3)")
  # Python's standard library, with the .pyc files that were made when it was installed.
  dpkg -L "lib$python-minimal" | grep "^/usr/lib/$python/" | while read -r file; do
    [[ ! -f $file ]] || echo "$file"
    compgen -G "${file%/*}/__pycache__/$(basename "$file" .py).*.pyc" || true
  done | tar -C / -cf - --files-from=- 2>/dev/null | tar -C "$tree" -xf -
  add_programs "$tree" /usr/lib/"$python"/lib-dynload/_{hashlib,ssl}.*.so
  pack_initramfs "$tree" "$guest/programs.cpio"
  NVVMM_GUEST_PROGRAMS=$guest/initramfs-programs.cpio
  cat "$NVVMM_GUEST_INITRAMFS" "$guest/programs.cpio" >"$NVVMM_GUEST_PROGRAMS.new"
  mv "$NVVMM_GUEST_PROGRAMS.new" "$NVVMM_GUEST_PROGRAMS"
  rm -rf "$tree" "$guest/programs.cpio"
  drop_lock
  export NVVMM_GUEST_PROGRAMS
}
