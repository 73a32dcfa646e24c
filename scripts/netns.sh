#!/usr/bin/env bash
# Networks for VMs that all have the same address inside. Each VM has a network namespace of its
# own, with a TAP device and NAT to the outside, so that any number of copies of one snapshot run
# side by side without a change in the guests.
#
#   scripts/netns.sh add NAME [--publish HOST:GUEST]... [--user USER]
#       Makes the namespace NAME, with the TAP device 'tap0' in it, and prints the options of
#       'nvvmm run' or 'nvvmm restore' that use it. --publish has a TCP port of this host's
#       addresses, but for 127.0.0.1, lead to a port of the guest; repeat it for more.
#       --user gives the TAP device to this user.
#   scripts/netns.sh rm NAME
#       Removes the namespace and all that belongs to it.
#   scripts/netns.sh list
#       Lists the namespaces that were made by this script, with their addresses outside.
#   -h, --help     this text
#
# In the guest, set the address 172.31.255.2/24, the gateway 172.31.255.1, and a DNS server that
# the host can reach. All VMs have this one. Outside, each namespace has an address of its own in
# 10.213.0.0/16, of which NVVMM_NETNS_PREFIX names other first two bytes.
#
# It needs root, iproute2 and nftables, and turns forwarding of IPv4 on (net.ipv4.ip_forward).
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$here/lib/say.sh"

prefix=${NVVMM_NETNS_PREFIX:-10.213}
guest=172.31.255.2
gateway=172.31.255.1
# The records of this script: a file for each namespace, with its number.
records=/run/nvvmm-netns

check_host() {
  [[ $EUID == 0 ]] || die "this needs root" "sudo $0 ..."
  for program in ip nft; do
    command -v "$program" >/dev/null ||
      die "the program '$program' is missing" "apt install iproute2 nftables"
  done
}

check_name() {
  [[ $1 =~ ^[A-Za-z0-9][A-Za-z0-9._-]{0,30}$ ]] ||
    die "'$1' is no name: up to 31 of A-Z a-z 0-9 . _ -"
}

# The lowest number that no namespace has. Each has a link of 4 addresses.
free_number() {
  local number
  for ((number = 0; number < 16384; number++)); do
    grep -qsx "$number" "$records"/* || {
      echo "$number"
      return
    }
  done
  die "there is no free address in $prefix.0.0/16"
}

address() { # number, which of its four
  local at=$((4 * $1 + $2))
  echo "$prefix.$((at >> 8)).$((at & 255))"
}

add() {
  local name=$1 user="" publish=()
  shift
  check_name "$name"
  while (($#)); do
    case $1 in
      --publish) publish+=("${2:?--publish needs HOST:GUEST}") && shift 2 ;;
      --user) user=${2:?--user needs a user} && shift 2 ;;
      *) die "unknown option '$1'" "see ${0##*/} --help" ;;
    esac
  done
  local pair
  for pair in "${publish[@]}"; do
    [[ $pair =~ ^[0-9]+:[0-9]+$ ]] || die "'$pair' is no pair of ports like 8080:80"
  done
  [[ ! -e /run/netns/$name ]] || die "there is a namespace '$name' already" "$0 rm $name"
  mkdir -p "$records"
  exec 9>"$records/.lock"
  flock 9
  local number outside inside link
  number=$(free_number)
  outside=$(address "$number" 1) inside=$(address "$number" 2) link="nvn$number"
  echo "$number" >"$records/$name"
  trap 'remove "$name"' ERR
  ip netns add "$name"
  ip link add "$link" type veth peer name outside netns "$name"
  ip address add "$outside/30" dev "$link"
  ip link set "$link" up
  local within=(ip -n "$name")
  "${within[@]}" link set lo up
  "${within[@]}" address add "$inside/30" dev outside
  "${within[@]}" link set outside up
  "${within[@]}" route add default via "$outside"
  local owner=()
  [[ -z $user ]] || owner=(user "$user")
  "${within[@]}" tuntap add tap0 mode tap vnet_hdr "${owner[@]}"
  "${within[@]}" address add "$gateway/24" dev tap0
  "${within[@]}" link set tap0 up
  ip netns exec "$name" sysctl -qw net.ipv4.ip_forward=1
  {
    echo "table ip nvvmm {"
    echo "  chain post { type nat hook postrouting priority srcnat;"
    echo "    oifname outside masquerade; }"
    echo "  chain pre { type nat hook prerouting priority dstnat;"
    for pair in "${publish[@]}"; do
      echo "    iifname outside tcp dport ${pair%:*} dnat to $guest:${pair#*:};"
    done
    # Not where clouds give credentials.
    echo "  }"
    echo "  chain forward { type filter hook forward priority filter;"
    echo "    iifname tap0 ip daddr 169.254.169.254 drop; }"
    echo "}"
  } | ip netns exec "$name" nft -f -
  sysctl -qw net.ipv4.ip_forward=1
  {
    echo "table ip nvvmm_$number {"
    echo "  chain post { type nat hook postrouting priority srcnat;"
    echo "    ip saddr $inside oifname != $link masquerade; }"
    for hook in prerouting output; do
      echo "  chain $hook { type nat hook $hook priority -100;"
      for pair in "${publish[@]}"; do
        echo "    fib daddr type local tcp dport ${pair%:*} dnat to $inside:${pair%:*};"
      done
      echo "  }"
    done
    echo "}"
  } | nft -f -
  trap - ERR
  echo "--net netns=$name,tap=tap0"
}

remove() {
  local name=$1 number
  check_name "$name"
  [[ -e $records/$name ]] || die "'$name' is not of this script" "$0 list"
  number=$(<"$records/$name")
  nft delete table ip "nvvmm_$number" 2>/dev/null || true
  ip link delete "nvn$number" 2>/dev/null || true
  ip netns delete "$name" 2>/dev/null || true
  rm -f "$records/$name"
}

list() {
  local record
  for record in "$records"/*; do
    [[ -e $record ]] || continue
    printf '%-32s %s\n' "${record##*/}" "$(address "$(<"$record")" 2)"
  done
}

case ${1:-} in
  -h | --help) usage; exit 0 ;;
  list) list ;;
  add | rm)
    order=$1
    shift
    (($#)) || die "the name of the namespace is missing" "see ${0##*/} --help"
    check_host
    if [[ $order == add ]]; then add "$@"; else remove "$1"; fi
    ;;
  *) die "add, rm or list is missing" "see ${0##*/} --help" ;;
esac
