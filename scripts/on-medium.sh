#!/usr/bin/env bash
# Makes a place for pools on a medium, runs a command that uses it, and gives everything back.
#
#   scripts/on-medium.sh MEDIUM[,MEDIUM...] COMMAND [ARGUMENT...]
#
#   MEDIUM       tmpfs        a directory in /dev/shm
#                tmpfs-huge   a tmpfs with huge=always
#                hugetlbfs    pages of 2 MiB, reserved for this and given back
#                file         a directory on a disk: in /var/tmp; in the nested harness ext4 on
#                             /dev/vda
#                fsdax-ext4   ext4 with dax=always on /dev/pmem0 (nested harness only, as the next
#                             two)
#                fsdax-xfs    XFS with dax=always on /dev/pmem1
#                devdax       the namespace of /dev/pmem2 as a character device
#   -h, --help   this text
#
# COMMAND finds the place in NVVMM_TEST_PLACES: MEDIUM=DIRECTORY, or MEDIUM=DEVICE on devdax. This
# script can be its own COMMAND: then NVVMM_TEST_PLACES has all places, with spaces between them,
# and the innermost one last.
# With several media COMMAND runs on each, even if it fails on one. In a second boot of the nested
# harness it finds the files of the first boot.
# The exit status is 0, or COMMAND's last failure, or 77 where this machine cannot have a medium;
# the reason is on standard error.
# NVVMM_HUGE_PAGES: number of huge pages to reserve (default 640, which is 1.25 GiB).
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$here/lib/say.sh"
source "$here/lib/packages.sh"

cannot() {
  say "no medium $medium here: $*"
  exit 77
}

need_root() { ((EUID == 0)) || sudo -n true 2>/dev/null || cannot "only root can make it"; }

# Persistent memory and /dev/vda outside of the nested harness are not ours to overwrite.
need_nested() {
  [[ ${NVVMM_IN_NESTED:-0} == 1 ]] || cannot "only in the nested harness (scripts/nested.sh)"
}

is_kept() { ((${NVVMM_NESTED_BOOT:-1} > 1)); }

mount_memory() {
  need_root
  as_root mount -t "$1" -o "$2,mode=1777" "nvvmm-$medium" "$place" ||
    cannot "mount -t $1 -o $2 failed"
}

huge_pages_reserved() { cat /proc/sys/vm/nr_hugepages; }

# Huge pages that others reserved stay theirs: ours are added and subtracted.
change_huge_pages() { as_root sysctl -q -w "vm.nr_hugepages=$(($(huge_pages_reserved) + $1))"; }

huge_pages_free() {
  awk '/^HugePages_Free/ {free = $2} /^HugePages_Rsvd/ {print free - $2}' /proc/meminfo
}

mount_huge_pages() {
  local wanted=${NVVMM_HUGE_PAGES:-640} before
  need_root
  before=$(huge_pages_reserved)
  change_huge_pages "$wanted"
  huge_pages=$(($(huge_pages_reserved) - before))
  (($(huge_pages_free) >= wanted)) ||
    cannot "the kernel has $(huge_pages_free) free huge pages of the $wanted wanted"
  mount_memory hugetlbfs "pagesize=2M,size=$((wanted * 2))M"
}

# mount_device DEVICE TYPE HOW [MKFS-OPTION...]
mount_device() {
  local device=$1 kind=$2 how=$3
  shift 3
  need_nested
  [[ -b $device ]] || cannot "no $device"
  is_kept || "mkfs.$kind" "$@" "$device" >/dev/null || die "mkfs.$kind $device failed"
  mount -t "$kind" -o "$how" "$device" "$place" ||
    die "$device cannot be mounted as $kind with $how"
  chmod 1777 "$place"
}

# use_directory PARENT
use_directory() {
  rmdir "$place"
  place=$(mktemp -d "$1/nvvmm-$medium.XXXXXX")
  chmod 1777 "$place"
}

use_disk() {
  local kind
  if [[ ${NVVMM_IN_NESTED:-0} == 1 ]]; then
    mount_device /dev/vda ext4 defaults -q -F
    return
  fi
  kind=$(stat -f -c %T /var/tmp)
  case $kind in
    tmpfs | ramfs | overlayfs | nfs | v9fs) cannot "/var/tmp is on $kind, which is no disk" ;;
  esac
  use_directory /var/tmp
}

# An NVDIMM without labels is one namespace, which keeps its mode from boot to boot.
make_namespace() {
  need_nested
  is_kept || ndctl create-namespace --force --reconfig="$1" --mode="$2" --map=mem >/dev/null ||
    die "ndctl made no $2 of $1"
}

make_devdax() {
  local name
  make_namespace namespace2.0 devdax
  name=$(ndctl list --namespace=namespace2.0 | sed -n 's/.*"chardev": *"\([^"]*\)".*/\1/p')
  [[ -c /dev/$name ]] || cannot "namespace2.0 has no device"
  device=/dev/$name
}

set_up() {
  case $medium in
    tmpfs) use_directory /dev/shm ;;
    tmpfs-huge) mount_memory tmpfs size=75%,huge=always ;;
    hugetlbfs) mount_huge_pages ;;
    file) use_disk ;;
    fsdax-ext4)
      make_namespace namespace0.0 fsdax
      mount_device /dev/pmem0 ext4 dax=always -q -F -b 4096
      ;;
    fsdax-xfs)
      make_namespace namespace1.0 fsdax
      mount_device /dev/pmem1 xfs dax=always -q -f -m reflink=0
      ;;
    devdax) make_devdax ;;
    *) die "unknown medium $medium" "see ${0##*/} --help" ;;
  esac
}

# shellcheck disable=SC2317 # the trap calls it
give_back() {
  if mountpoint -q "$place"; then
    as_root umount "$place" || say "error: $place stays mounted"
    rmdir "$place" || true
  else
    rm -rf "$place"
  fi
  ((huge_pages == 0)) || change_huge_pages "-$huge_pages"
}

case ${1:-} in
  -h | --help) usage; exit 0 ;;
esac
(($# >= 2)) || die "a medium and a command are needed" "see ${0##*/} --help"
medium=$1
shift
if [[ $medium == *,* ]]; then
  status=0
  for one in ${medium//,/ }; do "${BASH_SOURCE[0]}" "$one" "$@" || status=$?; done
  exit "$status"
fi
huge_pages=0
if [[ ${NVVMM_IN_NESTED:-0} == 1 ]]; then
  # The same in every boot: who ran from a pool there finds it again.
  place=/mnt/nvvmm-$medium
  mkdir -p "$place"
else
  place=$(mktemp -d "${TMPDIR:-/tmp}/nvvmm-$medium.XXXXXX")
fi
trap give_back EXIT
trap 'exit 130' INT TERM
device=''
set_up
export NVVMM_TEST_PLACES="${NVVMM_TEST_PLACES:+$NVVMM_TEST_PLACES }$medium=${device:-$place}"
say "$medium: ${device:-$place}"
"$@"
