#!/bin/busybox sh
# shellcheck shell=dash
# What busybox's udhcpc runs in the Linux guest: takes the address, the route and the name servers
# that it was given. Usage in the guest: udhcpc -i eth0 -n -q -s /bin/guest-dhcp
# shellcheck disable=SC2154 # udhcpc sets the variables
case $1 in
  deconfig) ip -4 addr flush dev "$interface"; ip link set "$interface" up ;;
  bound | renew)
    ip -4 addr flush dev "$interface"
    ip addr add "$ip/${mask:-24}" dev "$interface"
    [ -z "$router" ] || ip route replace default via "${router%% *}" dev "$interface" onlink
    for server in $dns; do echo "nameserver $server"; done >/etc/resolv.conf
    ;;
esac
