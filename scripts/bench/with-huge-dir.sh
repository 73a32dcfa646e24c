#!/usr/bin/env bash
# Runs a command of nvvmm bench that also measures on the medium that scripts/on-medium.sh made.
set -euo pipefail
places=${NVVMM_TEST_PLACES:?scripts/on-medium.sh sets it}
exec "$@" --huge-dir "${places##*=}"
