#!/usr/bin/env bash
# Measures pushes and pulls of a VM's snapshots, with a directory as the store.
#
#   scripts/bench-remote.sh [--memory MIB]
#
#   --memory MIB     RAM of the guest (default 512)
#   -h, --help       this text
#
# It prints:
# - a first push, beside the guest's memory written as one object: compressed by 'zstd -3' in one
#   thread, and synced;
# - a second push: bytes that were sent, beside those of the pieces that changed;
# - a pull of the second snapshot into an empty pool, and into one that has the first.
# NVVMM_BIN is the program (default: a release build). Pools and the store are in /dev/shm.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$here/lib/say.sh"
source "$here/lib/packages.sh"
source "$here/lib/programs.sh"

memory=512
while (($#)); do
  case $1 in
    --memory) memory=${2:?} && shift 2 ;;
    -h | --help) usage; exit ;;
    *) die "unknown argument $1" "see ${0##*/} --help" ;;
  esac
done

need_packages jq socat zstd
[[ -n ${NVVMM_BIN:-} ]] || build_nvvmm
if [[ -z ${NVVMM_BAREMETAL_GUEST:-} ]]; then
  build_bare_metal
  NVVMM_BAREMETAL_GUEST=$(bare_metal_path)
fi
work=$(mktemp -d /dev/shm/nvvmm-bench-remote.XXXXXX)
export NVVMM_RUNTIME_DIR=$work/run NVVMM_POOL=$work/pool
mkdir -m 700 "$NVVMM_RUNTIME_DIR"

nvvmm() { "$NVVMM_BIN" "$@"; }

end() {
  nvvmm kill bench >/dev/null 2>&1 || true
  rm -rf "$work"
}
trap end EXIT

# timed COMMAND...: sets seconds; the command's output is in $work/out.
timed() {
  local began ended
  began=$(date +%s%N)
  "$@" >"$work/out" 2>"$work/err" || { cat "$work/err" >&2; die "failed: $*"; }
  ended=$(date +%s%N)
  seconds=$(awk -v ns=$((ended - began)) 'BEGIN {printf "%.2f", ns / 1e9}')
}

member() { jq -r "$1" "$work/out"; }

# ask LINE: has the guest carry out a line, and waits for its answer.
ask() {
  { echo "$1"; sleep 60; } | socat - "UNIX-CONNECT:$NVVMM_RUNTIME_DIR/bench.console" |
    grep -m1 "^@ ${1%% *}" >/dev/null || true
}

plain_put() { zstd -q -3 --single-thread -c "$work/core" >"$work/plain" && sync "$work/plain"; }

nvvmm pool create "$NVVMM_POOL" --size $((memory * 2))M >/dev/null
nvvmm run --name bench --kernel "$NVVMM_BAREMETAL_GUEST" --memory "${memory}M" --detach >/dev/null
ask "fill $((memory * 3 / 4)) 1"
nvvmm snapshot bench first >/dev/null
ask "write 0 $((memory * 256 / 100))"
nvvmm snapshot bench second >/dev/null
nvvmm stop bench >/dev/null
store=file://$work/store
nvvmm export first --core "$work/core" >/dev/null

timed plain_put
echo "plain object: $seconds s, $(stat -c %s "$work/plain") bytes"
timed nvvmm push first "$store" --json
echo "first push: $seconds s, $(member .traffic.sent_bytes) bytes," \
  "$(member .traffic.requests_count) requests"
timed nvvmm push second "$store" --json
echo "second push: $seconds s, $(member .traffic.sent_bytes) bytes for" \
  "$(member .new_content_bytes) bytes in $(member .new_pieces_count) pieces that changed," \
  "$(member .traffic.requests_count) requests"
for before in "" first; do
  nvvmm pool create "$work/other" --size $((memory * 2))M >/dev/null
  [[ -z $before ]] || nvvmm pull "$store/$before" --pool "$work/other" >/dev/null
  timed nvvmm pull "$store/second" --pool "$work/other" --json
  echo "pull beside ${before:-nothing}: $seconds s, $(member .fetched_pieces_count) pieces," \
    "$(member .traffic.requests_count) requests"
  nvvmm pool delete "$work/other" >/dev/null
done
