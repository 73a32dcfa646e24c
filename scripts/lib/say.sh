# shellcheck shell=bash
# Messages to the user of a script. They go to stderr; stdout is for results.

say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }

# die MESSAGE [REMEDY]: ends the script. The message is the error, and the remedy tells how to fix
# it.
die() {
  say "error: $1"
  [[ $# -lt 2 ]] || printf '  %s\n' "${@:2}" >&2
  exit 1
}

# usage: prints the comment block at the top of the calling script, without its shebang.
usage() { sed -n '2,/^[^#]/{/^#/!d;s/^# \{0,1\}//;p}' "$0"; }
