#!/usr/bin/env bash
# Runs the fuzz targets of tests/fuzz. See tests/fuzz/README.md.
#
#   scripts/fuzz.sh [--runs N | --minutes N] [TARGET...]
#   scripts/fuzz.sh --list
#
#   --runs N     runs seeds and regressions, then inputs made from them up to N in all, the same
#                ones every time (default 2000)
#   --minutes N  runs new inputs for N minutes. Inputs that reach new code are kept in
#                tests/fuzz/corpus/TARGET
#   --list       prints the targets; all of them run by default
#   -h, --help   this text
#
# A crash, a failed assertion, a leak or a run of more than a minute is a failure. Its input is
# kept in tests/fuzz/targets/artifacts/TARGET. The toolchain is the ordinary one:
# RUSTC_BOOTSTRAP lets it use sanitizers.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$here/lib/programs.sh"

fuzz_dir=$NVVMM_ROOT/tests/fuzz/targets
inputs_dir=$NVVMM_ROOT/tests/fuzz
runs=2000 minutes='' targets=()

parse_arguments() {
  while (($#)); do
    case $1 in
      --runs) runs=${2:?--runs needs a number}; shift ;;
      --minutes) minutes=${2:?--minutes needs a number}; shift ;;
      --list) list_targets; exit 0 ;;
      -h | --help) usage; exit 0 ;;
      -*) die "unknown argument $1" "see ${0##*/} --help" ;;
      *) targets+=("$1") ;;
    esac
    shift
  done
  ((${#targets[@]})) || mapfile -t targets < <(list_targets)
}

list_targets() {
  need_cargo_fuzz
  cargo fuzz list --fuzz-dir "$fuzz_dir"
}

need_cargo_fuzz() {
  need_rust
  # libFuzzer is C++.
  command -v c++ >/dev/null || need_packages g++
  cargo fuzz --version >/dev/null 2>&1 && return
  say "installing cargo-fuzz (cargo install)"
  cargo install --locked --quiet cargo-fuzz >&2 ||
    die "cargo could not install cargo-fuzz" "see its message above"
}

# run_target TARGET: runs one target, and shows its output if it fails.
run_target() {
  local target=$1 log fresh kind inputs=() limits=(-timeout=60 -rss_limit_mb=3000)
  log=$(mktemp "${TMPDIR:-/tmp}/nvvmm-fuzz.XXXXXX")
  fresh=$(mktemp -d "${TMPDIR:-/tmp}/nvvmm-fuzz.XXXXXX")
  if [[ -n $minutes ]]; then
    inputs=("$inputs_dir/corpus/$target")
    mkdir -p "${inputs[0]}"
    limits+=("-max_total_time=$((minutes * 60))")
  else
    # libFuzzer keeps its new inputs in the first directory.
    inputs=("$fresh")
    limits+=("-runs=$runs" -seed=1)
  fi
  for kind in seeds regressions; do
    [[ ! -d $inputs_dir/$kind/$target ]] || inputs+=("$inputs_dir/$kind/$target")
  done
  if ! cargo fuzz run --fuzz-dir "$fuzz_dir" "$target" "${inputs[@]}" -- "${limits[@]}" \
    >"$log" 2>&1; then
    cat "$log" >&2
    rm -rf "$log" "$fresh"
    die "fuzz target $target failed" "the input is in tests/fuzz/targets/artifacts/$target" \
      "tests/fuzz/README.md describes the next steps"
  fi
  say "$target: $(grep '^Done ' "$log" | tail -n 1)"
  rm -rf "$log" "$fresh"
}

parse_arguments "$@"
need_cargo_fuzz
export RUSTC_BOOTSTRAP=1
for target in "${targets[@]}"; do run_target "$target"; done
