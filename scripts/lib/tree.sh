# shellcheck shell=bash
# Paths in the source tree and in the cache.

NVVMM_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
NVVMM_CACHE=${NVVMM_CACHE:-$NVVMM_ROOT/.cache}
mkdir -p "$NVVMM_CACHE"
NVVMM_CACHE=$(cd "$NVVMM_CACHE" && pwd)
export NVVMM_ROOT NVVMM_CACHE

# cargo_target_dir DIR: cargo's target directory for the package or workspace in DIR.
cargo_target_dir() {
  local dir=${CARGO_TARGET_DIR:-$1/target}
  [[ $dir == /* ]] || dir=$PWD/$dir
  printf '%s\n' "$dir"
}

# hold_lock NAME: lets one process at a time prepare a part of the cache. The lock is released when
# the script ends.
hold_lock() {
  exec {cache_lock}>"$NVVMM_CACHE/$1.lock"
  flock --nonblock "$cache_lock" && return
  say "waiting for another process that prepares $1"
  flock "$cache_lock"
}
drop_lock() { exec {cache_lock}>&-; }
