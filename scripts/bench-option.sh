#!/usr/bin/env bash
# Measures what an option of `nvvmm run` costs: start, pause of a snapshot, and restore of a VM with
# it, beside one without it, in turn. "work" is the pause without the waits for vCPUs to stop and to
# go on, which depend on what else the machine does.
#
#   scripts/bench-option.sh [--repeat N] [--memory SIZE] [--disk SIZE] [--json] [OPTION...]
#
#   --repeat N     times of each (default 31)
#   --memory SIZE  memory of the VMs (default 64M)
#   --disk SIZE    makes an empty disk of that size, and gives it to the VM
#   --json         prints all measurements
#   -h, --help     this text
#
# For example: scripts/bench-option.sh --net, or scripts/bench-option.sh --disk 1T
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$here/lib/kvm.sh"
source "$here/lib/programs.sh"

memory=64M repeat=31 format=table disk='' options=()
while (($#)); do
  case $1 in
    --memory) memory=${2:?--memory needs a size}; shift ;;
    --repeat) repeat=${2:?--repeat needs a number}; shift ;;
    --disk) disk=${2:?--disk needs a size}; shift ;;
    --json) format=json ;;
    -h | --help) usage; exit 0 ;;
    *) options+=("$1") ;;
  esac
  shift
done
[[ $repeat =~ ^[0-9]+$ ]] || die "'$repeat' is no number"
[[ $(kvm_kind) != none ]] || die "this needs /dev/kvm: $(kvm_reason)"
[[ -z $disk ]] || options+=(--disk measured)
((${#options[@]})) || die "no option to measure" "see ${0##*/} --help"

need_rust
need_packages jq
[[ -n ${NVVMM_BIN:-} ]] || build_nvvmm
build_bare_metal
bare_metal=$(bare_metal_path)

place=$(mktemp -d /dev/shm/nvvmm-option.XXXXXX)
export NVVMM_RUNTIME_DIR=$place/run NVVMM_POOL=$place/pool

# shellcheck disable=SC2317 # the trap calls it
clean_up() {
  "$NVVMM_BIN" stop --all --force >/dev/null 2>&1 || true
  rm -rf "$place"
}
trap clean_up EXIT

# shellcheck disable=SC2016 # jq's own variable
times_of_snapshot='["QuiesceDevices", "SaveDevices", "CutDisks", "SaveVcpus", "ShareFrames",
  "ArmWriteProtect", "ResumeDevices"] as $work
  | {pause_us, work_us: [.phases[] | select(.phase | IN($work[])).took_us] | add}'

# us COMMAND...: the time that it takes.
us() {
  local began=${EPOCHREALTIME/./}
  "$@" >/dev/null
  echo $((${EPOCHREALTIME/./} - began))
}

# measure KIND OPTION...: one VM from its start to its end. Prints a line of JSON.
measure() {
  local kind=$1 start times restore
  shift
  start=$(us "$NVVMM_BIN" run --kernel "$bare_metal" --memory "$memory" --name vm --detach "$@")
  sleep 0.1
  times=$("$NVVMM_BIN" snapshot vm s --json | jq -c "$times_of_snapshot")
  "$NVVMM_BIN" stop vm >/dev/null
  restore=$(us "$NVVMM_BIN" restore s --name copy --detach)
  "$NVVMM_BIN" stop copy >/dev/null
  "$NVVMM_BIN" rm s >/dev/null
  printf '{"kind":"%s","start_us":%s,"restore_us":%s}\n%s\n' "$kind" "$start" "$restore" "$times" |
    jq -cs add
}

"$NVVMM_BIN" pool create "$NVVMM_POOL" --size 512M >/dev/null
[[ -z $disk ]] || "$NVVMM_BIN" disk create measured --size "$disk" >/dev/null
for ((number = 0; number <= repeat; number++)); do
  measure without
  measure with "${options[@]}"
done | tail -n +3 >"$place/measured"

if [[ $format == json ]]; then
  jq -s . "$place/measured"
  exit
fi
# Medians, in milliseconds, and their ratio.
jq -rs --arg options "${options[*]}" '
  def median: sort | .[length / 2 | floor];
  def of($kind; $what): map(select(.kind == $kind)[$what]) | median / 1000;
  def shown: . * 1000 | round / 1000;
  "| | without | with `\($options)` | ratio |", "|---|---|---|---|",
  (("start_us", "pause_us", "work_us", "restore_us") as $what
    | of("without"; $what) as $without | of("with"; $what) as $with
    | "| \($what[:-3]) | \($without | shown) ms | \($with | shown) ms"
      + " | \($with / $without * 100 | round / 100) |")' "$place/measured"
