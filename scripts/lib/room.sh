# shellcheck shell=bash
# What the machine has left. Programs that run out of it fail in many ways, few of which say so.

# room: one line.
room() {
  printf 'free: %s MiB of disk, %s MiB in %s, %s MiB of memory' "$(free_mib .)" "$(free_mib "${TMPDIR:-/tmp}")" "${TMPDIR:-/tmp}" \
    "$(awk '/^MemAvailable/ {print int($2 / 1024)}' /proc/meminfo)"
}

# free_mib DIRECTORY
free_mib() { df -m --output=avail "$1" | awk 'NR == 2 {print $1}'; }
