#!/usr/bin/env bash
# Measures checkpoints and restarts beside the classic way (nvvmm bench), on ordinary and on huge pages, then the pool's
# operations (cargo bench -p nvvmm-snapshot), and writes docs/performance.md with its plots.
#
#   scripts/bench.sh [--out DIR] [--medium MEDIUM]... [-- ARGUMENT...]
#
#   --out DIR        where performance.md, performance.json and performance/ go (default: docs)
#   --medium MEDIUM  of the media with huge pages only this one (repeatable): hugetlbfs, tmpfs-huge; none for none
#   -- ARGUMENT...   for nvvmm bench, such as the name of one experiment, --sizes or --repeat
#   -h, --help       this text
#
# The host should have nothing else to do, and memory for twice the largest guest (4 GiB) on ordinary pages besides what is set
# aside as huge ones. Media with huge pages need root; they are made for this and given back, and the page cache is dropped so
# that the kernel finds some. NVVMM_HUGE_PAGES: how many huge pages hugetlbfs gets (default: for a guest of 4 GiB and as
# much again, and two fifths of free memory at most). The pool's operations take 4 GiB of /dev/shm, or of NVVMM_TEST_POOL_DIR.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$here/lib/kvm.sh"
source "$here/lib/programs.sh"

huge_pages_wanted=4600

out='' media=() arguments=()
while (($#)); do
  case $1 in
    --out) out=${2:?--out needs a directory}; shift ;;
    --medium) media+=("${2:?--medium needs a name}"); shift ;;
    --) shift; arguments=("$@"); break ;;
    -h | --help) usage; exit 0 ;;
    *) die "unknown argument $1" "see ${0##*/} --help" ;;
  esac
  shift
done
out=${out:-$NVVMM_ROOT/docs}
((${#media[@]})) || media=(hugetlbfs tmpfs-huge)

# huge_pages: how many are asked for.
huge_pages() {
  local available_kib
  available_kib=$(awk '/^MemAvailable/ {print $2}' /proc/meminfo)
  echo $((available_kib * 2 / 5 / 2048 < huge_pages_wanted ? available_kib * 2 / 5 / 2048 : huge_pages_wanted))
}

[[ $(kvm_kind) != none ]] || die "$(kvm_reason)" "VMs need a KVM, if only a software one"
need_rust
need_packages jq
build_nvvmm
build_bare_metal
NVVMM_HUGE_PAGES=${NVVMM_HUGE_PAGES:-$(huge_pages)}
NVVMM_BAREMETAL_GUEST=$(bare_metal_path)
export NVVMM_HUGE_PAGES NVVMM_BAREMETAL_GUEST

# Where memory is full of cached files, there are few huge pages to be had.
if [[ " ${media[*]} " == *" hugetlbfs "* ]]; then
  sync
  as_root sh -c 'echo 3 >/proc/sys/vm/drop_caches; echo 1 >/proc/sys/vm/compact_memory' ||
    say "cannot make room for huge pages: only root can"
fi

measure=("$NVVMM_BIN" bench --out "$out" "${arguments[@]}")
for medium in "${media[@]}"; do
  case $medium in
    none) ;;
    hugetlbfs | tmpfs-huge)
      if "$here/on-medium.sh" "$medium" true; then
        measure=("$here/on-medium.sh" "$medium" "$here/bench/with-huge-dir.sh" "${measure[@]}")
      else
        say "not measured: $medium"
      fi
      ;;
    *) die "no medium with huge pages is called $medium" "see ${0##*/} --help" ;;
  esac
done
results=$(mktemp -d)
trap 'rm -rf "$results"' EXIT
# One experiment that fails leaves the others in the document.
status=0
"${measure[@]}" || status=$?
[[ $out/performance.md -nt $results ]] || exit "$status"

say "measuring the pool's operations"
(cd "$NVVMM_ROOT" && CRITERION_HOME=$results cargo bench --quiet -p nvvmm-snapshot >&2)
{
  "$here/bench/pool-table.sh" "$results"
  printf '\n## Floors\n\nWhat sets the floor where a target is not met: %s in the source tree, written by hand.\n' docs/inside/performance.md
} >>"$out/performance.md"
say "written: $out/performance.md"
exit "$status"
