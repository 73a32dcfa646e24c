#!/usr/bin/env bash
# Compares snapshots of a process with CRIU's, in one Linux guest. A program that has touched some
# memory is handled by both in turn: CRIU dumps and restores it, with images on tmpfs in the guest,
# and nvvmm captures and restarts it. Prints medians, and the ratios beside the targets.
#
#   scripts/bench-process.sh [--sizes MIB,...] [--repeat N] [--reserve MIB] [--json]
#
#   --sizes MIB,...   memory of the process (default 16,64,256,512)
#   --repeat N        number of repetitions (default 3)
#   --reserve MIB     memory that the agent keeps ready for a restart; 0 for none
#                     (default: as much as the process has)
#   --json            prints all measurements and medians as JSON instead of tables
#   -h, --help        this text
#
# CRIU is the distribution's package. It is in an image of its own, not in the ordinary guest's.
# Where KVM cannot boot Linux, the same runs in the nested harness (scripts/nested.sh): on an
# emulated CPU, whose times mean little. NVVMM_FORCE_NESTED=1 uses the nested harness even where
# it is not needed. NVVMM_BENCH_TIMEOUT limits a nested run (seconds, default 3600).
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$here/lib/kvm.sh"
source "$here/lib/programs.sh"
source "$here/lib/kernel.sh"
source "$here/lib/criu.sh"

sizes=16,64,256,512 repeat=3 reserve=process format=table
while (($#)); do
  case $1 in
    --sizes) sizes=${2:?--sizes needs numbers of MiB}; shift ;;
    --repeat) repeat=${2:?--repeat needs a number}; shift ;;
    --reserve) reserve=${2:?--reserve needs a number of MiB}; shift ;;
    --json) format=json ;;
    -h | --help) usage; exit 0 ;;
    *) die "unknown argument $1" "see ${0##*/} --help" ;;
  esac
  shift
done
[[ $sizes =~ ^[1-9][0-9]*(,[1-9][0-9]*)*$ ]] || die "--sizes must be numbers with commas: $sizes"
[[ $repeat =~ ^([1-9]|1[01])$ ]] || die "--repeat must be a number from 1 to 11: $repeat"

[[ $reserve =~ ^[0-9]+$|^process$ ]] || die "--reserve must be a number of MiB: $reserve"

need_rust
need_packages jq
build_nvvmm
make_guest_image 6.1
make_criu_image

measure=("$here/bench-process/measure.sh" "$sizes" "$repeat" "$reserve")
if [[ $(kvm_kind) == direct ]]; then
  say "the guest runs directly on this machine: $(kvm_reason)"
  where=direct
else
  say "Linux guests cannot run directly on this machine: $(kvm_reason)"
  say "the guest runs in the nested harness, on an emulated CPU"
  where=emulated
  # As in the tests of Linux guests: under an older QEMU, guests have hung.
  export NVVMM_NESTED_QEMU=${NVVMM_NESTED_QEMU:-10}
  measure=("$here/nested.sh" --memory 8G --timeout "${NVVMM_BENCH_TIMEOUT:-3600}" "${measure[@]}")
fi
# The harness mixes stdout and stderr. Measurements are the lines that begin with {.
measurements=$("${measure[@]}" |
  awk '/^\{/ {print; next} {print >"/dev/stderr"; fflush("/dev/stderr")}')
criu_version=$("$(criu_path)" --version | sed -n 's/^Version: //p')
result=$(jq -s --arg where "$where" --arg reserve "$reserve" --arg criu "$criu_version" \
  -f "$here/bench-process/summary.jq" <<<"$measurements")
if [[ $format == json ]]; then
  printf '%s\n' "$result"
else
  "$here/bench-process/table.sh" <<<"$result"
fi
