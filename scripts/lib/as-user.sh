#!/usr/bin/env bash
# Runs a command as an ordinary user who may use /dev/kvm and /dev/userfaultfd, such as the tests
# of the tier kvm. Root runs it; for an ordinary user the command just runs.
#
#   scripts/lib/as-user.sh [--user NAME] [--] COMMAND [ARGUMENT...]
#
#   --user NAME   the user (default: nvvmm-test, which is made if there is none, with no password,
#                 no home and no shell)
#   -h, --help    this text
#
# The group kvm gets the two devices for as long as the command runs, unless they have a rule for
# that already (scripts/install.sh). The command has HOME, TMPDIR and XDG_RUNTIME_DIR of its own,
# which are removed at the end. Places in NVVMM_TEST_PLACES are opened to the user. COMMAND, and
# the programs that NVVMM_BIN, NVVMM_DEV_BIN, NVVMM_RELEASE_BIN and NVVMM_BAREMETAL_GUEST name, are
# copied if the user cannot reach them. The exit status is that of the command.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$here/say.sh"
source "$here/device-access.sh"

user=nvvmm-test
while (($#)); do
  case $1 in
    --user) user=${2:?--user needs a name}; shift ;;
    -h | --help) usage; exit 0 ;;
    --) shift; break ;;
    -*) die "unknown argument $1" "see ${0##*/} --help" ;;
    *) break ;;
  esac
  shift
done
(($#)) || die "a command is needed" "see ${0##*/} --help"
if ((EUID != 0)); then exec "$@"; fi
command -v setpriv >/dev/null || die "no setpriv" "install util-linux"

have_user() {
  getent passwd "$user" >/dev/null ||
    useradd --system --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin "$user" ||
    die "cannot make the user $user"
}

# as_them COMMAND [ARGUMENT...]: with the user's groups and kvm, and no way to others.
as_them() {
  setpriv --reuid="$user" --regid="$(id -g "$user")" --groups="$groups" --no-new-privs \
    --bounding-set=-all --inh-caps=-all "$@"
}

# The devices as they were; a rule means that they stay open.
declare -A before=()
open_for_now() {
  local name
  for name in "${access_devices[@]}"; do
    [[ -c /dev/$name ]] || die "there is no /dev/$name"
    [[ -e $access_rule ]] || before[$name]=$(stat -c '%g %a' "/dev/$name")
  done
  open_devices
}

# shellcheck disable=SC2317 # the trap calls it
give_back() {
  local name
  for name in "${!before[@]}"; do
    chgrp "${before[$name]% *}" "/dev/$name"
    chmod "${before[$name]#* }" "/dev/$name"
  done
  rm -rf "$base"
}

# reachable VARIABLE: copies the program that it names if the user cannot run or read it.
reachable() {
  local variable=$1 file=${!1:-}
  [[ -n $file && -e $file ]] || return 0
  file=$(realpath "$file")
  as_them test -r "$file" 2>/dev/null || {
    install -m 755 "$file" "$base/programs/$variable-${file##*/}"
    file=$base/programs/$variable-${file##*/}
  }
  export "$variable=$file"
}

open_places() {
  local place
  for place in ${NVVMM_TEST_PLACES:-}; do
    place=${place#*=}
    if [[ -c $place ]]; then
      chown "$user" "$place"
    else
      chmod 1777 "$place"
    fi
  done
}

# One at a time: the end of one run would close the devices to the other.
exec 8>/run/nvvmm-as-user.lock
flock 8
have_kvm_group
have_user
groups=$(id -g "$user"),$(getent group kvm | cut -d: -f3)
# Below /tmp or /dev/shm: sockets have short paths, and a user can get there.
base=$(mktemp -d /tmp/nvvmm-user.XXXXXX)
chmod 755 "$base"
mkdir "$base/programs"
for name in home tmp run; do install -d -m 700 -o "$user" -g "$(id -g "$user")" "$base/$name"; done
trap give_back EXIT
trap 'exit 130' INT TERM
open_for_now
open_places
for name in NVVMM_BIN NVVMM_DEV_BIN NVVMM_RELEASE_BIN NVVMM_BAREMETAL_GUEST; do
  reachable "$name"
done
# The test program may stand behind others: timeout, env.
arguments=()
for word in "$@"; do
  if [[ $word == /* && -f $word && -x $word ]]; then
    as_user_program=$word
    reachable as_user_program
    word=$as_user_program
  fi
  arguments+=("$word")
done
# A directory that the user may read: the source tree may be closed, and tests must not write to it.
cd "$base/home"
status=0
HOME=$base/home TMPDIR=$base/tmp XDG_RUNTIME_DIR=$base/run USER=$user LOGNAME=$user \
  as_them "${arguments[@]}" 8>&- || status=$?
exit "$status"
