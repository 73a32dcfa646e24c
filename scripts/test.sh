#!/usr/bin/env bash
# Runs nvvmm's tests, tier by tier, and ends with a summary of what ran and what could not.
#
#   scripts/test.sh [--tier TIER]... [--medium MEDIUM]... [--require TIERS] [-- TEST-ARGUMENT...]
#
#   --tier TIER       only this tier (repeatable):
#                       anywhere  formatting, lints, unit and property tests: needs no KVM
#                       kvm       the bare-metal guest on /dev/kvm, with pools on each medium that any host has; without
#                                 /dev/kvm nested, on tmpfs
#                       linux     Linux guests, where KVM boots them; otherwise nested
#   --medium MEDIUM   in the tier kvm only this medium (repeatable; see scripts/on-medium.sh)
#   --require TIERS   all, or tiers with commas: one of these that cannot run is an error, not a skip
#   -- ARGUMENT...    for the test programs of all tiers but anywhere, such as the name of one test
#   -h, --help        this text
#
# "nested" is the harness of scripts/nested.sh: a Linux host with KVM on an emulated CPU.
# NVVMM_FORCE_NESTED=1 makes it used where it is not needed. NVVMM_TEST_TIMEOUT limits one nested run
# (seconds, default 1800). Results of nested runs are kept in $NVVMM_CACHE/results.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$here/lib/kvm.sh"
source "$here/lib/programs.sh"
source "$here/lib/tally.sh"

all_tiers=(anywhere kvm linux)
kvm_media=(tmpfs tmpfs-huge hugetlbfs file)
tiers=() media=() required=() test_arguments=()
summary=() total_passed=0 total_failed=0 total_skipped=0
programs=unbuilt

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
  local all="${kvm_media[*]}"
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
  local medium guest guests=("$NVVMM_ROOT"/guest/{linux,bare-metal,agent}) scripts
  [[ -e ${guests[1]}/Cargo.toml ]] || unset 'guests[1]'
  run_check "formatting" cargo fmt --all --check
  run_check "lints" cargo clippy --workspace --all-targets --quiet -- -D warnings
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

# build_test_program NAME: sets test_program to where it is.
build_test_program() {
  local built
  built=$(cargo test --no-run --quiet -p nvvmm-tests --test "$1" --message-format=json) || return 1
  test_program=$(sed -n 's/.*"executable":"\([^"]*\)".*/\1/p' <<<"$built" | tail -n 1)
  [[ -x $test_program ]]
}

# nested NAME ARGUMENT...: scripts/nested.sh, with results kept under that name.
nested() { "$here/nested.sh" --results "$NVVMM_CACHE/results/$1" --timeout "${NVVMM_TEST_TIMEOUT:-1800}" "${@:2}"; }

# chosen MEDIUM...: those of them that --medium left, one a line.
chosen() {
  local medium
  for medium in "$@"; do
    ((${#media[@]})) && [[ " ${media[*]} " != *" $medium "* ]] || echo "$medium"
  done
}

# Tests run one at a time: each has VMs of its own.
tier_kvm() {
  local medium names kills
  tier_note=$(kvm_reason)
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
    # Random kills are many where they are cheap; elsewhere it is the medium that is new.
    kills=40
    [[ $medium != tmpfs ]] || kills=1000
    NVVMM_TEST_KILLS=${NVVMM_TEST_KILLS:-$kills} run_tests "tests on $medium" \
      "$here/on-medium.sh" "$medium" "$test_program" --test-threads=1 "${test_arguments[@]}"
  done
}

tier_linux() {
  local command=()
  [[ $(kvm_kind) == direct ]] || tier_how=nested command=(nested linux --)
  tier_note=$(kvm_reason)
  prepare "building nvvmm and the guests" need_programs || return 0
  prepare "making the Linux guest's image" make_guest_image || return 0
  prepare "building the test program linux" build_test_program linux || return 0
  run_tests "tests, $tier_how" "${command[@]}" "$test_program" --test-threads=1 "${test_arguments[@]}"
}

parse_arguments "$@"
cd "$NVVMM_ROOT"
need_rust
# A test that can only run with /dev/kvm must not pass by skipping itself where there is one.
[[ $(kvm_kind) == none ]] || export NVVMM_REQUIRE_KVM=1
say "KVM here: $(kvm_kind) ($(kvm_reason))"
for name in "${tiers[@]}"; do
  begin_tier "$name"
  "tier_$name"
  end_tier
done
for name in "${required[@]}"; do
  [[ " ${tiers[*]} " == *" $name "* ]] || die "tier $name is required but not among those to run (${tiers[*]})"
done
print_summary
((total_failed == 0))
