#!/usr/bin/env bash
# Makes a place for pools on a medium, runs a command that uses it, and gives everything back.
#
#   scripts/on-medium.sh [--kept] MEDIUM COMMAND [ARGUMENT...]
#
#   MEDIUM       tmpfs        a tmpfs of its own
#                tmpfs-huge   the same with huge=always
#                hugetlbfs    pages of 2 MiB, reserved for this and given back
#                file         a directory on a disk: $NVVMM_CACHE; in the nested harness ext4 on /dev/vda
#                fsdax-ext4   ext4 with dax=always on /dev/pmem0 (these three in the nested harness only)
#                fsdax-xfs    XFS with dax=always on /dev/pmem1
#                devdax       the namespace of /dev/pmem2 as a character device
#   --kept       use the file system or namespace that is there from an earlier boot
#   -h, --help   this text
#
# COMMAND finds NVVMM_TEST_MEDIUM and NVVMM_TEST_POOL_DIR; on devdax NVVMM_TEST_POOL_DEVICE instead of a directory.
# The exit status is COMMAND's, and 77 where this machine cannot have the medium, with the reason on standard error.
# NVVMM_HUGE_PAGES: how many huge pages are reserved (default 640, which is 1.25 GiB).
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$here/lib/say.sh"
source "$here/lib/tree.sh"

cannot() {
  say "no medium $medium here: $*"
  exit 77
}

need_root() { ((EUID == 0)) || cannot "only root can mount it"; }

# What is in persistent memory and on /dev/vda outside of the nested harness is not ours to overwrite.
need_nested() { [[ ${NVVMM_IN_NESTED:-0} == 1 ]] || cannot "only in the nested harness (scripts/nested.sh)"; }

mount_memory() {
  need_root
  mount -t "$1" -o "$2" "nvvmm-$medium" "$place" || cannot "mount -t $1 -o $2 failed"
}

# Huge pages that others reserved stay theirs: ours are added and subtracted.
change_huge_pages() {
  local pages=/proc/sys/vm/nr_hugepages
  echo $(($(<$pages) + $1)) >$pages
}

huge_pages_free() { awk '/^HugePages_Free/ {free = $2} /^HugePages_Rsvd/ {print free - $2}' /proc/meminfo; }

mount_huge_pages() {
  local wanted=${NVVMM_HUGE_PAGES:-640} before
  need_root
  before=$(<"/proc/sys/vm/nr_hugepages")
  change_huge_pages "$wanted"
  huge_pages=$(($(<"/proc/sys/vm/nr_hugepages") - before))
  (($(huge_pages_free) >= wanted)) || cannot "the kernel has $(huge_pages_free) free huge pages and gives no $wanted"
  mount_memory hugetlbfs "pagesize=2M,size=$((wanted * 2))M"
}

# mount_device DEVICE TYPE OPTIONS [MKFS-OPTION...]: makes the file system unless it is to be kept.
mount_device() {
  local device=$1 kind=$2 options=$3
  shift 3
  need_nested
  [[ -b $device ]] || cannot "no $device"
  ((kept)) || "mkfs.$kind" "$@" "$device" >/dev/null || die "mkfs.$kind $device failed"
  mount -t "$kind" -o "$options" "$device" "$place" || die "$device cannot be mounted as $kind with $options"
}

use_directory() {
  rmdir "$place"
  place=$NVVMM_CACHE/pools.$$
  mkdir -p "$place"
  case $(stat -f -c %T "$place") in
    tmpfs | ramfs | hugetlbfs | overlayfs | nfs | v9fs) cannot "$NVVMM_CACHE is on $(stat -f -c %T "$place"), no disk" ;;
  esac
}

make_devdax() {
  local name
  need_nested
  if ((!kept)); then
    ndctl create-namespace --force --reconfig=namespace2.0 --mode=devdax --map=mem >/dev/null || die "ndctl made no devdax of namespace2.0"
  fi
  name=$(ndctl list --namespace=namespace2.0 | sed -n 's/.*"chardev": *"\([^"]*\)".*/\1/p')
  [[ -c /dev/$name ]] || cannot "namespace2.0 has no device"
  export NVVMM_TEST_POOL_DEVICE=/dev/$name
}

set_up() {
  case $medium in
    tmpfs) mount_memory tmpfs size=75% ;;
    tmpfs-huge) mount_memory tmpfs size=75%,huge=always ;;
    hugetlbfs) mount_huge_pages ;;
    file) if [[ ${NVVMM_IN_NESTED:-0} == 1 ]]; then mount_device /dev/vda ext4 defaults -q -F; else use_directory; fi ;;
    fsdax-ext4) mount_device /dev/pmem0 ext4 dax=always -q -F -b 4096 ;;
    fsdax-xfs) mount_device /dev/pmem1 xfs dax=always -q -f -m reflink=0 ;;
    devdax) make_devdax ;;
    *) die "unknown medium $medium" "see ${0##*/} --help" ;;
  esac
}

# shellcheck disable=SC2317 # the trap calls it
give_back() {
  local left
  left=$(find "$place" -mindepth 1 -not -name lost+found 2>/dev/null | head -n 5)
  ! mountpoint -q "$place" || umount "$place" || say "error: $place stays mounted"
  case $place in
    "$NVVMM_CACHE"/*) rm -rf "$place" ;;
    *) rmdir "$place" 2>/dev/null || true ;;
  esac
  ((huge_pages == 0)) || change_huge_pages "-$huge_pages"
  [[ -z $left ]] || ((kept)) || say "what was left on $medium: $left"
}

kept=0 huge_pages=0
while (($#)); do
  case $1 in
    --kept) kept=1 ;;
    -h | --help) usage; exit 0 ;;
    -*) die "unknown option $1" "see ${0##*/} --help" ;;
    *) break ;;
  esac
  shift
done
(($# >= 2)) || die "a medium and a command are needed" "see ${0##*/} --help"
medium=$1
shift
place=$(mktemp -d "/run/nvvmm-$medium.XXXXXX" 2>/dev/null || mktemp -d)
trap give_back EXIT
trap 'exit 130' INT TERM
set_up
export NVVMM_TEST_MEDIUM=$medium NVVMM_TEST_POOL_DIR=$place
say "$medium: ${NVVMM_TEST_POOL_DEVICE:-$place}"
"$@"
