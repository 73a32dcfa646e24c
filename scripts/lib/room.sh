# shellcheck shell=bash
# Shows the space that the machine has left. Programs that run out of space fail in many ways, and
# few of their messages name the cause.

# room: prints one line.
room() {
  local temporary=${TMPDIR:-/tmp}
  printf 'free: %s MiB of disk, %s MiB in %s, %s MiB of memory' \
    "$(free_mib .)" "$(free_mib "$temporary")" "$temporary" \
    "$(awk '/^MemAvailable/ {print int($2 / 1024)}' /proc/meminfo)"
}

# free_mib DIRECTORY: free space on the directory's file system.
free_mib() { df -m --output=avail "$1" | awk 'NR == 2 {print $1}'; }
