#!/usr/bin/env bash
# Starts a server that speaks S3 on this machine, runs a command that uses it, and ends it.
#
#   scripts/with-s3.sh COMMAND [ARGUMENT...]
#   scripts/with-s3.sh --prepare      only installs it: moto, in a directory of its own
#
# COMMAND finds the URL of a bucket in NVVMM_TEST_S3, and in its environment what nvvmm needs to
# reach it: AWS_ENDPOINT_URL, AWS_ALLOW_HTTP, AWS_REGION and credentials. The server keeps all in
# memory. Its log is s3.log in the cache.
#
#   -h, --help   this text
#
# The exit status is that of COMMAND, or 77 where moto cannot be had; the reason is on standard
# error.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$here/lib/say.sh"
source "$here/lib/packages.sh"

moto_version=5.2.5
cache=${NVVMM_CACHE:-$here/../.cache}
venv=$cache/moto-$moto_version
bucket=nvvmm-test

cannot() {
  say "no server that speaks S3 here: $*"
  exit 77
}

# install: makes the environment with moto, unless it is there.
install() {
  [[ ! -e $venv/ready ]] || return 0
  can_have_packages python3-venv curl || cannot "there is no python3-venv or no curl"
  rm -rf "$venv"
  mkdir -p "$cache"
  python3 -m venv "$venv" || cannot "python3 -m venv failed"
  say "installing moto $moto_version (pip)"
  "$venv/bin/pip" install --quiet --disable-pip-version-check "moto[s3,server]==$moto_version" ||
    cannot "pip could not install moto"
  touch "$venv/ready"
}

# start: starts the server on a free port, and sets port and server.
start() {
  local tries
  for ((tries = 0; tries < 20; tries++)); do
    port=$((20000 + RANDOM % 20000))
    "$venv/bin/moto_server" -H 127.0.0.1 -p "$port" >"$cache/s3.log" 2>&1 &
    server=$!
    wait_for_server && return
    end
  done
  cannot "moto_server does not start: see $cache/s3.log"
}

wait_for_server() {
  local tries
  for ((tries = 0; tries < 300; tries++)); do
    kill -0 "$server" 2>/dev/null || return 1
    ! curl -fsS -o /dev/null "http://127.0.0.1:$port/" 2>/dev/null || return 0
    sleep 0.1
  done
  return 1
}

end() {
  kill "$server" 2>/dev/null || true
  wait "$server" 2>/dev/null || true
}

case ${1:-} in
  -h | --help) usage; exit ;;
  '') die "with-s3.sh needs a command" "scripts/with-s3.sh --help" ;;
esac
install
[[ $1 != --prepare ]] || exit 0
server='' port=''
start
trap end EXIT
export AWS_ENDPOINT_URL=http://127.0.0.1:$port AWS_ALLOW_HTTP=true AWS_REGION=us-east-1
export AWS_ACCESS_KEY_ID=test AWS_SECRET_ACCESS_KEY=test
curl -fsS -o /dev/null -X PUT "$AWS_ENDPOINT_URL/$bucket" || cannot "the bucket cannot be made"
export NVVMM_TEST_S3=s3://$bucket
"$@"
