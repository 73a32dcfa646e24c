#!/usr/bin/env bash
# Installs nvvmm with its man pages and shell completions, nvvmm-agent and the bare-metal guest, and
# lets the group kvm run VMs.
#
#   scripts/install.sh [--prefix DIR] [--devices yes|no|only] [--uninstall]
#
#   --prefix DIR   directory to install to (default: /usr/local for root, ~/.local otherwise)
#   --devices HOW  yes: a udev rule lets the group kvm use /dev/kvm and /dev/userfaultfd, for all
#                  boots and now (needs root). no: not. only: that, and nothing else. The default
#                  is yes for root. Others are asked, if they can use sudo at a terminal; else the
#                  script prints the command
#   --uninstall    removes the files that this script installed there; for root also the rule
#   -h, --help     this text
#
# Nothing else of the host is changed. For root, nvvmm@.service goes to PREFIX/lib/systemd/system.
# DESTDIR is put before every path, for packagers; the devices of this host then stay as they are.
# Everything is built first, with optimisations. PREFIX/lib/nvvmm gets what runs in guests:
# nvvmm-agent, linked statically, its hooks, and nvvmm-bare-metal, a guest to try.
# scripts/package.sh makes a package.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$here/lib/programs.sh"
source "$here/lib/device-access.sh"

prefix=/usr/local uninstall=0 devices=
((EUID == 0)) || prefix=$HOME/.local
while (($#)); do
  case $1 in
    --prefix) prefix=${2:?--prefix needs a directory}; shift ;;
    --devices) devices=${2:?--devices needs yes, no or only}; shift ;;
    --uninstall) uninstall=1 ;;
    -h | --help) usage; exit 0 ;;
    *) die "unknown argument $1" "see ${0##*/} --help" ;;
  esac
  shift
done
[[ $prefix == /* ]] || die "--prefix must be an absolute path: $prefix"
[[ $devices == @(|yes|no|only) ]] || die "--devices $devices" "it is yes, no or only"
to=${DESTDIR:-}$prefix
unit=$to/lib/systemd/system/nvvmm@.service
guests=$to/lib/nvvmm

# Directories in which each shell looks for completions.
completions=(
  "bash share/bash-completion/completions/nvvmm"
  "zsh share/zsh/site-functions/_nvvmm"
  "fish share/fish/vendor_completions.d/nvvmm.fish"
)

# True if root installs for all users of this host, or a packager for all hosts.
is_for_all() {
  { ((EUID == 0)) || [[ -n ${DESTDIR:-} ]]; } && [[ $prefix != "$HOME"/* ]]
}

# install_rule: as --devices says.
install_rule() {
  [[ $devices != no ]] || return 0
  if [[ -n ${DESTDIR:-} ]]; then
    is_for_all || return 0
    install -d "$(dirname "$DESTDIR$access_rule")"
    access_rule_text >"$DESTDIR$access_rule"
    say "made $DESTDIR$access_rule"
  elif ((EUID == 0)); then
    [[ $devices == yes ]] || is_for_all || return 0
    install_rule_here
  elif is_open_to_us; then
    return 0
  elif may_use_sudo; then
    sudo "$here/install.sh" --devices only
    say "if you are not in the group kvm: sudo usermod -aG kvm $(id -un), then log in again"
  else
    say "to run VMs as $(id -un), root types once: $(access_commands) &&" \
      "sudo usermod -aG kvm $(id -un)"
  fi
}

install_rule_here() {
  have_kvm_group
  install -d "$(dirname "$access_rule")"
  access_rule_text >"$access_rule"
  chmod 0644 "$access_rule"
  open_devices
  reload_udev
  say "members of the group kvm can run VMs: $access_rule"
}

is_open_to_us() {
  [[ -r /dev/kvm && -w /dev/kvm && -r /dev/userfaultfd && -w /dev/userfaultfd ]]
}

# may_use_sudo: asks, unless --devices yes said it already.
may_use_sudo() {
  local answer
  command -v sudo >/dev/null || return 1
  [[ $devices != yes ]] || return 0
  [[ -t 0 && -t 2 ]] || return 1
  read -rp "Let the group kvm use /dev/kvm and /dev/userfaultfd, with sudo? [y/N] " answer
  [[ $answer == [yY]* ]]
}

# remove_rule: the devices keep their group until the next boot.
remove_rule() {
  local rule=${DESTDIR:-}$access_rule
  [[ $devices != no && -e $rule ]] || return 0
  if ((EUID != 0)); then
    say "$rule stays; root removes it: sudo rm $rule"
  elif [[ -n ${DESTDIR:-} || $devices == only ]] || is_for_all; then
    rm -f "$rule"
    [[ -n ${DESTDIR:-} ]] || reload_udev
    say "removed $rule"
  fi
}

if ((uninstall)); then
  rm -f "$to/bin/nvvmm" "$to"/share/man/man1/nvvmm{,-*}.1
  for each in "${completions[@]}"; do rm -f "$to/${each#* }"; done
  rm -f "$unit" "$guests"/nvvmm-{agent,bare-metal}
  rm -rf "$guests/hooks"
  [[ ! -d $guests ]] || rmdir --ignore-fail-on-non-empty "$guests"
  say "removed from $to"
  remove_rule
  exit
fi
if [[ $devices == only ]]; then
  devices=yes
  install_rule
  exit
fi

need_rust
build_nvvmm
build_guests
build_bare_metal
install -D -m 755 "$NVVMM_BIN" "$to/bin/nvvmm"
install -d "$to/share/man/man1"
"$NVVMM_BIN" man --force "$to/share/man/man1"
for each in "${completions[@]}"; do
  install -d "$(dirname "$to/${each#* }")"
  "$NVVMM_BIN" completions "${each%% *}" >"$to/${each#* }"
done
install -D -m 755 "$(agent_path)" "$guests/nvvmm-agent"
install -D -m 755 "$(bare_metal_path)" "$guests/nvvmm-bare-metal"
rm -rf "$guests/hooks"
# The modes are the hooks' own: one that is not executable is off.
for each in "$NVVMM_ROOT"/guest/agent/hooks/{snapshot.d,restored.d}/*; do
  install -D -m "$(stat -c %a "$each")" "$each" "$guests/hooks/${each#*/agent/hooks/}"
done
say "installed to $to: bin/nvvmm, lib/nvvmm/nvvmm-agent, hooks and nvvmm-bare-metal for guests," \
  "man pages, completions for bash, zsh and fish"
if is_for_all; then
  install -d "$(dirname "$unit")"
  sed "s|@BINDIR@|$prefix/bin|" "$here/nvvmm@.service" >"$unit"
fi
install_rule
[[ -n ${DESTDIR:-} || :$PATH: == *":$prefix/bin:"* ]] || say "$prefix/bin is not in PATH"
