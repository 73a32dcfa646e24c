#!/usr/bin/env bash
# Shows nvvmm at work. It builds nvvmm, makes a Linux guest from the distribution's packages and
# boots it from a pool. Then it snapshots the running guest, restores the snapshot twice beside
# it, and prints the costs. Where KVM cannot boot Linux, the same runs in the nested harness
# (scripts/nested.sh).
#
#   scripts/demo.sh [-h | --help]
#
# NVVMM_FORCE_NESTED=1 uses the nested harness even where it is not needed.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$here/lib/kvm.sh"
source "$here/lib/programs.sh"

case ${1:-} in
  '') ;;
  -h | --help) usage; exit 0 ;;
  *) die "unknown argument $1" "see ${0##*/} --help" ;;
esac

need_rust
need_packages jq socat
build_nvvmm
make_guest_image 6.1

if [[ $(kvm_kind) == direct ]]; then
  say "Linux guests run directly on this machine: $(kvm_reason)"
  exec "$here/demo/flow.sh"
fi
say "Linux guests cannot run directly on this machine: $(kvm_reason)"
say "the demo runs in the nested harness, on an emulated CPU"
say "expect it to be much slower than on a real CPU"
exec "$here/nested.sh" --timeout 1200 "$here/demo/flow.sh"
