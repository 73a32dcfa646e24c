#!/usr/bin/env bash
# Software rejuvenation: every running VM goes out, the host reboots, and every VM goes on where it was, with its memory
# as it was. The VMs' pools must be on a medium that outlives a reboot: persistent memory, or a file on a disk.
#
#   scripts/rejuvenate.sh save [--record FILE]
#       snapshots every running VM at the instant that ends it, and records what is needed to bring it back. Nothing is
#       touched when one of them could not come back. A VM that cannot be snapshotted goes on running.
#   scripts/rejuvenate.sh reboot
#       asks, then reboots this host; refuses while a VM runs. Any other way to reboot will do.
#   scripts/rejuvenate.sh back [--keep] [--record FILE]
#       restores every VM of the record under its name, from its pool, with its disks; one that was paused stays paused.
#       Each runs in the background with its console on a socket (nvvmm console VM). A VM that cannot come back
#       now stays in the record: say it again when the cause is gone.
#
#   --keep         keep the snapshots. Without it a VM consumes its own (nvvmm restore --once): its blocks are its own
#                  again, and no second copy takes space in the pool. The snapshot is consumed only when the VM stands
#                  complete; until then a failure leaves it as it was.
#   --record FILE  where the record is (default /var/lib/nvvmm/rejuvenation.json for root, else
#                  ~/.local/state/nvvmm/rejuvenation.json)
#   -h, --help     this text
#
# To be run as the user that the VMs belong to. Needs jq. NVVMM_BIN names the nvvmm program (default: the one in PATH).
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$here/lib/say.sh"

nvvmm() { "$NVVMM_BIN" "$@"; }
boot_id() { cat /proc/sys/kernel/random/boot_id; }
mib() { echo "$(($1 >> 20)) MiB"; }
ms() { jq -r "$1 / 1000 | round | \"\(.) ms\"" <<<"$2"; }
row() { printf '%-20s %-12s %10s %12s  %s\n' "$@"; }

parse_arguments() {
  order=${1:-} keep=0
  case $order in
    save | reboot | back) shift ;;
    -h | --help) usage; exit 0 ;;
    *) die "what shall be done? save, reboot or back" "see ${0##*/} --help" ;;
  esac
  if ((EUID == 0)); then
    record=/var/lib/nvvmm/rejuvenation.json
  else
    record=${XDG_STATE_HOME:-$HOME/.local/state}/nvvmm/rejuvenation.json
  fi
  while (($#)); do
    case $order$1 in
      save--record | back--record) record=${2:?--record needs a file}; shift ;;
      back--keep) keep=1 ;;
      *) die "unknown argument $1" "see ${0##*/} --help" ;;
    esac
    shift
  done
}

find_nvvmm() {
  command -v jq >/dev/null || die "no jq" "sudo apt-get install jq"
  : "${NVVMM_BIN:=$(command -v nvvmm || true)}"
  [[ -x $NVVMM_BIN ]] || die "no nvvmm program in PATH" "set NVVMM_BIN, or: cargo install --path vmm"
}

# write_record JSON: in one step, and on the disk when it returns.
write_record() {
  mkdir -p "$(dirname "$record")"
  printf '%s\n' "$1" >"$record.new"
  sync "$record.new"
  mv "$record.new" "$record"
  sync "$(dirname "$record")"
}

# is_lasting PATH: whether what is there is still there after a reboot.
is_lasting() { [[ $(stat -f -c %T "$1" 2>/dev/null) != @(tmpfs|ramfs|hugetlbfs) ]]; }

# need_lasting VM-AS-JSON: ends the script when a reboot would lose the VM's pool or one of its disks.
need_lasting() {
  local name pool disk
  name=$(jq -r .name <<<"$1")
  pool=$(jq -r .pool <<<"$1")
  [[ $(nvvmm pool status "$pool" --json | jq -r .durability.strongest) == @(host|power) ]] ||
    die "the pool of $name, $pool, does not outlive a reboot" "run VMs that shall from a pool in persistent memory or on a disk"
  while read -r disk; do
    is_lasting "$disk" || die "the disk $disk of $name is in memory and does not outlive a reboot"
  done < <(jq -r '.disks[].path' <<<"$1")
}

# The running VMs, one JSON object a line; ends the script when one is in no state to be saved.
vms_to_save() {
  local all vm
  all=$(nvvmm ps --json)
  jq -e 'length > 0' <<<"$all" >/dev/null || die "no VM is running"
  while read -r vm; do
    [[ $(jq -r .state <<<"$vm") == @(running|paused) ]] ||
      die "$(jq -r '"\(.name) is \(.state)"' <<<"$vm")" "wait, or end it: nvvmm stop $(jq -r .name <<<"$vm") --force"
    need_lasting "$vm"
    printf '%s\n' "$vm"
  done < <(jq -c '.[]' <<<"$all")
}

save() {
  local vms vm name snapshot report failed=0 moment
  [[ ! -e $record ]] || die "VMs of an earlier save have not come back yet" \
    "${0##*/} back, or remove $record if they are not wanted"
  vms=$(vms_to_save) || exit 1
  moment=$(date -u +%Y%m%dT%H%M%SZ)
  # Written before anything is done: whatever happens from here on, no VM is forgotten.
  write_record "$(jq -s --arg moment "$moment" --arg boot "$(boot_id)" \
    '{saved_at: $moment, boot_id: $boot, vms: map({name, pool, state, vcpus, memory_bytes, disks, origin,
      snapshot: "rejuvenate-\(.name)-\($moment)"})}' <<<"$vms")"
  is_lasting "$record" || say "warning: $record is in memory; keep a copy of it over the reboot"
  row VM STATE MEMORY "PAUSED FOR" SNAPSHOT
  while read -r vm; do
    name=$(jq -r .name <<<"$vm") snapshot=$(jq -r .snapshot <<<"$vm")
    if report=$(nvvmm snapshot "$name" "$snapshot" --stop --durability host --json); then
      row "$name" saved "$(mib "$(jq .memory_bytes <<<"$vm")")" "$(ms .pause_us "$report")" "$snapshot"
    else
      row "$name" "NOT SAVED" - - "it goes on running"
      forget "$name"
      failed=1
    fi
  done < <(jq -c '.vms[]' "$record")
  sync
  ((!failed)) || die "not every VM could be saved" "${0##*/} back brings the others back"
  echo "All VMs are in their pools. After the reboot: ${0##*/} back"
}

# forget VM: takes it out of the record, and removes a record that is empty.
forget() {
  local rest
  rest=$(jq --arg name "$1" '.vms |= map(select(.name != $name))' "$record")
  if jq -e '.vms | length > 0' <<<"$rest" >/dev/null; then write_record "$rest"; else rm -f "$record"; fi
}

reboot_host() {
  local answer running
  running=$(nvvmm ps --json | jq -r 'map(.name) | join(", ")')
  [[ -z $running ]] || die "these VMs still run and would be lost: $running" "${0##*/} save"
  read -r -p "Reboot $(hostname) now? [y/N] " answer || true
  [[ ${answer:-} == [yY]* ]] || die "not rebooted"
  if command -v systemctl >/dev/null; then systemctl reboot; else reboot; fi
}

# bring_back VM-AS-JSON: prints its row of the table.
bring_back() {
  local name snapshot status ran_after=- options=(--detach --json)
  name=$(jq -r .name <<<"$1") snapshot=$(jq -r .snapshot <<<"$1")
  if nvvmm ps --json | jq -e --arg name "$name" 'any(.name == $name)' >/dev/null; then
    row "$name" "runs already" - - "it never went, or somebody brought it back"
    return 0
  fi
  ((keep)) || options+=(--once)
  [[ $(jq -r .state <<<"$1") != paused ]] || options+=(--paused)
  status=$(nvvmm restore "$snapshot" --name "$name" --pool "$(jq -r .pool <<<"$1")" "${options[@]}") || {
    row "$name" "NOT BACK" - - "$snapshot is kept"
    return 1
  }
  [[ $(jq -r .state <<<"$status") == paused ]] || ran_after=$(ms .restore.first_instruction_us "$status")
  row "$name" "$(jq -r .state <<<"$status")" "$(mib "$(jq .memory_bytes <<<"$status")")" "$ran_after" "$snapshot"
}

back() {
  local vm failed=0
  [[ -e $record ]] || die "no VM is to come back: there is no $record"
  [[ $(jq -r .boot_id "$record") != "$(boot_id)" ]] || say "this host was not rebooted since the VMs were saved"
  row VM STATE MEMORY "RAN AFTER" FROM
  while read -r vm; do
    if bring_back "$vm"; then forget "$(jq -r .name <<<"$vm")"; else failed=1; fi
  done < <(jq -c '.vms[]' "$record")
  ((!failed)) || die "not every VM is back; $record has those that are not" "say it again when the cause is gone"
}

parse_arguments "$@"
find_nvvmm
case $order in
  save) save ;;
  reboot) reboot_host ;;
  back) back ;;
esac
