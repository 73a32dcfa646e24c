#!/usr/bin/env bash
# Runs a command of nvvmm bench with the place that scripts/on-medium.sh has made as one more directory on huge pages.
set -euo pipefail
exec "$@" --huge-dir "${NVVMM_TEST_PLACES##*=}"
