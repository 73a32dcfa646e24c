#!/usr/bin/env bash
# Runs nvvmm's tests. Ends with a summary: what ran, what could not run here, and how long it took.
#
#   scripts/test.sh [--nightly] [OPTION]... [-- TEST-ARGUMENT...]
#
#   Without --nightly this is the gate: every promise once, in minutes. Its tiers:
#     anywhere  formatting, lints, tests that need no KVM, a release build
#     kvm       the bare-metal guest on /dev/kvm, with pools on tmpfs
#     media     the same with pools on the other media that any host has
#     linux     Linux guests, where KVM boots them; elsewhere they are part of the tier nested
#     nested    one emulated host: persistent memory, a reboot of the host, a power cut, and Linux
#               guests where KVM here does not boot them
#   --nightly         everything, in hours. Its tiers:
#     anywhere  as above, larger; pools on each medium; the fuzz targets
#     kvm       as above, larger; with a release build; without what makes copy-on-write fast
#     linux     all tests with Linux guests, with Linux 6.1; some also with 6.12
#     restarts  VMs whose host reboots, snapshots whose host loses power: an emulated host for each
#     media     the bare-metal guest on persistent memory: an emulated host for each medium
#     pools     pools without VMs on persistent memory; snapshots moved between all media
#
#   --tier TIER       only this tier (repeatable)
#   --medium MEDIUM   in tiers that test media only this one (repeatable; scripts/on-medium.sh)
#   --guest VERSION   in the tier linux only guests with Linux 6.1 or 6.12
#   --require TIERS   all, or tiers with commas: a tier that cannot run is an error, not a skip
#   --timeout SECONDS the limit of one emulated host, and of the bare-metal guest on one medium
#                     (default 2700)
#   -- ARGUMENT...    for the test programs of tiers with guests, such as the name of one test
#   -h, --help        this text
#
# The emulated host is the nested harness: a Linux host with KVM on a CPU that QEMU emulates
# (scripts/nested.sh). NVVMM_FORCE_NESTED=1 uses it where it is not needed.
# NVVMM_NESTED_QEMU=installed does without QEMU 10, whose guests have AVX.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$here/lib/kvm.sh"
source "$here/lib/kernel.sh"
source "$here/lib/programs.sh"
source "$here/lib/guest-programs.sh"
source "$here/lib/room.sh"
source "$here/lib/tally.sh"
source "$here/lib/test-programs.sh"
source "$here/lib/test-tiers.sh"

# Each kind of run with its tiers, in the order in which they begin.
gate_tiers=(nested media anywhere kvm linux)
nightly_tiers=(linux restarts pools anywhere kvm media)
# The media of each tier.
kvm_media=(tmpfs tmpfs-huge hugetlbfs file)
pmem_media=(fsdax-ext4 fsdax-xfs devdax)
profile=gate all_tiers=("${gate_tiers[@]}")
tiers=() media=() required=() test_arguments=() guest='' timeout_s=2700
beside='' prefetch='' what_is_missing=''

parse_arguments() {
  [[ " $* " != *" --nightly "* ]] || profile=nightly all_tiers=("${nightly_tiers[@]}")
  while (($#)); do
    case $1 in
      --nightly) ;;
      --tier) need_tier "${2:?--tier needs a name}"; tiers+=("$2"); shift ;;
      --medium) need_medium "${2:?--medium needs a name}"; media+=("$2"); shift ;;
      --guest) need_guest "${2:?--guest needs a version}"; guest=$2; shift ;;
      --require) read_required "${2:?--require needs tiers}"; shift ;;
      --timeout) timeout_s=${2:?--timeout needs seconds}; shift ;;
      -h | --help) usage; exit 0 ;;
      --) shift; test_arguments=("$@"); break ;;
      *) die "unknown argument $1" "see ${0##*/} --help" ;;
    esac
    shift
  done
  ((${#tiers[@]})) || tiers=("${all_tiers[@]}")
}

need_tier() {
  [[ " ${all_tiers[*]} " == *" $1 "* ]] ||
    die "unknown tier $1" "the tiers of the $profile run are: ${all_tiers[*]}"
}

need_medium() {
  local all="${kvm_media[*]} ${pmem_media[*]}"
  [[ " $all " == *" $1 "* ]] || die "no tier tests the medium $1" "the media are: $all"
}

need_guest() {
  [[ $1 == 6.1 || $1 == 6.12 ]] || die "no guest with Linux $1" "there are 6.1 and 6.12"
}

read_required() {
  local name
  if [[ $1 == all ]]; then
    required=("${all_tiers[@]}")
    return
  fi
  IFS=, read -ra required <<<"$1"
  for name in "${required[@]}"; do need_tier "$name"; done
}

is_required() { [[ " ${required[*]} " == *" $1 "* ]]; }

is_asked_for() { [[ " ${tiers[*]} " == *" $1 "* ]]; }

run_tier() {
  begin_tier "$1"
  "${profile}_$1"
  end_tier
}

# run_beside TIER...: beside those that follow, in a process group of its own, to be ended as a
# whole; end_beside shows its output.
run_beside() {
  say "beside what follows: tier $*"
  set -m
  (for name in "$@"; do run_tier "$name"; done) >"$summary/log" 2>&1 </dev/null &
  beside=$!
  set +m
}

end_beside() {
  local status=0
  [[ -n $beside ]] || return 0
  wait "$beside" || status=$?
  beside=''
  cat "$summary/log" >&2
  ((status == 0)) || die "what ran beside the others ended with status $status"
}

# shellcheck disable=SC2317 # the trap calls it
clean_up() {
  [[ -z $beside ]] || kill -TERM -- "-$beside" 2>/dev/null || true
  [[ -z $prefetch ]] || kill -TERM -- "-$prefetch" 2>/dev/null || true
  rm -rf "$summary"
}

# Tiers that run beside the others, one after another: an emulated host keeps one processor busy,
# and most tests of the other tiers another one. The gate's media make both take as long.
tiers_beside() {
  local name
  is_asked_for anywhere || is_asked_for kvm ||
    { [[ $profile == nightly ]] && is_asked_for media; } || return 0
  for name in "${tiers[@]}"; do
    case $profile,$name in
      gate,nested | gate,media | nightly,linux | nightly,restarts | nightly,pools) echo "$name" ;;
    esac
  done
}

parse_arguments "$@"
export NVVMM_TEST_PROFILE=$profile
cd "$NVVMM_ROOT"
need_rust
# A test that can only run with /dev/kvm must not pass by skipping itself where there is one.
[[ $(kvm_kind) == none ]] || export NVVMM_REQUIRE_KVM=1
say "the $profile; KVM here: $(kvm_kind) ($(kvm_reason))"
for name in "${required[@]}"; do
  is_asked_for "$name" || die "tier $name is required but not among those to run (${tiers[*]})"
done
begin_summary
trap clean_up EXIT
trap 'exit 130' INT TERM
start_prefetch
begin_tier build
build_for_tests
end_tier
mapfile -t aside < <(tiers_beside)
for name in "${tiers[@]}"; do
  if [[ " ${aside[*]} " != *" $name "* ]]; then
    run_tier "$name"
  elif [[ -z $beside ]]; then
    run_beside "${aside[@]}"
    # The emulated host takes longest, and needs one processor of its own.
    renice -n 10 -p $$ >/dev/null
  fi
done
end_beside
print_summary build "${tiers[@]}"
