#!/usr/bin/env bash
# Runs in the emulated host of the gate, once in each of its boots (scripts/lib/test-tiers.sh).
#
#   nested-gate.sh STEP...
#
#   linux      tests with Linux guests, and the documents' commands in them
#   media      tests of the tier kvm with pools on persistent memory
#   pools      tests of pools without VMs on persistent memory
#   reboot     VMs go out in the first boot and come back in the second
#   power-cut  snapshots are taken in the second boot, on all media at once, until the power is cut;
#              the third boot looks for them
#
# Prints a line at the begin and the end of each step. A step that fails does not end the others:
# the last boot ends with status 1 then.
set -euo pipefail
lib=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
on=$lib/../on-medium.sh
failed=$NVVMM_RESULTS/failed
boot=$NVVMM_NESTED_BOOT
# Several times what a step takes: a test that hangs is to be seen.
step_limit_s=1200
((boot > 1)) || rm -f "$failed"

# program NAME: sets test_command to the words that run it.
program() {
  test_command=(/usr/bin/env RUSTC_BOOTSTRAP=1 "$NVVMM_GATE_PROGRAMS/$1"
    -Z unstable-options --report-time)
}

# processes_of_tests: prints the directories in /proc of the test programs and of their VMs.
processes_of_tests() {
  local process
  for process in /proc/[0-9]*; do
    [[ $(readlink "$process/exe") != "$NVVMM_GATE_PROGRAMS"/* ]] || echo "$process"
  done
}

# end_when_late: after the limit, prints where each thread of the tests is, and kills them.
end_when_late() {
  local process thread
  sleep "$step_limit_s" >/dev/null 2>&1
  echo "== the step takes more than $step_limit_s s; its threads:"
  for process in $(processes_of_tests); do
    echo "$process: $(tr '\0' ' ' <"$process/cmdline")"
    for thread in "$process"/task/*; do
      echo "  $(cat "$thread/comm" "$thread/wchan" 2>&1 | tr '\n' ' ')"
      sed 's/^/    /' "$thread/stack" || true
    done
  done
  for process in $(processes_of_tests); do kill -KILL "${process##*/}" || true; done
}

# step NAME COMMAND...
step() {
  local name=$1 status=0 started=$SECONDS watch
  shift
  echo "== step $name begins"
  end_when_late &
  watch=$!
  "$@" || status=$?
  kill "$watch" 2>/dev/null || true
  echo "== step $name ended with status $status after $((SECONDS - started)) s"
  ((status == 0)) || echo "$name" >>"$failed"
}

linux_step() {
  local tests
  program linux
  read -ra tests <<<"$NVVMM_GATE_LINUX_TESTS"
  "${test_command[@]}" --test-threads=1 "${tests[@]}"
}

documents_step() {
  program documents
  "${test_command[@]}" --test-threads=1 linux::
}

# media_step MEDIUM TEST...
media_step() {
  program kvm
  "$on" "$1" "${test_command[@]}" --test-threads=1 "${@:2}"
}

media_steps() {
  local tests
  read -ra tests <<<"$NVVMM_GATE_EXT4_TESTS"
  step fsdax-ext4 media_step fsdax-ext4 "${tests[@]}"
  read -ra tests <<<"$NVVMM_GATE_XFS_TESTS"
  step fsdax-xfs media_step fsdax-xfs "${tests[@]}"
  read -ra tests <<<"$NVVMM_GATE_DEVDAX_TESTS"
  step devdax media_step devdax "${tests[@]}"
}

pools_step() {
  local tests
  program pool
  read -ra tests <<<"$NVVMM_GATE_POOL_TESTS"
  "$on" fsdax-ext4,devdax "${test_command[@]}" --test-threads=1 "${tests[@]}"
}

reboot_step() {
  program rejuvenation
  "$on" fsdax-ext4 "${test_command[@]}" --nocapture
}

power_cut_step() {
  program power_cut
  # The first boot ends with a reboot in order.
  export NVVMM_POWER_CUT_BOOT=2
  "$on" fsdax-ext4 "$on" fsdax-xfs "$on" devdax "$on" file "${test_command[@]}" --nocapture
}

# prepare_media: makes those file systems that no step has made, for the boots that follow.
prepare_media() { "$on" fsdax-xfs,devdax,file true; }

for name in "$@"; do
  case $boot,$name in
    1,linux)
      step linux linux_step
      step documents documents_step
      ;;
    1,media) media_steps ;;
    1,pools) step pools pools_step ;;
    1,reboot) step reboot reboot_step ;;
    1,power-cut) prepare_media ;;
    2,reboot) step reboot reboot_step ;;
    [23],power-cut) step power-cut power_cut_step ;;
    [23],*) ;;
    *) echo "no step $name"; exit 2 ;;
  esac
done
((boot < 3)) || [[ ! -e $failed ]]
