#!/usr/bin/env bash
# Measures how long a VM stands still when it goes to another host while it runs (nvvmm migrate),
# beside stopping it and sending its snapshot. The hosts are two network namespaces of this machine,
# joined by a link, with ssh between them. The bare-metal guest writes all the time, and checks its
# memory after each way.
#
#   scripts/bench-migrate.sh [--memory MIB] [--written MIB] [--delay MS] [--repeat N] [--json]
#
#   --memory MIB    memory that the guest has filled (default 512)
#   --written MIB   part of it that it writes again and again (default 5)
#   --delay MS      delay of the link in each direction (default 0)
#   --repeat N      ways of each kind (default 5)
#   --json          prints all measurements
#   -h, --help      this text
#
# It needs root, and installs openssh-server, socat, jq and iproute2 where they are missing.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$here/lib/kvm.sh"
source "$here/lib/programs.sh"

memory=512 written=5 delay=0 repeat=5 format=table
while (($#)); do
  case $1 in
    --memory) memory=${2:?--memory needs a number of MiB}; shift ;;
    --written) written=${2:?--written needs a number of MiB}; shift ;;
    --delay) delay=${2:?--delay needs a number of ms}; shift ;;
    --repeat) repeat=${2:?--repeat needs a number}; shift ;;
    --json) format=json ;;
    -h | --help) usage; exit 0 ;;
    *) die "unknown argument $1" "see ${0##*/} --help" ;;
  esac
  shift
done
for number in "$memory" "$written" "$delay" "$repeat"; do
  [[ $number =~ ^[0-9]+$ ]] || die "'$number' is no number"
done
((EUID == 0)) || die "this needs root, for network namespaces" "sudo $0 ..."
[[ $(kvm_kind) != none ]] || die "this needs /dev/kvm: $(kvm_reason)"

need_rust
need_packages openssh-server socat jq iproute2
build_nvvmm
build_bare_metal
bare_metal=$(bare_metal_path)

place=$(mktemp -d /dev/shm/nvvmm-migrate.XXXXXX)
network=10.214.255 hosts=(a b)

# shellcheck disable=SC2317 # the trap calls it
clean_up() {
  for host in "${hosts[@]}"; do
    on "$host" stop --all --force >/dev/null 2>&1 || true
    [[ ! -e $place/$host/sshd.pid ]] || kill "$(<"$place/$host/sshd.pid")" 2>/dev/null || true
    ip netns del "nvvmm-migrate-$host" 2>/dev/null || true
  done
  rm -rf "$place"
}
trap clean_up EXIT

# on HOST ARGUMENT...: nvvmm on that host.
on() {
  local host=$1
  shift
  NVVMM_RUNTIME_DIR=$place/$host/run NVVMM_POOL=$place/$host/pool "$NVVMM_BIN" "$@"
}

make_network() {
  local host number=0
  ip link add nvvmm-mig-a type veth peer name nvvmm-mig-b
  for host in "${hosts[@]}"; do
    number=$((number + 1))
    ip netns add "nvvmm-migrate-$host"
    ip link set "nvvmm-mig-$host" netns "nvvmm-migrate-$host"
    ip -n "nvvmm-migrate-$host" addr add "$network.$number/24" dev "nvvmm-mig-$host"
    ip -n "nvvmm-migrate-$host" link set "nvvmm-mig-$host" up
    ip -n "nvvmm-migrate-$host" link set lo up
    ((delay == 0)) || ip netns exec "nvvmm-migrate-$host" \
      tc qdisc add dev "nvvmm-mig-$host" root netem delay "${delay}ms" limit 100000 ||
      die "this kernel cannot delay packets (netem)" "leave out --delay"
  done
}

# make_host HOST ADDRESS: its pool and its sshd, which only knows the key of this run.
make_host() {
  local host=$1 directory=$place/$1
  mkdir -m 700 "$directory"
  on "$host" pool create "$directory/pool" --size "$((memory * 3 + 64))M" >/dev/null
  ssh-keygen -q -t ed25519 -N '' -f "$directory/host-key"
  cat >"$directory/sshd" <<EOF
ListenAddress $2
HostKey $directory/host-key
AuthorizedKeysFile $place/key.pub
StrictModes no
UsePAM no
PermitRootLogin yes
PidFile $directory/sshd.pid
SetEnv NVVMM_RUNTIME_DIR=$directory/run NVVMM_POOL=$directory/pool
EOF
  mkdir -p /run/sshd
  ip netns exec "nvvmm-migrate-$host" /usr/sbin/sshd -f "$directory/sshd"
}

# The program that migrate starts, in the namespace of the host where it runs.
make_ssh() {
  cat >"$place/ssh-$1" <<EOF
#!/bin/sh
exec ip netns exec nvvmm-migrate-$1 ssh -i $place/key -o StrictHostKeyChecking=no \
  -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR "\$@"
EOF
  chmod 700 "$place/ssh-$1"
}

# ask HOST COMMAND...: has the guest carry out a command, and prints its answer.
ask() {
  local host=$1 line='' pid
  shift
  coproc CONSOLE { exec socat STDIO "UNIX-CONNECT:$place/$host/run/v.console"; }
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

check() {
  [[ $(ask "$1" check) == "@ check ok"* ]] || die "the guest's memory is not as it was"
}

now_us() { echo "${EPOCHREALTIME//[.,]/}"; }

# migrate FROM TO ADDRESS: prints the report.
migrate() {
  on "$1" migrate v "ssh://root@$3" --ssh "$place/ssh-$1" --program "$NVVMM_BIN" --json
}

# stop_and_send FROM TO ADDRESS: what one would do otherwise; prints the time without the VM.
stop_and_send() {
  local began
  began=$(now_us)
  on "$1" snapshot v moved --stop >/dev/null
  on "$1" send moved --level 1 2>/dev/null |
    "$place/ssh-$1" "root@$3" "$NVVMM_BIN receive" >/dev/null
  "$place/ssh-$1" "root@$3" "$NVVMM_BIN restore moved --once --name v --detach" >/dev/null
  echo "$(($(now_us) - began))"
  on "$1" rm moved >/dev/null
}

make_network
ssh-keygen -q -t ed25519 -N '' -f "$place/key"
make_host a "$network.1"
make_host b "$network.2"
for host in "${hosts[@]}"; do make_ssh "$host"; done

say "the guest fills $memory MiB, and writes $written of them again and again"
on a run --kernel "$bare_metal" --memory "$((memory + 16))M" --cpus 1 --name v --detach >/dev/null
ask a fill "$memory" 7 >/dev/null
ask a fill "$written" 8 >/dev/null
ask a churn on 11 rand check >/dev/null

reports=$place/reports
from=a to=b address=$network.2
turn() {
  [[ $from == a ]] && from=b to=a address=$network.1 || from=a to=b address=$network.2
}
for ((way = 1; way <= repeat; way++)); do
  migrate "$from" "$to" "$address" >>"$reports"
  check "$to"
  turn
  stop_and_send "$from" "$to" "$address" >>"$place/stopped"
  check "$to"
  turn
  say "way $way of $repeat is done"
done

summary=$(jq -n --slurpfile migrations "$reports" --slurpfile stopped "$place/stopped" \
  --argjson memory "$memory" --argjson written "$written" --argjson delay "$delay" \
  '{memory_mib: $memory, written_mib: $written, delay_ms: $delay, migrations: $migrations,
    stopped_us: $stopped}')
if [[ $format == json ]]; then
  printf '%s\n' "$summary"
else
  jq -r '
    def median: sort | .[length / 2 | floor];
    def ms: . / 1000 | . * 10 | round / 10;
    def row(name; values): "\(name) \(values | median | ms) ms (\(values | min | ms) to \(
      values | max | ms))";
    (.migrations | map(.downtime_us)) as $moved
    | "\(.memory_mib) MiB, \(.written_mib) of them written all the time, \(.delay_ms) ms of delay",
      "medians of \($moved | length), smallest and largest:",
      row("  nvvmm migrate: the VM stands still "; $moved),
      row("  all of a migration                 "; .migrations | map(.total_us)),
      row("  stop, send, receive, restore       "; .stopped_us),
      "  sent while it stood still, in the median: \(
        .migrations | map(.stream_paused_bytes) | median / 1024 | round) KiB"' <<<"$summary"
fi
