# shellcheck shell=bash
# Finds and unpacks distribution kernels, and packs their modules into an initramfs. Needs say.sh
# and packages.sh.

# stock_kernel_package FLAVOUR: the image package behind the distribution's metapackage.
# FLAVOUR: cloud (for a guest), full (for a host).
stock_kernel_package() {
  local meta=
  case $1 in
    cloud) meta=linux-image-cloud-amd64 ;;
    full) meta=linux-image-amd64 ;;
    *) die "unknown kernel flavour $1" ;;
  esac
  [[ -n $(apt-cache pkgnames linux-image-) ]] || refresh_package_lists
  local package
  package=$({ apt-cache depends --important "$meta" 2>/dev/null || true; } |
    awk '/Depends: linux-image-[0-9]/ {found = $2} END {print found}')
  # Ubuntu has no such metapackage. Its newest generic kernel serves as both.
  [[ -n $package ]] || package=$(newest_package 'linux-image-[0-9][0-9.]*-[0-9]+-generic')
  [[ -n $package ]] || die "found no $1 kernel package in this distribution"
  printf '%s\n' "$package"
}

# fetch_kernel KIND DIR: fetches a kernel and unpacks it (see unpack_kernel). KIND is a flavour or
# the name of a package. A flavour with -6.12 at its end is that of Debian's bookworm-backports, one
# with -newest that of trixie-backports.
fetch_kernel() {
  local package=$1
  case $1 in
    linux-image-*) ;;
    *-6.12) from_backports fetch_kernel "${1%-6.12}" "$2"; return ;;
    *-newest) from_suite trixie-backports fetch_kernel "${1%-newest}" "$2"; return ;;
    *) package=$(stock_kernel_package "$1") ;;
  esac
  unpack_kernel "$package" "$2"
}

debian_keys=/usr/share/keyrings/debian-archive-keyring.gpg

# from_backports COMMAND...: see from_suite.
from_backports() { from_suite bookworm-backports "$@"; }

# from_suite SUITE COMMAND...: runs a command whose apt programs use only that suite of Debian, with
# its security updates, and not this machine's own sources. NVVMM_DEBIAN_MIRROR replaces Debian's.
from_suite() {
  local apt=$NVVMM_CACHE/apt/$1 signed="[signed-by=$debian_keys]"
  need_packages debian-archive-keyring
  mkdir -p "$apt"/{lists,cache/archives}/partial
  echo "deb $signed ${NVVMM_DEBIAN_MIRROR:-$debian_mirror} $1 main" >"$apt/sources.list"
  [[ $1 == *-* || -n ${NVVMM_DEBIAN_MIRROR:-} ]] ||
    echo "deb $signed $debian_mirror-security $1-security main" >>"$apt/sources.list"
  cat >"$apt/apt.conf" <<END
Dir::Etc::sourcelist "$apt/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::State::lists "$apt/lists";
Dir::Cache "$apt/cache";
APT::Sandbox::User "$(id -un)";
Acquire::Languages "none";
END
  APT_CONFIG=$apt/apt.conf apt-get update -qq >&2 ||
    die "Debian's $1 cannot be reached" "see the message of apt-get above"
  APT_CONFIG=$apt/apt.conf "${@:2}"
}

debian_mirror=http://deb.debian.org/debian

# unpack_kernel PACKAGE DIR: leaves DIR/boot/vmlinuz-VERSION, DIR/lib/modules/VERSION and
# DIR/version.
unpack_kernel() {
  local package=$1 dir=$2 version=${1#linux-image-} packages deb
  mapfile -t packages < <(kernel_packages "$package" "$version")
  rm -rf "$dir.new"
  mkdir -p "$dir.new/debs"
  say "fetching ${packages[*]}"
  (cd "$dir.new/debs" && fetch_packages "${packages[@]}")
  for deb in "$dir.new"/debs/*.deb; do dpkg -x "$deb" "$dir.new"; done
  rm -r "$dir.new/debs"
  settle_kernel "$dir.new" "$version"
  [[ -d $dir.new/lib/modules/$version/kernel ]] || die "$package has no modules for $version"
  [[ -f $dir.new/boot/vmlinuz-$version ]] || die "$package has no kernel for $version"
  depmod -b "$dir.new" "$version"
  printf '%s\n' "$version" >"$dir.new/version"
  rm -rf "$dir"
  mv "$dir.new" "$dir"
}

# kernel_packages PACKAGE VERSION: the image package, and those that have the rest of the kernel.
# Ubuntu has the modules in linux-modules and linux-modules-extra. Debian's image package has all
# files until 2025, and none from 2026 on: they are in linux-binary, linux-modules and linux-base.
kernel_packages() {
  echo "$1"
  apt-cache pkgnames linux- |
    grep -Fx "$(printf "linux-%s-$2\n" base binary modules modules-extra)" | sort || true
}

# settle_kernel DIR VERSION: where packages have their files below usr/lib/modules, boot and lib
# lead there.
settle_kernel() {
  local dir=$1 version=$2
  if [[ ! -d $dir/lib/modules ]]; then
    ln -sfn usr/lib "$dir/lib"
  elif [[ -d $dir/usr/lib/modules && ! -L $dir/lib ]]; then
    cp -al "$dir/usr/lib/modules/." "$dir/lib/modules/"
  fi
  mkdir -p "$dir/boot"
  [[ -e $dir/boot/vmlinuz-$version || ! -e $dir/lib/modules/$version/vmlinuz ]] ||
    ln -s "../lib/modules/$version/vmlinuz" "$dir/boot/vmlinuz-$version"
}

# add_modules KERNEL_DIR INITRAMFS_DIR MODULE...: copies the modules and their dependencies,
# uncompressed, and writes modules/list in load order. A module that is built into the kernel
# needs nothing. A missing module is reported.
add_modules() {
  local kernel=$1 tree=$2 version module kind file name
  version=$(<"$kernel/version")
  shift 2
  mkdir -p "$tree/modules"
  : >"$tree/modules/list"
  for module in "$@"; do
    if ! modprobe -C /dev/null -d "$kernel" -S "$version" --show-depends "$module" 2>/dev/null; then
      say "kernel $version has no module $module: left out"
    fi
  done | while read -r kind file _; do
    [[ $kind == insmod ]] || continue
    name=${file##*/}
    name=${name%%.ko*}.ko
    [[ ! -e $tree/modules/$name ]] || continue
    case $file in
      *.ko) cat "$file" ;;
      *.xz) xz -dc "$file" ;;
      *.zst) zstd -dcq "$file" ;;
      *.gz) gzip -dc "$file" ;;
      *) die "unknown module compression: $file" ;;
    esac >"$tree/modules/$name"
    echo "$name" >>"$tree/modules/list"
  done
}

# pack_initramfs DIR FILE: does not compress, as an emulated CPU takes longer to unpack an archive
# than to load it.
pack_initramfs() {
  (cd "$1" && find . | LC_ALL=C sort | cpio --quiet -o -H newc -R 0:0) >"$2.new"
  mv "$2.new" "$2"
}

# le_number FILE OFFSET BYTES: an unsigned little-endian number.
le_number() { od -An -v --endian=little -t "u$3" -j "$2" -N "$3" "$1" | tr -d ' '; }

# unpack_bzimage BZIMAGE FILE: unpacks the ELF kernel. Fields of the setup header: Linux,
# Documentation/arch/x86/boot.rst.
unpack_bzimage() {
  local setup_sectors payload length magic unpack
  [[ $(od -An -c -j 514 -N 4 "$1" | tr -d ' ') == HdrS ]] || die "$1 is not a bzImage"
  setup_sectors=$(le_number "$1" 497 1)
  payload=$(((setup_sectors + 1) * 512 + $(le_number "$1" 584 4)))
  length=$(le_number "$1" 588 4)
  magic=$(od -An -t x1 -j "$payload" -N 4 "$1" | tr -d ' ')
  case $magic in
    fd377a58) unpack=(xz -dc --single-stream) ;;
    28b52ffd) unpack=(zstd -dcq) ;;
    1f8b*) unpack=(gzip -dcq) ;;
    02214c18) unpack=(lz4 -dcq) ;;
    *) die "$1 has an unknown compression (magic $magic)" ;;
  esac
  # The packed kernel is followed by 4 bytes with its size, about which some tools complain. Their
  # status is ignored, and the ELF magic is checked instead.
  tail -c "+$((payload + 1))" "$1" | head -c "$((length - 4))" | "${unpack[@]}" >"$2" || true
  [[ $(head -c 4 "$2" | od -An -t x1 | tr -d ' ') == 7f454c46 ]] ||
    die "unpacking $1 gave no ELF kernel"
}
