#!/usr/bin/env bash
# The steps of scripts/demo.sh, on a machine whose KVM boots Linux. Needs jq, socat and, in the
# environment, NVVMM_BIN, NVVMM_GUEST_KERNEL and NVVMM_GUEST_INITRAMFS.
set -euo pipefail
shopt -s inherit_errexit
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$here/../lib/say.sh"
source "$here/console.sh"

: "${NVVMM_BIN:?scripts/demo.sh sets it}" "${NVVMM_GUEST_KERNEL:?}" "${NVVMM_GUEST_INITRAMFS:?}"
fill_mib=64
NVVMM_RUNTIME_DIR=$(mktemp -d "${TMPDIR:-/tmp}/nvvmm-demo.XXXXXX")
NVVMM_POOL=/dev/shm/nvvmm-demo-$$.pool
export NVVMM_RUNTIME_DIR NVVMM_POOL

nvvmm() { "$NVVMM_BIN" "$@"; }
step() { printf '\n-- %s\n' "$*"; }

# shellcheck disable=SC2317 # the trap calls it
clean_up() {
  local name
  for name in $(nvvmm ps --json 2>/dev/null | jq -r '.[].vm'); do
    nvvmm stop "$name" --force || true
  done
  rm -rf "$NVVMM_POOL" "$NVVMM_RUNTIME_DIR"
}

# field NAME ANSWER: the value of NAME= in a guest's answer.
field() { sed -n "s/.* $1=\([^ ]*\).*/\1/p" <<<"$2"; }

# ask_well VM COMMAND...: like ask, but the demo ends if the guest finds a fault.
ask_well() {
  local answer
  answer=$(ask "$@")
  [[ $answer == '@ '*' ok '* ]] || die "$1 said: $answer"
  printf '%s\n' "$answer"
}

pool_used_kib() { echo $(($(stat -c %b "$NVVMM_POOL") / 2)); }
ram_of() { nvvmm ps --json | jq -r --arg name "$1" '.[] | select(.vm == $name) | .ram'; }

# show_vm NAME: prints the results of a VM's own checks.
show_vm() {
  local count check clocks
  count=$(ask_well "$1" count)
  check=$(ask_well "$1" check)
  clocks=$(ask_well "$1" clocks)
  printf '%-4s count %6s   memory: %s pages intact, written up to epoch %s   ' "$1" \
    "$(field value "$count")" "$(field pages "$check")" "$(field epochs "$check")"
  printf 'clocks went back %s times\n' "$(field backwards "$clocks")"
}

trap clean_up EXIT
trap 'exit 130' INT TERM

step "a pool of 1 GiB, and VM a with 256 MiB of it and 2 CPUs"
nvvmm pool create "$NVVMM_POOL" --size 1G
nvvmm run --name a --kernel "$NVVMM_GUEST_KERNEL" --initramfs "$NVVMM_GUEST_INITRAMFS" \
  --cmdline "console=ttyS0 quiet" --memory 256M --cpus 2 --detach
wait_ready a
say "Linux is up in a"

step "the guest counts, fills $fill_mib MiB with a checkable pattern and keeps rewriting it"
ask_well a fill "$fill_mib" 42 2 >/dev/null
ask_well a churn on 4 >/dev/null
show_vm a

step "a snapshot while it runs"
count_before=$(field value "$(ask_well a count)")
snapshot=$(nvvmm snapshot a s1 --json)
echo "taken at count $count_before or a little later; a goes on:"
sleep 2
show_vm a

step "the snapshot restored twice, side by side, while a still runs"
restored_b=$(nvvmm restore s1 --name b --detach --json)
restored_c=$(nvvmm restore s1 --name c --detach --json)
first_count_b=$(field value "$(ask_well b count)")
count_a=$(field value "$(ask_well a count)")
echo "b's first answer is count $first_count_b, when a is at $count_a"
((first_count_b >= count_before)) || die "b began before the snapshot"

step "each VM goes on by itself, with the memory of one instant, and checks all of it"
for vm in a b c; do show_vm "$vm"; done
ask_well b rewrite "$fill_mib" >/dev/null
echo "b has rewritten all of its $fill_mib MiB:"
for vm in a b c; do show_vm "$vm"; done

step "snapshots"
nvvmm snapshots
step "costs"
us() { jq -r "$1 | round" <<<"$2"; }
row() { printf '%-46s %12s %s\n' "$@"; }
row "pause of a for the snapshot" "$(us .pause_us "$snapshot")" us
row "snapshot, from request to commit" "$(us .total_us "$snapshot")" us
row "frames copied to take it" "$(jq -r ".copied_bytes / 4096" <<<"$snapshot")" frames
row "frames shared by it" "$(jq -r ".mapped_bytes / 4096" <<<"$snapshot")" frames
metadata_kib=$(($(jq -r .metadata_bytes <<<"$snapshot") / 1024))
row "pool space of the snapshot itself (metadata)" "$metadata_kib" KiB
first=.restore.first_instruction_us
row "restore of b to its first guest instruction" "$(us $first "$restored_b")" us
row "restore of c to its first guest instruction" "$(us $first "$restored_c")" us
blocks_of() { jq -r "$1 / 4096" <<<"$2"; }
for vm in a b c; do
  ram=$(ram_of "$vm")
  row "$vm: blocks still shared with the snapshot" "$(blocks_of .shared_bytes "$ram")" blocks
  row "$vm: blocks copied since (copy-on-write)" "$(blocks_of .copied_bytes "$ram")" blocks
done
row "pool space used by three VMs and a snapshot" "$(pool_used_kib)" KiB

step "all VMs end; the pool is checked"
for vm in a b c; do nvvmm stop "$vm"; done
nvvmm pool check
