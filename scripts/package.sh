#!/usr/bin/env bash
# Makes packages of nvvmm: a .deb for Debian and Ubuntu, a tar archive for any other distribution,
# and their checksums.
#
#   scripts/package.sh [--output DIR] [--force]
#
#   --output DIR   where they go (default: target/package in the source tree; made when missing)
#   --force        replaces files that exist
#   -h, --help     this text
#
# Both have: the program, nvvmm-agent (static), its hooks and the bare-metal guest in lib/nvvmm, man
# pages, completions for bash, zsh and fish, the udev rule that lets the group kvm run VMs,
# nvvmm@.service, and the licence. Everything is built first, with optimisations. The program needs
# the C library of the distribution that it is built on, or a newer one. Nothing of this host is
# changed, and no root is needed.
#
#   nvvmm_VERSION_amd64.deb              sudo apt install ./nvvmm_VERSION_amd64.deb
#   nvvmm-VERSION-x86_64-linux.tar.xz    sudo tar -C /usr/local --strip-components=1 -xf FILE
#   SHA256SUMS                           sha256sum -c SHA256SUMS
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$here/lib/programs.sh"
source "$here/lib/device-access.sh"

output='' force=0
while (($#)); do
  case $1 in
    --output) output=${2:?--output needs a directory}; shift ;;
    --force) force=1 ;;
    -h | --help) usage; exit 0 ;;
    *) die "unknown argument $1" "see ${0##*/} --help" ;;
  esac
  shift
done
: "${output:=$(cargo_target_dir "$NVVMM_ROOT")/package}"
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' "$NVVMM_ROOT/Cargo.toml" | head -n 1)
deb=nvvmm_${version}_amd64.deb archive=nvvmm-$version-x86_64-linux.tar.xz
for file in "$deb" "$archive" SHA256SUMS; do
  [[ ! -e $output/$file ]] || ((force)) || die "$output/$file exists" "--force replaces it"
done

# install_to ROOT PREFIX: what install.sh installs, without what is of one host.
install_to() {
  DESTDIR=$1 "$here/install.sh" --prefix "$2" --devices no
  install -d "$1$2/lib/udev/rules.d"
  access_rule_text >"$1$2/lib/udev/rules.d/60-nvvmm.rules"
  find "$1$2/share/man" -name '*.1' -exec gzip -9n {} +
}

# libc_version PROGRAM: the oldest glibc that has all symbols which the program uses.
libc_version() {
  objdump -T "$1" | grep -o 'GLIBC_[0-9.]*' | sed 's/GLIBC_//' | sort -uV | tail -n 1
}

copyright_text() {
  echo "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/"
  echo "Upstream-Name: nvvmm"
  echo "Source: https://github.com/nvvmm/nvvmm"
  echo
  echo "Files: *"
  echo "Copyright: the authors of nvvmm"
  echo "License: Apache-2.0"
  echo
  echo "License: Apache-2.0"
  echo " On Debian systems, the text is in /usr/share/common-licenses/Apache-2.0."
}

control_text() {
  cat <<END
Package: nvvmm
Version: $version
Architecture: amd64
Maintainer: nvvmm <nvvmm@users.noreply.github.com>
Installed-Size: $(du -sk --exclude=DEBIAN "$stage/deb" | cut -f 1)
Recommends: passt
Depends: libc6 (>= $(libc_version "$stage/deb/usr/bin/nvvmm")), libgcc-s1
Suggests: fuse3
Section: admin
Priority: optional
Homepage: https://github.com/nvvmm/nvvmm
Description: checkpointer for whole virtual machines on Linux KVM
 nvvmm takes snapshots of running virtual machines and of processes in them, and restores, clones
 and rewinds them, without copying their memory. A snapshot takes the memory by reference; later
 writes of the guest are copied on write.
END
}

# For a user who installs the package: the devices are opened to the group kvm at once.
postinst_text() {
  cat <<'END'
#!/bin/sh
set -e
if [ "$1" = configure ] && [ -S /run/udev/control ]; then
  udevadm control --reload || true
  udevadm trigger --subsystem-match=misc --sysname-match=kvm --sysname-match=userfaultfd || true
fi
END
}

make_deb() {
  local root=$stage/deb
  install_to "$root" /usr
  install -d "$root/usr/share/doc/nvvmm" "$root/DEBIAN"
  copyright_text >"$root/usr/share/doc/nvvmm/copyright"
  gzip -9nc "$NVVMM_ROOT/CHANGELOG.md" >"$root/usr/share/doc/nvvmm/changelog.gz"
  control_text >"$root/DEBIAN/control"
  postinst_text >"$root/DEBIAN/postinst"
  chmod 755 "$root/DEBIAN/postinst"
  (cd "$root" && find usr -type f -print0 | LC_ALL=C sort -z | xargs -0 md5sum) \
    >"$root/DEBIAN/md5sums"
  dpkg-deb --root-owner-group -Zxz --build "$root" "$stage/$deb" >/dev/null
}

make_archive() {
  local root=$stage/tar top=nvvmm-$version
  install_to "$root" /usr/local
  mkdir "$root/$top"
  mv "$root"/usr/local/* "$root/$top/"
  install -d "$root/$top/share/doc/nvvmm"
  install -m 644 "$NVVMM_ROOT"/{LICENSE,README.md,CHANGELOG.md} "$root/$top/share/doc/nvvmm/"
  tar -C "$root" --sort=name --owner=0 --group=0 --numeric-owner "--mtime=@$SOURCE_DATE_EPOCH" \
    -cJf "$stage/$archive" "$top"
}

need_rust
need_packages dpkg binutils xz-utils
umask 022
stage=$(mktemp -d "${TMPDIR:-/tmp}/nvvmm-package.XXXXXX")
trap 'rm -rf "$stage"' EXIT
trap 'exit 130' INT TERM
# The same sources give the same packages: times of files are that of the commit.
: "${SOURCE_DATE_EPOCH:=$(git -C "$NVVMM_ROOT" log -1 --format=%ct 2>/dev/null || date +%s)}"
export SOURCE_DATE_EPOCH
make_deb
make_archive
(cd "$stage" && sha256sum "$deb" "$archive" >SHA256SUMS)
mkdir -p "$output"
for file in "$deb" "$archive" SHA256SUMS; do
  mv "$stage/$file" "$output/$file"
  say "made $output/$file ($(du -h "$output/$file" | cut -f 1))"
done
