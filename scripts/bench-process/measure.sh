#!/usr/bin/env bash
# Measures for scripts/bench-process.sh, on a machine whose KVM boots Linux. Prints a line with a
# JSON object for each process that was captured and restarted. Needs jq and, in the environment,
# NVVMM_BIN, NVVMM_GUEST_KERNEL_ELF and NVVMM_GUEST_INITRAMFS.
#
#   measure.sh MIB,... REPEAT RESERVE_MIB
#
# Each size has a VM and a pool of its own: a VM keeps all images whose frames it has used until
# a snapshot of the whole VM. RESERVE_MIB may be "process": then the reserve is a little larger
# than the process.
set -euo pipefail
shopt -s inherit_errexit
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$here/../lib/say.sh"

: "${NVVMM_BIN:?scripts/bench-process.sh sets it}"
: "${NVVMM_GUEST_KERNEL_ELF:?}" "${NVVMM_GUEST_INITRAMFS:?}"
IFS=, read -ra sizes <<<"$1"
repeat=$2 reserve=$3
NVVMM_RUNTIME_DIR=$(mktemp -d "${TMPDIR:-/tmp}/nvvmm-bench.XXXXXX")
counts=$NVVMM_RUNTIME_DIR/counts
pool=/dev/shm/nvvmm-bench-$$.pool

# shellcheck disable=SC2317 # the trap calls it
clean_up() {
  "$NVVMM_BIN" stop bench --force >/dev/null 2>&1 || true
  rm -rf "$pool" "$NVVMM_RUNTIME_DIR"
}
export NVVMM_RUNTIME_DIR
mkdir "$counts"
trap clean_up EXIT
trap 'exit 130' INT TERM

in_guest() { "$NVVMM_BIN" exec bench -- in-guest.sh "$@"; }

# members PREFIX ANSWER: the guest's NAME=NUMBER words as members of a JSON object.
members() {
  local word words
  read -ra words <<<"$2"
  for word in "${words[@]}"; do printf '"%s%s": %s, ' "$1" "${word%%=*}" "${word#*=}"; done
}

# pages_copied: pages that the host has copied for the VM since it started, for writes to frames of
# a snapshot.
pages_copied() {
  "$NVVMM_BIN" ps --json | jq '.[] | select(.vm == "bench") | .ram.copied_bytes / 4096'
}

# counted NAME COMMAND...: runs a command and prints its output. $counts/NAME then has, as a JSON
# object, the guest's counts of that time. They include the cost of asking: some 200 faults.
counted() {
  local name=$1 before after
  shift
  before="{$(members '' "$(in_guest counts)") \"zero\": 0}"
  "$@"
  after="{$(members '' "$(in_guest counts)") \"zero\": 0}"
  jq -nc --argjson before "$before" --argjson after "$after" \
    '$after | with_entries(.value -= $before[.key]) | del(.zero)' >"$counts/$name"
}

all_counts() {
  printf '{"capture": %s, "restart": %s}' "$(<"$counts/capture")" "$(<"$counts/restart")"
}

# The agent refills the reserve after each restart, which takes time and memory.
wait_for_reserve() { ((reserve_mib == 0)) || in_guest wait-for-reserve; }

start() {
  local answer
  wait_for_reserve
  answer=$(in_guest start "$1")
  started=$(members start_ "$answer")
  pid=$(sed -n 's/.*pid=\([0-9]*\).*/\1/p' <<<"$answer")
}

verify() {
  local answer
  wait_for_reserve
  answer=$(in_guest verify)
  [[ $answer == *' wrong=0 '* ]] || die "after a restart by $1 memory is wrong: $answer"
  verified=$(members verify_ "$answer")
}

by_criu() {
  local dumped restored
  start "$1"
  dumped=$(counted capture in_guest dump "$pid")
  restored=$(counted restart in_guest restore)
  verify criu
  in_guest kill "$pid"
  printf '{"by": "criu", "mib": %s, %s %s %s %s "counts": %s, "repetition": %s}' \
    "$1" "$started" "$(members dump_ "$dumped")" "$(members restore_ "$restored")" "$verified" \
    "$(all_counts)" "$2" | jq -c .
}

by_nvvmm() {
  local captured restarted copied
  start "$1"
  captured=$(counted capture "$NVVMM_BIN" snapshot bench image --process "$pid" --kill --json)
  copied=$(pages_copied)
  restarted=$(counted restart "$NVVMM_BIN" restore image --into bench --json)
  copied=$(($(pages_copied) - copied))
  verify nvvmm
  in_guest kill "$pid"
  "$NVVMM_BIN" rm image --pool "$pool" >/dev/null
  printf '{"by": "nvvmm", "mib": %s, %s %s "capture": %s, "restart": %s,
    "restart_host_copies": %s, "counts": %s, "repetition": %s}' \
    "$1" "$started" "$verified" "$captured" "$restarted" "$copied" "$(all_counts)" "$2" | jq -c .
}

# measure_size MIB: measures processes of one size.
measure_size() {
  local memory_mib tries repetition
  reserve_mib=$reserve
  # Its other pages need a little more, and pieces of the reserve are aligned to huge pages.
  [[ $reserve != process ]] || reserve_mib=$(($1 + 8))
  # The process, CRIU's copy of it, the reserve, and the system.
  memory_mib=$((2 * $1 + reserve_mib + 384))
  "$NVVMM_BIN" pool create "$pool" --size "$((memory_mib + repeat * ($1 + 16) + 256))M" >/dev/null
  "$NVVMM_BIN" run --name bench --pool "$pool" \
    --kernel "$NVVMM_GUEST_KERNEL_ELF" --initramfs "$NVVMM_GUEST_INITRAMFS" \
    --cmdline "console=ttyS0 quiet NVVMM_RESERVE=${reserve_mib}M" \
    --memory "${memory_mib}M" --cpus 1 --detach >/dev/null
  for ((tries = 0; ; tries++)); do
    ! "$NVVMM_BIN" exec bench -- true 2>/dev/null || break
    ((tries < 120)) || die "the guest's agent does not answer"
    sleep 1
  done
  in_guest prepare
  for ((repetition = 1; repetition <= repeat; repetition++)); do
    say "$1 MiB, $repetition of $repeat"
    by_criu "$1" "$repetition"
    by_nvvmm "$1" "$repetition"
  done
  "$NVVMM_BIN" stop bench --force >/dev/null
  "$NVVMM_BIN" pool delete "$pool" >/dev/null
}

for mib in "${sizes[@]}"; do measure_size "$mib"; done
