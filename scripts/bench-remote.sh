#!/usr/bin/env bash
# Measures pushes to an object store and lazy restores from it, beside a plain PUT of the guest's
# memory, compressed with zstd. The store is a server of the tests that speaks S3 on this machine,
# with or without a delay of 20 ms before each answer. The guest is the bare-metal one.
#
#   scripts/bench-remote.sh [--memory MIB] [--set MIB] [--listed N] [--repeat N] [--json]
#
#   --memory MIB   memory that the guest has filled (default 512)
#   --set MIB      working set: memory that the guest touches after a lazy restore (default 64)
#   --listed N     snapshots of the store that is listed (default 1000)
#   --repeat N     measurements of each kind (default 3)
#   --json         prints all measurements
#   -h, --help     this text
#
# It takes some ten minutes, most of them for the snapshots of the store that is listed. It installs
# socat, jq, zstd and curl where they are missing.

# Variables in single quotes are those of jq.
# shellcheck disable=SC2016
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$here/lib/kvm.sh"
source "$here/lib/programs.sh"

memory=512 set=64 listed=1000 repeat=3 format=table delay=20
while (($#)); do
  case $1 in
    --memory) memory=${2:?--memory needs a number of MiB}; shift ;;
    --set) set=${2:?--set needs a number of MiB}; shift ;;
    --listed) listed=${2:?--listed needs a number}; shift ;;
    --repeat) repeat=${2:?--repeat needs a number}; shift ;;
    --json) format=json ;;
    -h | --help) usage; exit 0 ;;
    *) die "unknown argument $1" "see ${0##*/} --help" ;;
  esac
  shift
done
for number in "$memory" "$set" "$listed" "$repeat"; do
  [[ $number =~ ^[0-9]+$ ]] || die "'$number' is no number"
done
[[ $(kvm_kind) != none ]] || die "this needs /dev/kvm: $(kvm_reason)"

need_rust
need_packages socat jq zstd curl
build_nvvmm
build_bare_metal
say "building the server of the tests"
(cd "$NVVMM_ROOT" && cargo build --release --quiet -p nvvmm-tests --bin faulty-server)
bare_metal=$(bare_metal_path)
server_program=$(cargo_target_dir "$NVVMM_ROOT")/release/faulty-server

place=$(mktemp -d /dev/shm/nvvmm-remote.XXXXXX)
export NVVMM_RUNTIME_DIR=$place/run
export AWS_ALLOW_HTTP=true AWS_REGION=us-east-1 AWS_ACCESS_KEY_ID=test AWS_SECRET_ACCESS_KEY=test

# shellcheck disable=SC2317 # the trap calls it
clean_up() {
  jobs -p | xargs -r kill 2>/dev/null || true
  "$NVVMM_BIN" stop --all --force >/dev/null 2>&1 || true
  rm -rf "$place"
}
trap clean_up EXIT

now_us() { echo "${EPOCHREALTIME//[.,]/}"; }

# serve DELAY: starts the server on the stores; the one before ends.
serve() {
  local line=''
  stop_serving
  coproc SERVER { exec "$server_program" "$place/stores" "$1" 2>/dev/null; }
  while [[ $line != http* ]]; do IFS= read -r -t 10 line <&"${SERVER[0]}"; done
  export AWS_ENDPOINT_URL=$line
}

stop_serving() {
  [[ -n ${SERVER_PID:-} ]] || return 0
  local pid=$SERVER_PID
  kill "$pid"
  wait "$pid" 2>/dev/null || true
}

# counts: bytes sent and received by the server, and requests, so far.
counts() {
  local line
  echo >&"${SERVER[1]}"
  IFS= read -r -t 10 line <&"${SERVER[0]}"
  echo "$line"
}

# new_pool: commands use a new pool from now on.
new_pool() {
  rm -f "$place"/pool-*
  export NVVMM_POOL=$place/pool-$RANDOM$RANDOM
  "$NVVMM_BIN" pool create "$NVVMM_POOL" --size "$((memory * 3 + 128))M" >/dev/null
}

# ask VM COMMAND...: has the guest carry out a command, and prints its answer.
ask() {
  local vm=$1 line='' pid
  shift
  # bash warns of two at once, and can have them.
  { coproc CONSOLE { exec socat STDIO "UNIX-CONNECT:$place/run/$vm.console"; }; } 2>/dev/null
  pid=$CONSOLE_PID
  printf '%s\n' "$*" >&"${CONSOLE[1]}"
  while IFS= read -r -t 120 line <&"${CONSOLE[0]}"; do
    [[ $line != "@ $1 "* ]] || break
  done
  kill "$pid" 2>/dev/null || true
  wait "$pid" 2>/dev/null || true
  [[ $line == "@ $1 "* ]] || die "the guest does not answer: $*"
  printf '%s\n' "${line%$'\r'}"
}

boot() {
  "$NVVMM_BIN" run --kernel "$bare_metal" --memory "$((memory + 16))M" --cpus 1 --name "$1" \
    --detach >/dev/null
  ask "$1" fill "$memory" "$2" >/dev/null
}

# timed COMMAND...: prints how long it took, in us.
timed() {
  local began
  began=$(now_us)
  "$@" >/dev/null
  echo $(($(now_us) - began))
}

# The compressed file has to have its length before it is put.
put_compressed() {
  zstd -q -3 -f "$place/memory" -o "$place/memory.zst"
  curl -fsS -o /dev/null -T "$place/memory.zst" "$AWS_ENDPOINT_URL/b/plain"
}

note() { jq -cn "$@" >>"$place/notes"; }

first_push() {
  local number push put
  "$NVVMM_BIN" export one --core "$place/memory" >/dev/null
  for ((number = 1; number <= repeat; number++)); do
    push=$(timed "$NVVMM_BIN" push one "s3://b/first-$number" 2>/dev/null)
    put=$(timed put_compressed)
    note --argjson push "$push" --argjson put "$put" \
      --argjson bytes "$(du -bs "$place/stores/first-$number" | cut -f1)" \
      --argjson put_bytes "$(stat -c %s "$place/memory.zst")" \
      '{kind: "first push", push_us: $push, put_us: $put, push_bytes: $bytes,
        put_bytes: $put_bytes}'
    rm -rf "$place/stores/first-$number"
  done
  rm -f "$place/memory" "$place/memory.zst"
}

# later_push KIND WRITES: the n-th push of a replication, after a command of the guest.
later_push() {
  local kind=$1 lines=$place/lines line replica seen=0
  shift
  : >"$lines"
  "$NVVMM_BIN" replicate v s3://b/later --every 2s --json --replace >"$lines" 2>/dev/null &
  replica=$!
  for ((number = 0; number <= repeat; number++)); do
    while line=$(grep '"pushed":{' "$lines" | sed -n "$((seen + 1))p"); [[ -z $line ]]; do
      sleep 0.05
    done
    seen=$(grep -c '"pushed":{' "$lines")
    ask v "$@" >/dev/null
    while line=$(grep '"pushed":{' "$lines" | sed -n "$((seen + 1))p"); [[ -z $line ]]; do
      sleep 0.05
    done
    ((number == 0)) || note --arg kind "$kind" --argjson line "$line" \
      '{kind: "later push", of: $kind} + $line.pushed'
    seen=$((seen + 1))
  done
  kill "$replica"
  wait "$replica" || true
}

# lazy KIND PREFETCH: a restore from afar, and the time until the working set was touched.
lazy() {
  local restored touched before=() after=() options=(--prefetch "$2")
  new_pool
  read -r -a before < <(counts)
  restored=$(timed "$NVVMM_BIN" restore s3://b/base/one --name l --detach "${options[@]}" \
    2>/dev/null)
  read -r -a after < <(counts)
  touched=$(timed ask l touch "$set" read)
  note --arg kind "$1" --argjson restored "$restored" --argjson touched "$touched" \
    --argjson bytes "$((after[0] - before[0]))" --argjson requests "$((after[2] - before[2]))" \
    --argjson all "$(du -bs "$place/stores/base" | cut -f1)" \
    '{kind: "lazy", of: $kind, restored_us: $restored, touched_us: $touched,
      fetched_bytes: $bytes, requests_count: $requests, store_bytes: $all}'
  if [[ $1 == records ]]; then
    # All arrives, and the record is written 5 s after the beginning.
    "$NVVMM_BIN" snapshot l all >/dev/null
    sleep 6
  fi
  "$NVVMM_BIN" stop l --force >/dev/null
  # The process that fetches ends.
  sleep 1
}

mkdir -p "$place/stores"
serve 0
new_pool
say "the guest fills $memory MiB"
boot v 7
"$NVVMM_BIN" snapshot v one >/dev/null
say "first pushes"
first_push
"$NVVMM_BIN" push one s3://b/base >/dev/null 2>&1
say "later pushes"
later_push "5 MiB in a row" write 0 1280
later_push "1% here and there" write 0 "$((memory * 256 / 100))" 100
"$NVVMM_BIN" stop v >/dev/null

say "a second guest of the same content"
boot w 7
ask w write 0 1280 >/dev/null
"$NVVMM_BIN" snapshot w two >/dev/null
note --argjson push "$("$NVVMM_BIN" push two s3://b/base --json 2>/dev/null)" \
  '{kind: "second guest"} + ($push | {pieces_count, new_pieces_count})'
"$NVVMM_BIN" stop w >/dev/null

say "lazy restores from $delay ms away"
serve "$delay"
for ((number = 1; number <= repeat; number++)); do
  rm -rf "$place/stores/base/touches"
  lazy "without a record" none
  lazy "without a record, all prefetched" all
  rm -rf "$place/stores/base/touches"
  lazy records none
  lazy "with a record" recorded
done

say "$listed snapshots"
serve 0
memory=8
new_pool
boot v 7
"$NVVMM_BIN" replicate v s3://b/many --every 0 --keep 1000 >/dev/null 2>&1 &
replica=$!
until (($("$NVVMM_BIN" ps --json | jq -r '.[0].replica.newest_replica // "0-0"
  | split("-")[1] | tonumber') + 1 >= listed)); do sleep 0.5; done
kill "$replica"
wait "$replica" || true
for ((number = 1; number <= repeat; number++)); do
  for wait in 0 "$delay"; do
    serve "$wait"
    note --argjson took "$(timed "$NVVMM_BIN" remote ls s3://b/many)" --argjson delay "$wait" \
      --argjson count "$("$NVVMM_BIN" remote ls s3://b/many -q | wc -l)" \
      '{kind: "list", delay_ms: $delay, took_us: $took, count: $count}'
  done
done

if [[ $format == json ]]; then
  jq -s . "$place/notes"
  exit
fi
jq -rs '
  def median: sort | .[length / 2 | floor];
  def all(kind): map(select(.kind == kind));
  def ms: . / 1000 | round | "\(.) ms";
  def mib: . / 1048576 * 100 | round / 100 | "\(.) MiB";
  def ratio: . * 100 | round / 100 | tostring;
  def groups: group_by(.of)[];
  (all("first push")
   | "first push: \(map(.push_us) | median | ms), \(map(.push_bytes) | median | mib)",
     "  zstd and PUT beside it: \(map(.put_us) | median | ms), \(map(.put_bytes) | median | mib)",
     "  ratio: \(map(.push_us / .put_us) | median | ratio)x"),
  (all("later push") | groups
   | "push after \(.[0].of): \(map(.sent_bytes) | median | mib) sent, \(
      map(.new_content_bytes) | median | mib) in new pieces, \(
      map(.read_bytes) | median | mib) read, \(map(.requests_count) | median) requests"),
  (all("second guest")[]
   | "second guest of the same content: \(1 - .new_pieces_count / .pieces_count | . * 100 | ratio
      )% of \(.pieces_count) pieces shared"),
  (all("lazy") | groups
   | "lazy, \(.[0].of): runs after \(map(.restored_us) | median | ms) and \(
      map(.fetched_bytes / .store_bytes * 100) | median | ratio)% of the bytes; touched after \(
      map(.touched_us) | median | ms)"),
  (all("list") | group_by(.delay_ms)[]
   | "\(.[0].count) snapshots listed from \(.[0].delay_ms) ms away: \(
      map(.took_us) | median | ms)")' "$place/notes"
