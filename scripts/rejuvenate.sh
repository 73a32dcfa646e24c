#!/usr/bin/env bash
# Software rejuvenation: all running VMs are saved, the host reboots, and all VMs go on where they
# were, with the same memory. The VMs' pools must be on a medium that survives a reboot, such as
# persistent memory or a file on a disk.
#
#   scripts/rejuvenate.sh save [--record FILE]
#       Takes a last snapshot of every running VM, stops the VM at that instant, and records how
#       to restore it. If a VM could not be restored, no VM is touched. A VM whose snapshot fails
#       goes on running.
#   scripts/rejuvenate.sh reboot
#       Asks, then reboots this host. It refuses while a VM runs. Any other way to reboot will do.
#   scripts/rejuvenate.sh back [--keep] [--record FILE]
#       Restores every VM of the record under its name, from its pool, with its disks. A VM that
#       was paused stays paused. Each runs in the background with its console on a socket
#       (nvvmm console VM). A VM that cannot be restored stays in the record: repeat the command
#       when the cause is gone.
#
#   --keep         keeps the snapshots. Without it each VM consumes its own (nvvmm restore
#                  --once): the VM owns the blocks again, and no second copy takes space in the
#                  pool. A snapshot is consumed only when its VM is complete. If the restore
#                  fails before, the snapshot stays as it was.
#   --record FILE  file of the record (default /var/lib/nvvmm/rejuvenation.json for root, else
#                  ~/.local/state/nvvmm/rejuvenation.json)
#   -h, --help     this text
#
# Run it as the user who owns the VMs. It needs jq. NVVMM_BIN names the nvvmm program (default:
# the one in PATH).
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
    *) die "no command: use save, reboot or back" "see ${0##*/} --help" ;;
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
  command -v jq >/dev/null || die "jq is not installed" "sudo apt-get install jq"
  : "${NVVMM_BIN:=$(command -v nvvmm || true)}"
  [[ -x $NVVMM_BIN ]] || die "no nvvmm program in PATH" "set NVVMM_BIN, or: scripts/install.sh"
}

# write_record JSON: replaces the record in one step. It is on the disk when this returns.
write_record() {
  mkdir -p "$(dirname "$record")"
  printf '%s\n' "$1" >"$record.new"
  sync "$record.new"
  mv "$record.new" "$record"
  sync "$(dirname "$record")"
}

# is_lasting PATH: true if the file is still there after a reboot.
is_lasting() { [[ $(stat -f -c %T "$1" 2>/dev/null) != @(tmpfs|ramfs|hugetlbfs) ]]; }

# need_lasting VM-AS-JSON: ends the script if a reboot would lose the VM's pool or one of its disks.
need_lasting() {
  local name pool disk
  name=$(jq -r .vm <<<"$1")
  pool=$(jq -r .pool <<<"$1")
  [[ $(nvvmm pool status "$pool" --json | jq -r .durability) == @(host|power) ]] ||
    die "the pool of $name, $pool, does not survive a reboot" \
      "use a pool in persistent memory or on a disk for this VM"
  while read -r disk; do
    is_lasting "$disk" || die "the disk $disk of $name is in memory and does not survive a reboot"
  done < <(jq -r '.disks[].path' <<<"$1")
}

# vms_to_save: prints the running VMs, one JSON object a line. Ends the script if one of them cannot
# be saved in its present state.
vms_to_save() {
  local all vm
  all=$(nvvmm ps --json)
  jq -e 'length > 0' <<<"$all" >/dev/null || die "no VM is running"
  while read -r vm; do
    [[ $(jq -r .state <<<"$vm") == @(running|paused) ]] ||
      die "$(jq -r '"\(.vm) is \(.state)"' <<<"$vm")" \
        "wait, or stop it: nvvmm stop $(jq -r .vm <<<"$vm") --force"
    need_lasting "$vm"
    printf '%s\n' "$vm"
  done < <(jq -c '.[]' <<<"$all")
}

save() {
  local vms vm name snapshot report memory failed=0 moment
  [[ ! -e $record ]] || die "VMs of an earlier save are not restored yet" \
    "${0##*/} back, or remove $record if you do not want them"
  vms=$(vms_to_save) || exit 1
  moment=$(date -u +%Y%m%dT%H%M%SZ)
  # The record is written first, so that no VM is forgotten if a later step fails.
  write_record "$(jq -s --arg moment "$moment" --arg boot "$(boot_id)" \
    '{saved_at: $moment, boot_id: $boot,
      vms: map({name: .vm, pool, state, vcpus: .vcpu_count, memory_bytes, disks, nets,
      origin, snapshot: "rejuvenate-\(.vm)-\($moment)"})}' <<<"$vms")"
  is_lasting "$record" ||
    say "warning: $record is in memory: keep a copy of it elsewhere during the reboot"
  row VM STATE MEMORY "PAUSED FOR" SNAPSHOT
  while read -r vm; do
    name=$(jq -r .name <<<"$vm") snapshot=$(jq -r .snapshot <<<"$vm")
    if report=$(nvvmm snapshot "$name" "$snapshot" --stop --durability host --json); then
      memory=$(mib "$(jq .memory_bytes <<<"$vm")")
      row "$name" saved "$memory" "$(ms .pause_us "$report")" "$snapshot"
    else
      row "$name" "NOT SAVED" - - "it goes on running"
      forget "$name"
      failed=1
    fi
  done < <(jq -c '.vms[]' "$record")
  sync
  ((!failed)) || die "not every VM could be saved" "restore the others with: ${0##*/} back"
  echo "All VMs are in their pools. After the reboot: ${0##*/} back"
}

# forget VM: removes a VM from the record, and removes an empty record.
forget() {
  local rest
  rest=$(jq --arg name "$1" '.vms |= map(select(.name != $name))' "$record")
  if jq -e '.vms | length > 0' <<<"$rest" >/dev/null; then
    write_record "$rest"
  else
    rm -f "$record"
  fi
}

reboot_host() {
  local answer running
  running=$(nvvmm ps --json | jq -r 'map(.vm) | join(", ")')
  [[ -z $running ]] || die "these VMs still run and would be lost: $running" "${0##*/} save"
  read -r -p "Reboot $(hostname) now? [y/N] " answer || true
  [[ ${answer:-} == [yY]* ]] || die "not rebooted"
  if command -v systemctl >/dev/null; then systemctl reboot; else reboot; fi
}

# bring_back VM-AS-JSON: restores a VM and prints its row of the table.
bring_back() {
  local name snapshot pool status state memory ran_after=- options=(--detach --json)
  name=$(jq -r .name <<<"$1") snapshot=$(jq -r .snapshot <<<"$1") pool=$(jq -r .pool <<<"$1")
  if nvvmm ps --json | jq -e --arg name "$name" 'any(.vm == $name)' >/dev/null; then
    row "$name" "runs already" - - "it was not saved, or is restored already"
    return 0
  fi
  ((keep)) || options+=(--once)
  [[ $(jq -r .state <<<"$1") != paused ]] || options+=(--paused)
  # A restore publishes no ports by itself.
  local ports
  while read -r ports; do
    options+=(--publish "$ports")
  done < <(jq -r '.nets // [] | .[].ports[]
    | (if .address then "[\(.address)]:" else "" end)
    + "\(.host_port)-\(.host_port + .port_count - 1):"
    + "\(.guest_port)-\(.guest_port + .port_count - 1)/\(.protocol)"' <<<"$1")
  status=$(nvvmm restore "$snapshot" --name "$name" --pool "$pool" "${options[@]}") || {
    row "$name" "NOT BACK" - - "$snapshot is kept"
    return 1
  }
  state=$(jq -r .state <<<"$status") memory=$(mib "$(jq .memory_bytes <<<"$status")")
  [[ $state == paused ]] || ran_after=$(ms .restore.first_instruction_us "$status")
  row "$name" "$state" "$memory" "$ran_after" "$snapshot"
}

back() {
  local vm failed=0
  [[ -e $record ]] || die "there is no VM to restore: no $record"
  [[ $(jq -r .boot_id "$record") != "$(boot_id)" ]] ||
    say "this host was not rebooted since the VMs were saved"
  row VM STATE MEMORY "RAN AFTER" FROM
  while read -r vm; do
    if bring_back "$vm"; then forget "$(jq -r .name <<<"$vm")"; else failed=1; fi
  done < <(jq -c '.vms[]' "$record")
  ((!failed)) || die "not every VM is restored; $record has the others" \
    "repeat the command when the cause is gone"
}

parse_arguments "$@"
find_nvvmm
case $order in
  save) save ;;
  reboot) reboot_host ;;
  back) back ;;
esac
