# shellcheck shell=bash
# Talks to nvvmm-witness in a VM, over the VM's console socket (protocol: guest/linux/README.md).

console_of() {
  "$NVVMM_BIN" ps --json | jq -er --arg name "$1" '.[] | select(.vm == $name) | .console' ||
    die "there is no VM $1 with a console"
}

# converse SOCKET SECONDS TAG PATTERN COMMAND...: sends a command and prints the first line that
# matches.
converse() {
  local socket=$1 seconds=$2 tag=$3 pattern=$4 line='' pid status=1
  shift 4
  coproc CONSOLE { exec socat STDIO "UNIX-CONNECT:$socket"; }
  pid=$CONSOLE_PID
  printf '%s %s\n' "$tag" "$*" >&"${CONSOLE[1]}"
  local until=$((SECONDS + seconds))
  while ((SECONDS < until)) && IFS= read -r -t "$seconds" line <&"${CONSOLE[0]}"; do
    line=${line%$'\r'}
    # shellcheck disable=SC2053 # a pattern is meant
    if [[ $line == $pattern ]]; then
      printf '%s\n' "$line"
      status=0
      break
    fi
  done
  kill "$pid" 2>/dev/null || true
  wait "$pid" 2>/dev/null || true
  return "$status"
}

# new_tag: prints a tag that no earlier answer has. A console may repeat earlier output.
new_tag() { echo "#${EPOCHREALTIME//[.,]/}"; }

# ask VM COMMAND...: prints the guest's answer.
ask() {
  local vm=$1 socket tag
  shift
  socket=$(console_of "$vm") || exit 1
  tag=$(new_tag)
  converse "$socket" 180 "$tag" "@ * $tag*" "$@" || die "$vm does not answer: $*"
}

# wait_ready VM: waits until the witness answers. Input may get lost while Linux boots, so it is
# sent again and again.
wait_ready() {
  local socket tag tries
  socket=$(console_of "$1") || exit 1
  for ((tries = 0; tries < 60; tries++)); do
    tag=$(new_tag)
    ! converse "$socket" 5 "$tag" "@ hello ok $tag*" hello >/dev/null || return 0
  done
  die "$1 did not boot in time"
}
