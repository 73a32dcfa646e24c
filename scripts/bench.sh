#!/usr/bin/env bash
# Measures checkpoints and restarts beside copying (nvvmm bench), on ordinary and on huge pages.
# Then measures the pool's operations (cargo bench -p nvvmm-snapshot), and writes
# docs/performance.md with its plots.
#
#   scripts/bench.sh [--out DIR] [--medium MEDIUM]... [-- ARGUMENT...]
#
#   --out DIR        directory for performance.md, performance.json and performance/
#                    (default: docs)
#   --medium MEDIUM  measures on this medium with huge pages only: hugetlbfs, tmpfs-huge or none
#                    (repeatable)
#   -- ARGUMENT...   arguments of nvvmm bench, such as the name of an experiment, --sizes, --repeat
#   -h, --help       this text
#
# The host should be idle. It needs memory for twice the largest guest (4 GiB) on ordinary pages,
# besides the huge pages. Media with huge pages need root. This script makes them and removes
# them, and drops the page cache so that the kernel finds huge pages. NVVMM_HUGE_PAGES is the
# number of huge pages of hugetlbfs (default: enough for two guests of 4 GiB, but at most two
# fifths of free memory). The pool's operations take 4 GiB of /dev/shm, or of the last place in
# NVVMM_TEST_PLACES.
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

# huge_pages: prints the number of huge pages to ask for.
huge_pages() {
  local most
  most=$(($(awk '/^MemAvailable/ {print $2}' /proc/meminfo) * 2 / 5 / 2048))
  echo $((most < huge_pages_wanted ? most : huge_pages_wanted))
}

[[ $(kvm_kind) != none ]] || die "$(kvm_reason)" "VMs need KVM; a software KVM is enough"
need_rust
need_packages jq
build_nvvmm
build_bare_metal
NVVMM_HUGE_PAGES=${NVVMM_HUGE_PAGES:-$(huge_pages)}
NVVMM_BAREMETAL_GUEST=$(bare_metal_path)
export NVVMM_HUGE_PAGES NVVMM_BAREMETAL_GUEST

# If cached files fill the memory, few huge pages are free.
if [[ " ${media[*]} " == *" hugetlbfs "* ]]; then
  sync
  as_root sh -c 'echo 3 >/proc/sys/vm/drop_caches; echo 1 >/proc/sys/vm/compact_memory' ||
    say "cannot make room for huge pages: this needs root"
fi

measure=("$NVVMM_BIN" bench --out "$out" --force "${arguments[@]}")
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
# If one experiment fails, the document still gets the others.
status=0
"${measure[@]}" || status=$?
[[ $out/performance.md -nt $results ]] || exit "$status"

say "measuring the pool's operations"
(cd "$NVVMM_ROOT" && CRITERION_HOME=$results cargo bench --quiet -p nvvmm-snapshot >&2)
{
  "$here/bench/pool-table.sh" "$results"
  printf '\n## Floors\n\nReasons for targets that are not met: %s in the source tree.\n' \
    docs/inside/performance.md
} >>"$out/performance.md"
say "written: $out/performance.md"
exit "$status"
