# shellcheck shell=bash
# shellcheck disable=SC2034,SC2154 # variables are shared with scripts/test.sh
# The tiers of scripts/test.sh, which sources this. A tier is a function PROFILE_TIER.

# Programs of the package nvvmm-tests that need no KVM.
tests_without_kvm=(nvvmm_tests tidy scripts)
# The memory of an emulated host with as much persistent memory as on-medium.sh knows devices.
pmem_host=(--memory 4G --pmem 1280M --pmem 1280M --pmem 1280M)
# Exit status of nested.sh for a host that gives no sign of life.
host_stopped=123
# Tests with the bare-metal guest that a medium has a part in: how it maps, frees, grows, survives.
medium_tests=(commands::a_durability commands::snapshot_and_stop counters:: dirty_log::
  fault_points::a_process full_pool:: grow:: instant:: kill:: pool_disks::a_disk_that ring::
  scrub::a_flipped sharing:: tree::)
# The same on an emulated host, for the gate. XFS shares with ext4 all but making room in a file:
# what makes most of it is tested there. Kills are tested on the media of the host itself, and a
# power cut here.
gate_ext4_tests=(commands::a_durability instant::two_vcpus_in_random_order tree::once_consumes)
gate_xfs_tests=(commands::snapshot_and_stop grow::vms_keep)
gate_devdax_tests=(commands::snapshot_and_stop full_pool::a_snapshot_that)
# Tests of the tier kvm that only root can do: they mount, or play other users. All the others are
# run as an ordinary user, too.
root_tests=(full_medium:: host_lacks:: lacks::a_control other_user:: sandbox::a_vm_has
  sandbox::without)
# What makes copy-on-write fast, and can be left out (docs/inside/guest-ram-and-engines.md).
techniques=(arm-ahead copy-hot leave-unarmed leave-again prepare-whole dense-chunks next-chunks
  huge-pages grow-clusters lone-frames rewind-in-place)
# Tests with Linux guests in the gate, on an emulated host: the agent, a process, the guest's life.
gate_linux_tests=(agent::a_restored agent::a_user agent::programs disk::a_disk_copied
  pool_disk::a_file life:: process::a_process_goes_on)
# Tests of pools on persistent memory in the gate: what a medium has a part in.
gate_pool_tests=(blocks:: consuming:: leaks:: promises:: sharing:: stale:: room::a_limit
  moving::a_snapshot_arrives moving_disks::disks_arrive)
# Tests for which kernels differ: captures of processes, frames that move, programs that are not
# made for it, memory in a window, the driver for VMGenID.
newer_kernel_tests=(process::frames_that_move real_programs:: subjects:: window:: identity::
  many_copies::copies_without)

# Tests with Linux guests that take long, and have an emulated host of their own.
long_linux_tests=(clocks:: many_copies:: tls::)

# start_prefetch: fetches packages and kernels beside the builds. Who needs them waits, and reports
# what cannot be had.
start_prefetch() {
  set -m
  (prefetch) >"$summary/prefetch" 2>&1 </dev/null &
  prefetch=$!
  set +m
}

prefetch() {
  can_have_packages shellcheck gdb e2fsprogs passt qemu-utils || true
  is_asked_for nested || is_asked_for linux || is_asked_for restarts || is_asked_for media ||
    is_asked_for pools || return 0
  need_packages ndctl xfsprogs e2fsprogs jq python3-minimal sqlite3 xz-utils openssl
  NVVMM_NESTED_QEMU=${NVVMM_NESTED_QEMU:-10} "$here/nested.sh" --prepare
}

# end_prefetch: sets what_is_missing where something cannot be had.
end_prefetch() {
  local started=$SECONDS
  wait "$prefetch" || what_is_missing="packages or kernels cannot be had"
  prefetch=''
  sed 's/^/  /' "$summary/prefetch" >&2
  keep_step "waiting for packages and kernels" "$((SECONDS - started))"
}

# build_for_tests: builds everything once, in one profile.
build_for_tests() {
  prepare "building nvvmm and its tests" need_tests ||
    { print_summary_of_a_failed_build; exit 1; }
  is_only anywhere || prepare "building guests" need_guests || true
  end_prefetch
}

# is_only TIER
is_only() { [[ ${tiers[*]} == "$1" ]]; }

print_summary_of_a_failed_build() { end_tier; print_summary build || true; }

# need_guests: builds all programs that run in guests; exports NVVMM_BAREMETAL_GUEST.
need_guests() {
  build_bare_metal && build_guests || return 1
  NVVMM_BAREMETAL_GUEST=$(bare_metal_path)
  export NVVMM_BAREMETAL_GUEST
}

# need_release: exports NVVMM_RELEASE_BIN, what users get; in the gate the same, but not optimised.
need_release() {
  local NVVMM_BIN release_profile=release
  [[ $profile != gate ]] || release_profile=release-unoptimised
  build_nvvmm || return 1
  export NVVMM_RELEASE_BIN=$NVVMM_BIN
}

# ---- Tiers of both kinds of run -----------------------------------------------------------------

check_sources() {
  local scripts
  run_check "formatting" cargo fmt --all --check
  run_check "formatting of the bare-metal guest" in_dir guest/bare-metal cargo fmt --check
  run_check "lints" cargo clippy --workspace --all-targets --quiet -- -D warnings
  run_check "lints of the bare-metal guest" in_dir guest/bare-metal \
    cargo clippy --all-targets --quiet -- -D warnings
  mapfile -t scripts < <(find "$here" .ci -type f \( -name '*.sh' -o -name run \) | sort)
  if can_have_packages shellcheck && command -v shellcheck >/dev/null; then
    run_check "shellcheck of ${#scripts[@]} scripts" shellcheck -x "${scripts[@]}"
  else
    leave_out "shellcheck" "there is none here"
  fi
}

# leave_out WHAT WHY: counts one skip, which the summary names.
leave_out() {
  say "SKIPPED $tier: $1: $2"
  tier_skipped=$((tier_skipped + 1)) tier_note+="${tier_note:+, }without $1 ($2)"
}

in_dir() { (cd "$1" && "${@:2}"); }

# Tests of the workspace that need userfaultfd, and those that need all that a VM needs.
userfaultfd_tests=(cow:: process::idle_test:: process::images_test:: pages_written_before_arming)
vm_tests=(stopped::a_file_larger vms::a_taken_vm_name)

# can_use_userfaultfd: as doctor in nvvmm.
can_use_userfaultfd() {
  ((EUID == 0)) || [[ -r /dev/userfaultfd ]] ||
    [[ $(cat /proc/sys/vm/unprivileged_userfaultfd 2>/dev/null) == 1 ]]
}

test_without_kvm() {
  local test_command without=() name
  if ! can_use_userfaultfd; then
    leave_out "the engines of copy-on-write" "no permission for userfaultfd"
    for name in "${userfaultfd_tests[@]}" "${vm_tests[@]}"; do without+=(--skip "$name"); done
  elif [[ $(kvm_kind) == none ]]; then
    for name in "${vm_tests[@]}"; do without+=(--skip "$name"); done
  fi
  if ((EUID == 0)); then
    export NVVMM_REQUIRE_ROOT=1
  else
    leave_out "captures and restarts of processes" "they need root"
  fi
  run_tests "tests without KVM" test_packages "${without[@]}"
  run_tests "examples in docstrings" cargo test --workspace --doc --quiet
  set_test_command documents
  run_tests "commands in documents" "${test_command[@]}" --skip bare_metal:: --skip linux::
  run_tests "tests of the bare-metal guest" in_dir guest/bare-metal cargo test --quiet
}

# chosen MEDIUM...: those of them that --medium left, one a line.
chosen() {
  local medium
  for medium in "$@"; do
    ((${#media[@]})) && [[ " ${media[*]} " != *" $medium "* ]] || echo "$medium"
  done
}

joined() { local IFS=,; echo "$*"; }

as_user=()

# kvm_tests_on MEDIUM NOTE [ARGUMENT...]: tests of the tier kvm with pools on that medium, one at a
# time: each has VMs of its own.
kvm_tests_on() {
  local medium=$1 note=$2 tests=("${test_arguments[@]}") test_command
  ((${#tests[@]})) || tests=("${@:3}")
  set_test_command kvm
  run_tests_on "$medium" "$note" "$here/on-medium.sh" "$medium" "${as_user[@]}" \
    timeout --kill-after=10 "$timeout_s" "${test_command[@]}" --test-threads=1 "${tests[@]}"
}

# kvm_tests_without_root [ARGUMENT...]: the same on tmpfs, as an ordinary user.
kvm_tests_without_root() {
  local as_user=("$here/lib/as-user.sh" --)
  kvm_tests_on tmpfs "as an ordinary user" "$@"
}

# Snapshots moved between all media of any host, at the same time.
kvm_pairs() {
  local test_command
  ((${#media[@]} + ${#test_arguments[@]} == 0)) || return 0
  set_test_command kvm
  NVVMM_HUGE_PAGES=220 run_tests_on "pairs" "snapshots moved from each medium to each other" \
    "$here/on-medium.sh" tmpfs-huge "$here/on-medium.sh" hugetlbfs "$here/on-medium.sh" file \
    "$here/on-medium.sh" tmpfs \
    timeout --kill-after=10 "$timeout_s" "${test_command[@]}" --test-threads=1 between_any_two_media
}

# A snapshot through a server that speaks S3, if one can be had.
kvm_with_s3() {
  local test_command
  ((${#media[@]} + ${#test_arguments[@]} == 0)) || return 0
  if ! "$here/with-s3.sh" --prepare; then
    leave_out "a server that speaks S3" "moto cannot be had"
    return
  fi
  set_test_command kvm
  run_tests "a server that speaks S3" "$here/with-s3.sh" "$here/on-medium.sh" tmpfs \
    timeout --kill-after=10 "$timeout_s" "${test_command[@]}" --test-threads=1 remote::
}

# Blocks of documents with the bare-metal guest, run as they are typed.
kvm_documents() {
  local test_command
  ((${#media[@]} + ${#test_arguments[@]} == 0)) || return 0
  set_test_command documents
  run_tests "blocks of documents" timeout --kill-after=10 "$timeout_s" \
    "${test_command[@]}" --test-threads=1 bare_metal::
}

kvm_without_techniques() {
  ((${#media[@]} == 0)) || return 0
  NVVMM_TEST_WITHOUT=$(joined "${techniques[@]}") NVVMM_BIN=$NVVMM_DEV_BIN \
    kvm_tests_on tmpfs-huge "without what makes copy-on-write fast" "$@"
}

# nested NAME ARGUMENT...: scripts/nested.sh, with results kept under that name.
nested() {
  "$here/nested.sh" --results "$NVVMM_CACHE/results/$1" --timeout "$timeout_s" "${@:2}"
}

# make_guests [VERSION]: images of the Linux guest with that kernel.
make_guests() { make_guest_image "${1:-6.1}" && make_programs_image; }

# ---- The gate -----------------------------------------------------------------------------------

gate_anywhere() {
  check_sources
  test_without_kvm
  prepare "building nvvmm (release)" need_release || true
}

gate_kvm() {
  tier_note=$(kvm_reason)
  if [[ $(kvm_kind) == none ]]; then
    skip_tier "$(kvm_reason)"
    return
  fi
  # A test reads a core with gdb, and leaves itself out where there is none.
  can_have_packages gdb || true
  prepare "building nvvmm (release)" need_release || return 0
  if [[ -z $(chosen tmpfs) ]]; then
    tier_how=- tier_note="pools on tmpfs were not asked for"
    return
  elif ((EUID == 0 && ${#test_arguments[@]} == 0)); then
    kvm_tests_without_root
    kvm_tests_on tmpfs "what needs root" "${root_tests[@]}"
  else
    kvm_tests_on tmpfs ""
  fi
  kvm_without_techniques counters:: instant:: ring:: sharing:: tree::
  kvm_documents
}

gate_media() {
  local medium names
  tier_note=$(kvm_reason)
  mapfile -t names < <(chosen hugetlbfs file)
  if [[ $(kvm_kind) == none ]]; then
    skip_tier "$(kvm_reason)"
    return
  elif ((${#names[@]} == 0)); then
    tier_how=- tier_note="pools on these media were not asked for"
    return
  fi
  prepare "building nvvmm (release)" need_release || return 0
  for medium in "${names[@]}"; do
    kvm_tests_on "$medium" "what the medium has a part in" "${medium_tests[@]}"
  done
  kvm_pairs
}

gate_linux() {
  local test_command
  tier_note=$(kvm_reason)
  if [[ $(kvm_kind) != direct ]]; then
    tier_how=- tier_note+="${tier_note:+; }in the tier nested"
    is_asked_for nested || skip_tier "Linux guests run in the tier nested here"
    return
  fi
  if [[ -n $what_is_missing ]]; then
    skip_tier "$what_is_missing"
    return
  fi
  prepare "making Linux guests" make_guests "$guest" || return 0
  set_test_command linux
  run_tests "tests with Linux guests" timeout --kill-after=10 "$timeout_s" \
    "${test_command[@]}" --test-threads=1 "${test_arguments[@]}"
  ((${#test_arguments[@]} == 0)) || return 0
  set_test_command documents
  run_tests "blocks of documents" timeout --kill-after=10 "$timeout_s" \
    "${test_command[@]}" --test-threads=1 linux::
}

# One emulated host, three boots: scripts/lib/nested-gate.sh.
gate_nested() {
  local steps=(media pools reboot power-cut) disk=$summary/disk why
  tier_how=nested
  if ! why=$(can_nest); then
    skip_tier "$why"
    return
  fi
  if [[ $(kvm_kind) != direct ]] && is_asked_for linux; then
    steps=(linux "${steps[@]}")
  fi
  prepare "making Linux guests" make_guests "$guest" || return 0
  truncate -s 1G "$disk"
  gate_steps "${steps[@]}"
  rm -f "$disk"
}

# can_nest: prints why not.
can_nest() {
  [[ -z $what_is_missing ]] || { echo "$what_is_missing"; return 1; }
  is_debian_like || { echo "the nested harness needs packages of Debian or Ubuntu"; return 1; }
}

# gate_steps STEP...: runs them in the emulated host, and counts each by itself.
gate_steps() {
  local log=$summary/nested.log status=0 started=$SECONDS step seen failed_before=$tier_failed
  local -x NVVMM_NESTED_QEMU=${NVVMM_NESTED_QEMU:-10}
  local -x NVVMM_GATE_PROGRAMS=$test_copies
  local -x NVVMM_GATE_LINUX_TESTS=${test_arguments[*]:-${gate_linux_tests[*]}}
  local -x NVVMM_GATE_EXT4_TESTS=${gate_ext4_tests[*]} NVVMM_GATE_XFS_TESTS=${gate_xfs_tests[*]}
  local -x NVVMM_GATE_DEVDAX_TESTS=${gate_devdax_tests[*]}
  local -x NVVMM_GATE_POOL_TESTS=${gate_pool_tests[*]}
  say "$tier: one emulated host: $*"
  run_gate_host "$log" "$@" || status=$?
  if ((status == host_stopped)); then
    # What runs on a host cannot stop its kernel: it is the emulation that failed. The log above
    # has where the processor was.
    tier_note+="${tier_note:+, }the emulated host stopped, and another one did its work"
    status=0
    rm -f "$disk"
    truncate -s 1G "$disk"
    run_gate_host "$log" "$@" || status=$?
  fi
  mapfile -t seen < <(sed -n "s|^== step \([^ ]*\) begins$|\1|p" "$log" | awk "!seen[\$0]++")
  for step in "${seen[@]}"; do count_step "$step" "$log"; done
  if ((status != 0 && tier_failed == failed_before)); then
    failure_report "the emulated host" "$log" >>"$summary/failures"
    tier_failed=$((tier_failed + 1))
    tier_note+="${tier_note:+, }the emulated host ended with status $status"
  fi
  keep_step "the emulated host, with its boots" "$((SECONDS - started))"
}

# run_gate_host LOG STEP...: boots it, and runs the steps.
run_gate_host() {
  nested gate "${pmem_host[@]}" --disk "$disk" --boots 3 -- \
    "$here/lib/nested-gate.sh" "${@:2}" 2>&1 | tee "$1" | without_quick_tests >&2
}

# count_step STEP LOG: the part of the log that is the step's, in all boots.
count_step() {
  local step=$1 part=$summary/part status seconds
  local passed=$tier_passed failed=$tier_failed skipped=$tier_skipped
  awk -v begin="== step $step begins" -v end="^== step $step ended " '
    $0 == begin {inside = 1} inside {print} $0 ~ end {inside = 0}' "$2" >"$part"
  read -r status seconds < <(awk -v step="$step" '
    $0 == "== step " step " begins" {open = 1}
    $0 ~ "^== step " step " ended " {open = 0; if ($7 > status) status = $7; seconds += $9}
    END {print open ? 125 : status + 0, seconds + 0}' "$part")
  # A power cut ends a step without a word.
  [[ $step != power-cut ]] || ! grep -q '^test result: ok' "$part" || status=0
  count_log "$step" "$part" "$status" "$seconds"
  keep_medium "$step" "" "$((tier_passed - passed))" "$((tier_failed - failed))" \
    "$((tier_skipped - skipped))" "$seconds"
}

# ---- The nightly run ----------------------------------------------------------------------------

nightly_anywhere() {
  local medium test_command
  check_sources
  test_without_kvm
  set_test_command pool
  for medium in tmpfs-huge hugetlbfs file; do
    run_tests "tests of the pool on $medium" pool_tests_on "$medium"
  done
  run_check "formatting of the fuzz targets" in_dir tests/fuzz/targets cargo fmt --check
  run_check "fuzz targets, a fixed number of runs" "$here/fuzz.sh"
  set_test_command documents
  run_tests "installation as in documents" "${test_command[@]}" install:: --ignored
  set_test_command scripts
  run_tests "packages and images that are made" "${test_command[@]}" --test-threads=1 --ignored
  run_check "quickstart as in README, from a clean clone" "$here/quickstart.sh" --share
}

# Few random histories: the medium is what is new here, and a disk takes its time over each commit.
pool_tests_on() {
  local histories=3
  [[ $1 != file ]] || histories=1
  NVVMM_HUGE_PAGES=120 PROPTEST_CASES=$histories "$here/on-medium.sh" "$1" \
    cargo test --quiet -p nvvmm-snapshot --test pool --test processes --test model -- \
    --test-threads=1
}

nightly_kvm() {
  local medium names skipped
  tier_note=$(kvm_reason)
  need_packages gdb
  prepare "building nvvmm (release)" need_release || return 0
  local -x NVVMM_BIN=$NVVMM_RELEASE_BIN
  if [[ $(kvm_kind) == none ]]; then
    tier_how=nested
    local test_command
    set_test_command kvm
    run_tests "tests on tmpfs, nested" nested kvm -- "${test_command[@]}" --test-threads=1 \
      "${test_arguments[@]}"
    return
  fi
  mapfile -t names < <(chosen "${kvm_media[@]}")
  for medium in "${names[@]}"; do
    # Ordinary and huge pages are all that benchmarks tell apart.
    skipped=(--skip bench::)
    [[ $medium != @(tmpfs|hugetlbfs) ]] || skipped=()
    kvm_tests_on "$medium" "" "${skipped[@]}"
  done
  ((EUID != 0 || ${#media[@]} > 0)) || kvm_tests_without_root --skip bench::
  kvm_without_techniques --skip bench::
  kvm_with_s3
  kvm_pairs
  kvm_documents
}

# All tests with one kernel in the guest; then, with a newer one, those for which kernels differ.
nightly_linux() {
  tier_note=$(kvm_reason)
  need_packages gdb openssl iperf3
  prepare "building nvvmm (release)" need_release || return 0
  local -x NVVMM_BIN=$NVVMM_RELEASE_BIN
  [[ $guest == 6.12 ]] || linux_tests 6.1
  case $guest in
    6.12) linux_tests 6.12 ;;
    '')
      linux_tests 6.12 "${newer_kernel_tests[@]}"
      linux_tests newest identity::
      ;;
  esac
  ((${#test_arguments[@]} > 0)) || { linux_on_huge_pages; linux_debian; }
}

# in_linux_host NAME OPTION... -- COMMAND...: runs it where KVM boots Linux.
in_linux_host() {
  local name=$1 options=()
  shift
  while [[ $1 != -- ]]; do options+=("$1"); shift; done
  shift
  if [[ $(kvm_kind) == direct ]]; then
    "$@"
  else
    tier_how=nested
    NVVMM_NESTED_QEMU=${NVVMM_NESTED_QEMU:-10} nested "$name" "${options[@]}" -- "$@"
  fi
}

# A disk that guests read in memory, in a pool that is mapped 2 MiB at a time.
linux_on_huge_pages() {
  local test_command
  prepare "making the Linux guest" make_guests 6.1 || return 0
  set_test_command linux
  run_tests_on hugetlbfs "a disk as memory" in_linux_host linux-hugetlbfs --memory 4G -- \
    "$here/on-medium.sh" hugetlbfs "${test_command[@]}" --test-threads=1 pool_disk::a_disk_in
}

# A whole Debian on a disk of the pool, with fio and sqlite.
linux_debian() {
  local test_command image=$NVVMM_CACHE/debian-test/debian
  mkdir -p "${image%/*}"
  prepare "making an image of Debian" "$here/debian-image.sh" --release bookworm \
    --include fio,sqlite3 --output "$image.img" || return 0
  set_test_command linux
  NVVMM_DEBIAN_IMAGE=$image run_tests "a Debian on a disk" \
    in_linux_host linux-debian --memory 6G -- \
    "${test_command[@]}" --test-threads=1 --ignored debian::
}

# linux_tests VERSION [TEST...]: tests of the command line, else these, else all.
linux_tests() {
  local command=() tests=("${test_arguments[@]}") long=() test_command
  local -x NVVMM_NESTED_QEMU=${NVVMM_NESTED_QEMU:-10}
  ((${#tests[@]})) || tests=("${@:2}")
  if ((${#tests[@]} == 0)); then
    tests=("${long_linux_tests[@]/#/--skip=}") long=("${long_linux_tests[@]}")
  fi
  prepare "making guests with Linux $1" make_guests "$1" || return 0
  set_test_command linux
  if [[ $(kvm_kind) != direct ]]; then
    tier_how=nested command=(nested "linux-$1" --)
  fi
  run_tests "tests with Linux $1" "${command[@]}" "${test_command[@]}" --test-threads=1 \
    "${tests[@]}"
  ((${#long[@]} == 0)) ||
    run_tests "long tests with Linux $1" "${command[@]}" "${test_command[@]}" --test-threads=1 \
      "${long[@]}"
  ((${#test_arguments[@]} == 0)) || return 0
  set_test_command documents
  run_tests "blocks of documents" "${command[@]}" "${test_command[@]}" --test-threads=1 linux::
}

# need_pmem_host: what tiers need that are nested because of persistent memory.
need_pmem_host() {
  tier_how=nested
  need_packages ndctl xfsprogs e2fsprogs jq
  prepare "building nvvmm (release)" need_release
}

# The host is what ends here: VMs come back after its reboot, and what was taken is there after its
# power was cut.
nightly_restarts() {
  local medium names disk=$summary/disk test_command
  need_pmem_host || return 0
  local -x NVVMM_BIN=$NVVMM_RELEASE_BIN
  mapfile -t names < <(chosen "${pmem_media[@]}")
  prepare "making the Linux guest" make_guest_image 6.1 || return 0
  if ((${#names[@]})); then
    set_test_command rejuvenation
    # With QEMU 7.2, whose guests have no consistent XSAVE, the Linux guest crashed now and then.
    NVVMM_NESTED_QEMU=${NVVMM_NESTED_QEMU:-10} run_tests_on rejuvenation "on ${names[*]}" \
      nested rejuvenation "${pmem_host[@]}" --boots 2 -- \
      "$here/on-medium.sh" "$(joined "${names[@]}")" "${test_command[@]}" --nocapture
  fi
  truncate -s 1G "$disk"
  set_test_command power_cut
  # A cut ends all that runs on a host: one for each medium.
  mapfile -t names < <(chosen "${pmem_media[@]}" file)
  for medium in "${names[@]}"; do
    NVVMM_POWER_CUT_BOOT=1 run_tests_on "power cut" "on $medium" \
      nested "power-cut-$medium" "${pmem_host[@]}" --disk "$disk" --boots 2 -- \
      "$here/on-medium.sh" "$medium" "${test_command[@]}" --nocapture
  done
  rm -f "$disk"
}

# Each medium has a host of its own.
nightly_media() {
  local medium names test_command
  need_pmem_host || return 0
  local -x NVVMM_BIN=$NVVMM_RELEASE_BIN
  set_test_command kvm
  mapfile -t names < <(chosen "${pmem_media[@]}")
  for medium in "${names[@]}"; do
    run_tests_on "$medium" "5% of the repetitions" nested "media-$medium" "${pmem_host[@]}" -- \
      "$here/on-medium.sh" "$medium" "${test_command[@]}" --test-threads=1 "${test_arguments[@]}"
  done
}

nightly_pools() {
  local names test_command
  need_pmem_host || return 0
  local -x NVVMM_BIN=$NVVMM_RELEASE_BIN
  mapfile -t names < <(chosen "${pmem_media[@]}")
  ((${#names[@]})) || return 0
  set_test_command pool
  run_tests_on "without VMs" "on ${names[*]}" nested pools "${pmem_host[@]}" -- \
    "$here/on-medium.sh" "$(joined "${names[@]}")" "${test_command[@]}" --test-threads=1
  ((${#names[@]} < ${#pmem_media[@]})) || moves_between_media
}

# All media at the same time; a host without persistent memory tests the pairs of those that it has
# (kvm_pairs).
moves_between_media() {
  local medium disk=$summary/moves-disk all_media=() test_command
  set_test_command kvm
  for medium in "${pmem_media[@]}" "${kvm_media[@]}"; do
    all_media+=("$here/on-medium.sh" "$medium")
  done
  truncate -s 512M "$disk"
  NVVMM_HUGE_PAGES=220 run_tests_on pairs "from persistent memory to each medium and back" \
    nested pairs --memory 4G --pmem 384M --pmem 384M --pmem 384M --disk "$disk" -- \
    "${all_media[@]}" "${test_command[@]}" --test-threads=1 between_any_two_media
  rm -f "$disk"
}
