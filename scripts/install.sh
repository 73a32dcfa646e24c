#!/usr/bin/env bash
# Installs nvvmm with its man pages and shell completions, and changes nothing else on the host.
#
#   scripts/install.sh [--prefix DIR] [--uninstall]
#
#   --prefix DIR   directory to install to (default: /usr/local for root, ~/.local otherwise)
#   --uninstall    removes the files that this script installed there
#   -h, --help     this text
#
# DESTDIR is put before every path, for packagers. The program is built first (release).
# scripts/build-guests.sh builds nvvmm-agent, which runs in guests.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$here/lib/programs.sh"

prefix=/usr/local uninstall=0
((EUID == 0)) || prefix=$HOME/.local
while (($#)); do
  case $1 in
    --prefix) prefix=${2:?--prefix needs a directory}; shift ;;
    --uninstall) uninstall=1 ;;
    -h | --help) usage; exit 0 ;;
    *) die "unknown argument $1" "see ${0##*/} --help" ;;
  esac
  shift
done
[[ $prefix == /* ]] || die "--prefix must be an absolute path: $prefix"
to=${DESTDIR:-}$prefix

# Directories in which each shell looks for completions.
completions=(
  "bash share/bash-completion/completions/nvvmm"
  "zsh share/zsh/site-functions/_nvvmm"
  "fish share/fish/vendor_completions.d/nvvmm.fish"
)

if ((uninstall)); then
  rm -f "$to/bin/nvvmm" "$to"/share/man/man1/nvvmm{,-*}.1
  for each in "${completions[@]}"; do rm -f "$to/${each#* }"; done
  say "removed from $to"
  exit
fi

need_rust
build_nvvmm
install -D -m 755 "$NVVMM_BIN" "$to/bin/nvvmm"
install -d "$to/share/man/man1"
"$NVVMM_BIN" man "$to/share/man/man1"
for each in "${completions[@]}"; do
  install -d "$(dirname "$to/${each#* }")"
  "$NVVMM_BIN" completions "${each%% *}" >"$to/${each#* }"
done
say "installed to $to: bin/nvvmm, man pages, completions for bash, zsh and fish"
[[ -n ${DESTDIR:-} || :$PATH: == *":$prefix/bin:"* ]] || say "$prefix/bin is not in PATH"
