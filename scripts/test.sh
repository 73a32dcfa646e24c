#!/usr/bin/env bash
# Runs nvvmm's tests, tier by tier, and ends with a summary of what ran and what could not.
#
#   scripts/test.sh [--tier TIER]... [--medium MEDIUM]... [--require TIERS] [-- TEST-ARGUMENT...]
#
#   --tier TIER       only this tier (repeatable):
#                       anywhere  formatting, lints, unit and property tests: needs no KVM
#                       kvm       the bare-metal guest on /dev/kvm, with pools on each medium that any host has, on tmpfs with
#                                 huge pages without the techniques that make copy-on-write fast (NVVMM_TEST_WITHOUT; with
#                                 them, too, with NVVMM_TEST_WHOLE=1); without /dev/kvm nested, on tmpfs
#                       linux     Linux guests, where KVM boots them; otherwise nested, and then less (NVVMM_TEST_WHOLE=1: all)
#                       restarts  VMs whose host is rebooted, and snapshots whose host loses its power: always nested
#                       media     the bare-metal guest on persistent memory: always nested, where that is emulated
#                       pools     pools without VMs on persistent memory, and snapshots moved between that and each other medium:
#                                 always nested
#   --medium MEDIUM   in the tiers kvm, restarts, media and pools only this medium (repeatable; see scripts/on-medium.sh)
#   --require TIERS   all, or tiers with commas: one of these that cannot run is an error, not a skip
#   -- ARGUMENT...    for the test programs of the tiers kvm, linux and media, such as the name of one test
#   -h, --help        this text
#
# "nested" is the harness of scripts/nested.sh: a Linux host with KVM on an emulated CPU.
# NVVMM_FORCE_NESTED=1 makes it used where it is not needed. NVVMM_TEST_TIMEOUT limits one nested run
# and the tier kvm on one medium (seconds, default 2700). The tier linux runs all its tests in guests with Linux 6.1, and
# some with 6.12 (of bookworm-backports); NVVMM_TEST_GUEST=6.1 or 6.12: all, with that kernel only. Nested they take QEMU 10, as older ones
# give guests no AVX; NVVMM_NESTED_QEMU=installed goes without. Results of nested runs are kept in $NVVMM_CACHE/results.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$here/lib/kvm.sh"
source "$here/lib/kernel.sh"
source "$here/lib/programs.sh"
source "$here/lib/guest-programs.sh"
source "$here/lib/room.sh"
source "$here/lib/tally.sh"

# In the order in which they begin.
all_tiers=(linux restarts pools anywhere kvm media)
# The media of each tier.
kvm_media=(tmpfs tmpfs-huge hugetlbfs file)
pmem_media=(fsdax-ext4 fsdax-xfs devdax)
# Their hosts, with as much of it as on-medium.sh knows devices.
pmem_host=(--memory 4G --pmem 1280M --pmem 1280M --pmem 1280M)
# What runs on persistent memory, where an emulated processor takes its time: what the medium has a part in, and of what
# tests repeat this many per cent. NVVMM_TEST_WHOLE=1 makes it all tests.
# XFS shares with ext4 all but what makes room in a file, and a device all but that it is none.
nested_percent=5
pmem_tests=(commands::a_durability commands::snapshot_and_stop dirty_log:: fault_points:: full_pool::a_snapshot_that grow::
  instant::a_snapshot_of instant::two_vcpus_in_random_order kill:: scrub::a_flipped tree::once_consumes
  tree::a_snapshot_that)
xfs_tests=(commands::snapshot_and_stop full_pool::a_snapshot_that grow:: tree::once_consumes)
devdax_tests=(commands::snapshot_and_stop fault_points:: full_pool::a_snapshot_that grow:: instant::two_vcpus_in_random_order kill::
  tree::once_consumes)
# Of tests with Linux guests those for which kernels differ: what is captured of processes, frames that move, programs that know of nothing,
# memory that is shown in a window.
newer_kernel_tests=(process::frames_that_move real_programs:: subjects:: window::)
tiers=() media=() required=() test_arguments=()
programs=unbuilt beside='' timeout_s=${NVVMM_TEST_TIMEOUT:-2700}

parse_arguments() {
  while (($#)); do
    case $1 in
      --tier) need_tier "${2:?--tier needs a name}"; tiers+=("$2"); shift ;;
      --medium) need_medium "${2:?--medium needs a name}"; media+=("$2"); shift ;;
      --require) read_required "${2:?--require needs tiers}"; shift ;;
      -h | --help) usage; exit 0 ;;
      --) shift; test_arguments=("$@"); break ;;
      *) die "unknown argument $1" "see ${0##*/} --help" ;;
    esac
    shift
  done
  ((${#tiers[@]})) || tiers=("${all_tiers[@]}")
}

need_tier() {
  [[ " ${all_tiers[*]} " == *" $1 "* ]] || die "unknown tier $1" "the tiers are: ${all_tiers[*]}"
}

need_medium() {
  local all="${kvm_media[*]} ${pmem_media[*]}"
  [[ " $all " == *" $1 "* ]] || die "no tier tests the medium $1" "the media are: $all"
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

in_dir() { (cd "$1" && "${@:2}"); }

# Few random histories: the medium is what is new here, and a disk takes its time over each commit.
pool_tests_on() {
  local histories=3
  [[ $1 != file ]] || histories=1
  NVVMM_HUGE_PAGES=120 PROPTEST_CASES=$histories "$here/on-medium.sh" "$1" \
    cargo test --quiet -p nvvmm-snapshot --test pool --test processes --test model -- --test-threads=1
}

tier_anywhere() {
  local medium guest guests=("$NVVMM_ROOT"/guest/{linux,bare-metal,agent,process}) scripts
  [[ -e ${guests[1]}/Cargo.toml ]] || unset 'guests[1]'
  run_check "formatting" cargo fmt --all --check
  run_check "lints" cargo clippy --workspace --all-targets --quiet -- -D warnings
  if ((EUID == 0)); then
    export NVVMM_REQUIRE_ROOT=1
  else
    say "SKIPPED $tier: captures and restarts of processes (guest/process) need root"
    tier_skipped=$((tier_skipped + 1)) tier_note+="${tier_note:+, }guest/process not as root"
  fi
  for guest in "${guests[@]}"; do
    run_check "formatting of guest/${guest##*/}" in_dir "$guest" cargo fmt --check
    run_check "lints of guest/${guest##*/}" in_dir "$guest" cargo clippy --all-targets --quiet -- -D warnings
    run_tests "tests of guest/${guest##*/}" in_dir "$guest" cargo test --quiet
  done
  # What nvvmm-tests holds needs a KVM: the other tiers.
  run_tests "tests of the workspace" cargo test --workspace --exclude nvvmm-tests --quiet
  for medium in tmpfs-huge hugetlbfs file; do
    run_tests "tests of the pool on $medium" pool_tests_on "$medium"
  done
  run_check "formatting of tests/fuzz" in_dir "$NVVMM_ROOT/tests/fuzz" cargo fmt --check
  # The same target directory, so that only what is different is looked at again.
  run_check "lints of tests/fuzz" env CARGO_TARGET_DIR="$(cargo_target_dir "$NVVMM_ROOT")" \
    cargo clippy --manifest-path "$NVVMM_ROOT/tests/fuzz/Cargo.toml" --all-targets --quiet -- -D warnings
  run_check "fuzz targets, a fixed number of runs" "$here/fuzz.sh"
  need_packages shellcheck
  mapfile -t scripts < <(find "$here" "$NVVMM_ROOT/.ci" -type f \( -name '*.sh' -o -name run \) | sort)
  run_check "shellcheck of ${#scripts[@]} scripts" shellcheck -x "${scripts[@]}"
}

# Builds nvvmm and the bare-metal guest, once; exports where they are.
need_programs() {
  [[ $programs == unbuilt ]] || { [[ $programs == built ]]; return; }
  programs=broken
  need_packages e2fsprogs
  build_nvvmm || return 1
  build_bare_metal || return 1
  NVVMM_BAREMETAL_GUEST=$(bare_metal_path)
  export NVVMM_BAREMETAL_GUEST
  programs=built
}

# build_test_program NAME [PACKAGE]: sets test_program to where it is.
build_test_program() {
  local built
  built=$(cargo test --no-run --quiet -p "${2:-nvvmm-tests}" --test "$1" --message-format=json) || return 1
  test_program=$(sed -n 's/.*"executable":"\([^"]*\)".*/\1/p' <<<"$built" | tail -n 1)
  [[ -x $test_program ]]
}

# nested NAME ARGUMENT...: scripts/nested.sh, with results kept under that name.
nested() { "$here/nested.sh" --results "$NVVMM_CACHE/results/$1" --timeout "$timeout_s" "${@:2}"; }

# chosen MEDIUM...: those of them that --medium left, one a line.
chosen() {
  local medium
  for medium in "$@"; do
    ((${#media[@]})) && [[ " ${media[*]} " != *" $medium "* ]] || echo "$medium"
  done
}

joined() { local IFS=,; echo "$*"; }

# Tests run one at a time: each has VMs of its own.
tier_kvm() {
  local medium names kills skipped
  tier_note=$(kvm_reason)
  # Reads a core.
  need_packages gdb
  prepare "building nvvmm and the bare-metal guest" need_programs || return 0
  prepare "building nvvmm with fault points" build_fault_nvvmm || return 0
  prepare "building the test program kvm" build_test_program kvm || return 0
  if [[ $(kvm_kind) == none ]]; then
    tier_how=nested
    run_tests "tests on tmpfs, nested" nested kvm -- "$test_program" --test-threads=1 "${test_arguments[@]}"
    return
  fi
  mapfile -t names < <(chosen "${kvm_media[@]}")
  for medium in "${names[@]}"; do
    # It is the medium of the run without what makes copy-on-write fast.
    [[ $medium != tmpfs-huge ]] || ((${#media[@]})) || [[ ${NVVMM_TEST_WHOLE:-0} == 1 ]] || continue
    # Random kills are many where they are cheap; elsewhere it is the medium that is new.
    kills=40
    [[ $medium != tmpfs ]] || kills=1000
    # Ordinary and huge pages are all that benchmarks tell apart.
    skipped=(--skip bench::)
    [[ $medium != @(tmpfs|hugetlbfs) ]] || skipped=()
    NVVMM_TEST_KILLS=${NVVMM_TEST_KILLS:-$kills} run_tests_on "$medium" "" \
      "$here/on-medium.sh" "$medium" timeout --kill-after=10 "$timeout_s" \
      "$test_program" --test-threads=1 --show-output "${skipped[@]}" "${test_arguments[@]}"
  done
  # What makes copy-on-write fast may not be what makes it right.
  ((${#media[@]})) || NVVMM_TEST_WITHOUT=arm-ahead,copy-hot,grow-clusters,lone-frames NVVMM_TEST_KILLS=${NVVMM_TEST_KILLS:-40} \
    run_tests_on tmpfs-huge "without what makes it fast" \
    "$here/on-medium.sh" tmpfs-huge timeout --kill-after=10 "$timeout_s" \
    "$test_program" --test-threads=1 --show-output --skip bench:: "${test_arguments[@]}"
  # All media at the same time.
  ((${#media[@]} + ${#test_arguments[@]})) || NVVMM_HUGE_PAGES=220 run_tests_on "pairs" "snapshots moved from each medium to each other" \
    "$here/on-medium.sh" tmpfs-huge "$here/on-medium.sh" hugetlbfs "$here/on-medium.sh" file "$here/on-medium.sh" tmpfs \
    timeout --kill-after=10 "$timeout_s" "$test_program" --test-threads=1 --show-output between_any_two_media
}

# All tests with one kernel in the guest; then, with a newer one, those that rest on how a kernel keeps processes.
tier_linux() {
  [[ $(kvm_kind) == direct ]] || tier_how=nested
  tier_note=$(kvm_reason)
  # Reads a core.
  need_packages gdb
  prepare "building nvvmm and the guests" need_programs || return 0
  prepare "building the test program linux" build_test_program linux || return 0
  local unlike=()
  # Programs that compute take their time on an emulated processor, and are run with the newer kernel; what is done with two vCPUs
  # is not done with one, too.
  [[ $tier_how == direct || ${NVVMM_TEST_WHOLE:-0} == 1 ]] || ((${#test_arguments[@]})) ||
    unlike=(--skip real_programs:: --skip memory::one_vcpu)
  linux_tests "${unlike[@]}"
  [[ -n ${NVVMM_TEST_GUEST:-} ]] || NVVMM_TEST_GUEST=6.12 linux_tests "${newer_kernel_tests[@]}"
}

# linux_tests [TEST...]: those that were asked for on the command line, else these, else all.
linux_tests() {
  local guest=${NVVMM_TEST_GUEST:-} command=() tests=("${test_arguments[@]}")
  local -x NVVMM_NESTED_QEMU=${NVVMM_NESTED_QEMU:-10}
  ((${#tests[@]})) || tests=("$@")
  prepare "making the guest's image${guest:+ with Linux $guest}" make_guest_image || return 0
  prepare "making an image with programs to capture" make_programs_image || return 0
  [[ $tier_how != nested ]] || command=(nested "linux${guest:+-$guest}" --)
  run_tests "tests${guest:+ with Linux $guest}, $tier_how" "${command[@]}" "$test_program" --test-threads=1 "${tests[@]}"
}

# What the tiers need that are nested because of persistent memory.
need_pmem_programs() {
  tier_how=nested
  need_packages ndctl xfsprogs e2fsprogs jq
  prepare "building nvvmm and the bare-metal guest" need_programs
}

# The host is what ends here: VMs come back after its reboot, and what was taken is there after its power was cut.
tier_restarts() {
  local medium names disk=$summary/disk
  need_pmem_programs || return 0
  mapfile -t names < <(chosen "${pmem_media[@]}")
  # On XFS files are mapped as on ext4.
  ((${#media[@]})) || [[ ${NVVMM_TEST_WHOLE:-0} == 1 ]] || names=(fsdax-ext4 devdax)
  if ((${#names[@]})); then
    prepare "making the Linux guest's image" make_guest_image || return 0
    prepare "building the test program rejuvenation" build_test_program rejuvenation || return 0
    # With QEMU 7.2, whose guests have no consistent XSAVE, the Linux guest crashed now and then, and was not seen to with 10:
    # in its kernel, in a program, or it hung, with memory that the audit had found right.
    NVVMM_NESTED_QEMU=${NVVMM_NESTED_QEMU:-10} run_tests_on rejuvenation "on ${names[*]}" nested rejuvenation "${pmem_host[@]}" --boots 2 -- \
      "$here/on-medium.sh" "$(joined "${names[@]}")" "$test_program" --nocapture
  fi
  prepare "building the test program power_cut" build_test_program power_cut || return 0
  truncate -s 1G "$disk"
  # A cut ends all that runs on a host: one for each medium.
  mapfile -t names < <(chosen "${pmem_media[@]}" file)
  for medium in "${names[@]}"; do
    run_tests_on "power cut" "on $medium" nested "power-cut-$medium" "${pmem_host[@]}" --disk "$disk" --boots 2 -- \
      "$here/on-medium.sh" "$medium" "$test_program" --nocapture
  done
  rm -f "$disk"
}

# Each medium has a host of its own.
tier_media() {
  local medium names note tests kills=10
  need_pmem_programs || return 0
  prepare "building nvvmm with fault points" build_fault_nvvmm || return 0
  prepare "building the test program kvm" build_test_program kvm || return 0
  export NVVMM_TEST_PERCENT=${NVVMM_TEST_PERCENT:-$nested_percent}
  note="$NVVMM_TEST_PERCENT% of the repetitions"
  if [[ ${NVVMM_TEST_WHOLE:-0} == 1 ]]; then
    pmem_tests=()
  else
    kills=6
    tier_note="NVVMM_TEST_WHOLE=1 runs all tests"
  fi
  mapfile -t names < <(chosen "${pmem_media[@]}")
  for medium in "${names[@]}"; do
    tests=("${pmem_tests[@]}")
    case ${#tests[@]},$medium in
      0,*) ;;
      *,fsdax-xfs) tests=("${xfs_tests[@]}") ;;
      # After each kill the pool is checked, which reads all of a device.
      *,devdax) tests=("${devdax_tests[@]}") kills=3 ;;
    esac
    ((${#test_arguments[@]} == 0)) || tests=("${test_arguments[@]}")
    NVVMM_TEST_KILLS=${NVVMM_TEST_KILLS:-$kills} run_tests_on "$medium" "$note" nested "media-$medium" "${pmem_host[@]}" -- \
      "$here/on-medium.sh" "$medium" "$test_program" --test-threads=1 --show-output "${tests[@]}"
  done
}

tier_pools() {
  local names
  need_pmem_programs || return 0
  mapfile -t names < <(chosen "${pmem_media[@]}")
  ((${#names[@]})) || return 0
  prepare "building the pool's test program" build_test_program pool nvvmm-snapshot || return 0
  run_tests_on "without VMs" "on ${names[*]}" nested pools "${pmem_host[@]}" -- \
    "$here/on-medium.sh" "$(joined "${names[@]}")" "$test_program" --test-threads=1 --show-output
  ((${#names[@]} < ${#pmem_media[@]})) || moves_between_media
}

# All media at the same time; a host without persistent memory tests the pairs of those that it has (tier kvm).
moves_between_media() {
  local medium disk=$summary/moves-disk all_media=()
  prepare "building the test program kvm" build_test_program kvm || return 0
  for medium in "${pmem_media[@]}" "${kvm_media[@]}"; do all_media+=("$here/on-medium.sh" "$medium"); done
  truncate -s 512M "$disk"
  NVVMM_HUGE_PAGES=220 run_tests_on pairs "snapshots moved from persistent memory to each medium and back" \
    nested pairs --memory 4G --pmem 384M --pmem 384M --pmem 384M --disk "$disk" -- \
    "${all_media[@]}" "$test_program" --test-threads=1 --show-output between_any_two_media
  rm -f "$disk"
}

run_tier() {
  begin_tier "$1"
  "tier_$1"
  end_tier
}

# Those of the tiers that run beside the others, one after another: a nested host keeps one processor busy, and most tests of the others one.
beside_others() {
  local name emulated=(linux restarts pools)
  [[ " ${tiers[*]} " == *@(' anywhere '|' kvm '|' media ')* ]] || return 0
  for name in "${tiers[@]}"; do [[ " ${emulated[*]} " != *" $name "* ]] || echo "$name"; done
}

# run_beside TIER...: beside those that follow. In a process group of its own, to be ended as a whole; what it says is
# shown by end_beside.
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
  rm -rf "$summary"
}

parse_arguments "$@"
cd "$NVVMM_ROOT"
need_rust
# A test that can only run with /dev/kvm must not pass by skipping itself where there is one.
[[ $(kvm_kind) == none ]] || export NVVMM_REQUIRE_KVM=1
say "KVM here: $(kvm_kind) ($(kvm_reason))"
for name in "${required[@]}"; do
  [[ " ${tiers[*]} " == *" $name "* ]] || die "tier $name is required but not among those to run (${tiers[*]})"
done
begin_summary
trap clean_up EXIT
trap 'exit 130' INT TERM
mapfile -t aside < <(beside_others)
for name in "${tiers[@]}"; do
  if [[ " ${aside[*]} " != *" $name "* ]]; then
    run_tier "$name"
  elif [[ -z $beside ]]; then
    run_beside "${aside[@]}"
  fi
done
end_beside
print_summary "${tiers[@]}"
