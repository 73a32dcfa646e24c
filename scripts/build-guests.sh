#!/usr/bin/env bash
# Builds the programs that run inside guests: guest/bare-metal (the test guest without a kernel),
# guest/linux (nvvmm-witness) and guest/agent (nvvmm-agent).
#
#   scripts/build-guests.sh [--print]
#
#   --print      prints shell assignments of NVVMM_BAREMETAL_GUEST, NVVMM_WITNESS and NVVMM_AGENT
#   -h, --help   this text
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$here/lib/programs.sh"

print=0
for argument in "$@"; do
  case $argument in
    --print) print=1 ;;
    -h | --help) usage; exit 0 ;;
    *) die "unknown argument $argument" "see ${0##*/} --help" ;;
  esac
done

need_rust
build_bare_metal
build_guests
((!print)) || printf '%s=%q\n' NVVMM_BAREMETAL_GUEST "$(bare_metal_path)" \
  NVVMM_WITNESS "$(witness_path)" NVVMM_AGENT "$(agent_path)"
