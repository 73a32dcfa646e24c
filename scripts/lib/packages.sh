# shellcheck shell=bash
# Installs missing distribution packages, and fetches packages to unpack. Needs say.sh.

is_debian_like() { command -v apt-get >/dev/null && command -v dpkg-query >/dev/null; }

as_root() {
  if ((EUID == 0)); then
    "$@"
  elif command -v sudo >/dev/null; then
    sudo "$@"
  else
    die "this needs root: $*" "run it as root, or install sudo"
  fi
}

# apt-get fails while another one works: one of ours in a tier beside, or the system's own.
apt_get() {
  as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=600 "$@" >&2
}

# one_at_a_time COMMAND...: waits until no other of these scripts installs packages, then runs the
# command.
one_at_a_time() { (flock 9 && "$@") 9>"${TMPDIR:-/tmp}/nvvmm-packages-$EUID.lock"; }

refresh_package_lists() {
  say "refreshing the package lists (apt-get update)"
  apt_get update
}

has_package() { [[ $(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null) == installed ]]; }

# need_packages PACKAGE...: installs those that are missing, and names them.
need_packages() {
  if ! is_debian_like; then
    say "not a Debian or Ubuntu machine: install these packages (Debian names): $*"
    return 0
  fi
  has_packages "$@" || one_at_a_time install_missing "$@"
}

# can_have_packages PACKAGE...: installs those that are missing. Fails with a message where that is
# not possible; the caller does without.
can_have_packages() { (need_packages "$@"); }

has_packages() {
  local package
  for package in "$@"; do has_package "$package" || return 1; done
}

install_missing() {
  local package missing=()
  for package in "$@"; do has_package "$package" || missing+=("$package"); done
  ((${#missing[@]})) || return 0
  say "installing ${missing[*]} (apt-get install)"
  install_now "${missing[@]}" && return
  refresh_package_lists
  install_now "${missing[@]}" ||
    die "apt-get could not install ${missing[*]}" "see its message above"
}

install_now() { apt_get install -y --no-install-recommends "$@"; }

# newest_package REGEX: the highest version among available packages whose whole name matches.
newest_package() { apt-cache pkgnames linux-image- | grep -Ex "$1" | sort -V | tail -n 1; }

# fetch_packages PACKAGE...: puts their .deb files into the current directory, and installs nothing.
fetch_packages() {
  local options=(-q)
  ((EUID != 0)) || options+=(-o APT::Sandbox::User=root)
  apt-get "${options[@]}" download "$@" >&2 && return
  one_at_a_time refresh_package_lists
  apt-get "${options[@]}" download "$@" >&2 ||
    die "apt-get could not download $*" "see its message above"
}
