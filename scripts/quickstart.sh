#!/usr/bin/env bash
# Runs the quickstart of README.md as it is typed: from a clean clone of this source tree, with
# nothing built. The outputs that README shows must be the real ones. Where KVM cannot boot Linux,
# the VMs run in the nested harness. It takes some ten minutes, nested half an hour.
#
#   scripts/quickstart.sh [--share] [--update] [--timeout SECONDS]
#
#   --share            uses this tree's builds and cache: faster, but not clean
#   --update           writes the real outputs below $NVVMM_CACHE/results/quickstart
#   --timeout SECONDS  the limit of the nested host (default 2700)
#   -h, --help         this text
#
# The clone has what is committed. As root it is installed below the clone's directory, and
# everything is removed at the end.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$here/lib/kvm.sh"
source "$here/lib/programs.sh"
source "$here/lib/test-programs.sh"

share=0 timeout_s=2700
while (($#)); do
  case $1 in
    --share) share=1 ;;
    --update) export NVVMM_DOCUMENTS_UPDATE=1 ;;
    --timeout) timeout_s=${2:?--timeout needs seconds}; shift ;;
    -h | --help) usage; exit 0 ;;
    *) die "unknown argument $1" "see ${0##*/} --help" ;;
  esac
  shift
done

need_rust
need_packages git
[[ -z $(git -C "$NVVMM_ROOT" status --porcelain --untracked-files=no) ]] ||
  say "this tree has changes that are not committed; the clone does not have them"
base=$(mktemp -d "${TMPDIR:-/tmp}/nvvmm-quickstart.XXXXXX")
trap 'rm -rf "$base"' EXIT
trap 'exit 130' INT TERM
export NVVMM_QUICKSTART=$base
results=$NVVMM_CACHE/results/quickstart
mkdir -p "$results"

say "building the program that reads README.md"
messages=$(cd "$NVVMM_ROOT" && cargo test -p nvvmm-tests --test documents --no-run --quiet \
  --message-format=json-render-diagnostics)
program=$(artifacts true <(echo "$messages") | path_of documents)
part() { "${@:2}" "$program" --ignored --nocapture "quickstart::$1"; }

say "from a clean clone: what comes before the first VM"
# The clone builds in its own directories.
target=$(cargo_target_dir "$NVVMM_ROOT") cache=$NVVMM_CACHE
(
  unset NVVMM_ROOT NVVMM_CACHE CARGO_TARGET_DIR
  ((!share)) || export CARGO_TARGET_DIR=$target NVVMM_CACHE=$cache
  NVVMM_RESULTS=$results part a_clone env
)
cd "$base/nvvmm"
if [[ $(kvm_kind) == direct ]]; then
  NVVMM_RESULTS=$results part the_rest env
else
  say "the VMs run in the nested harness: $(kvm_reason)"
  export NVVMM_NESTED_QEMU=${NVVMM_NESTED_QEMU:-10}
  part the_rest "$here/nested.sh" --results "$results" --timeout "$timeout_s" --
fi
say "the quickstart works as typed"
