# shellcheck shell=bash
# Distribution packages: installing what is missing, fetching what is only unpacked. Needs say.sh.

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

refresh_package_lists() {
  say "refreshing the package lists (apt-get update)"
  as_root apt-get update -qq >&2
}

has_package() { [[ $(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null) == installed ]]; }

# need_packages PACKAGE...: installs those that are missing and says which.
need_packages() {
  local package missing=()
  if ! is_debian_like; then
    say "not a Debian or Ubuntu machine: these must be there (Debian package names): $*"
    return 0
  fi
  for package in "$@"; do has_package "$package" || missing+=("$package"); done
  ((${#missing[@]})) || return 0
  say "installing ${missing[*]} (apt-get install)"
  install_now "${missing[@]}" && return
  refresh_package_lists
  install_now "${missing[@]}" || die "apt-get could not install ${missing[*]}" "see its message above"
}

install_now() { as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >&2; }

# newest_package REGEX: the highest version among available packages whose whole name matches.
newest_package() { apt-cache pkgnames linux-image- | grep -Ex "$1" | sort -V | tail -n 1; }

# fetch_packages PACKAGE...: puts their .deb files into the current directory; installs nothing.
fetch_packages() {
  local options=(-q)
  ((EUID != 0)) || options+=(-o APT::Sandbox::User=root)
  apt-get "${options[@]}" download "$@" >&2 && return
  refresh_package_lists
  apt-get "${options[@]}" download "$@" >&2 || die "apt-get could not download $*" "see its message above"
}
