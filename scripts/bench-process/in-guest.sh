#!/bin/sh
# Runs in the guest: one step of scripts/bench-process.sh, called through nvvmm exec. Prints
# NAME=NUMBER words. $place is a tmpfs for CRIU's images, $run is for the files of nvvmm-heap.
set -eu
place=/criu/images run=/run/heap step=$1

# used_kib: memory of this guest that is not free. Free lists of CPUs count as free, such as huge
# pages of a process that ended.
used_kib() {
  awk '/^MemTotal/ {total = $2} /^MemFree/ {free = $2} $1 == "count:" {at_hand += $2 * 4}
    END {print total - free - at_hand}' \
    /proc/meminfo /proc/zoneinfo
}

# counts: events in this guest since it booted: page faults, pages taken from the kernel's
# allocator, and ticks (10 ms) in which a processor was busy.
counts() {
  awk '$1 == "cpu" {busy = $2 + $3 + $4 + $7 + $8}
    $1 == "pgfault" {faults = $2} /^pgalloc_/ {pages += $2}
    END {printf "busy_ticks=%.0f all_faults=%.0f pages_allocated=%.0f\n", busy, faults, pages}' \
    /proc/stat /proc/vmstat
}

# number STATS NAME: a figure of CRIU's --display-stats.
number() { sed -n "s/^.*$2: *\([0-9][0-9]*\).*/\1/p" "$1" | head -n 1; }

wait_for() { until [ -e "$1" ]; do sleep 0.05; done; }

# timed COMMAND...: runs a command. /run/took then has the time, processor time and page faults of
# the command and of the children that it waited for.
timed() {
  status=0
  /bin/busybox time -f 'total_s=%e user_s=%U system_s=%S faults=%R' \
    -o /run/took "$@" >/run/said 2>&1 || status=$?
  [ "$status" = 0 ] || { cat /run/said "$place/log" >&2; exit "$status"; }
}

case $step in
  prepare)
    while read -r module; do
      # The module may be in the guest's own image.
      [ -e "/sys/module/$(basename "$module" .ko | tr - _)" ] || insmod "/criu/modules/$module"
    done </criu/modules/list
    mkdir -p $place
    mount -t tmpfs -o size=90% images $place
    ;;
  start)
    rm -rf $run
    mkdir -p $run
    used=$(used_kib)
    setsid nvvmm-heap "$2" $run </dev/null >/dev/null 2>&1 &
    wait_for $run/ready
    echo "used_kib=$used pid=$(cat $run/ready) used_with_process_kib=$(used_kib)"
    ;;
  dump)
    timed criu dump -t "$2" -D $place -o log --display-stats
    echo "frozen_us=$(number /run/said 'Frozen time')" \
      "pages=$(number /run/said 'Memory pages written') $(tail -n 1 /run/took)" \
      "bytes=$(($(du -sk $place | cut -f 1) * 1024))"
    ;;
  restore)
    timed criu restore -d -D $place -o log --display-stats
    echo "restore_us=$(number /run/said 'Restore time') $(tail -n 1 /run/took)"
    ;;
  verify)
    used=$(used_kib)
    : >$run/go
    wait_for $run/verdict
    echo "used_kib=$used $(cat $run/verdict)"
    rm $run/verdict
    ;;
  wait-for-reserve) wait_for /run/nvvmm/reserve ;;
  counts) counts ;;
  kill)
    kill -9 "$2"
    while [ -e "/proc/$2" ]; do sleep 0.05; done
    rm -f $place/*
    ;;
esac
