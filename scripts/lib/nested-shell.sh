#!/usr/bin/env bash
# The shell of scripts/nested.sh --shell. Runs as root on the nested host, with a terminal.
control=$NVVMM_RESULTS/.nested
read -r rows columns TERM <"$control/terminal"
stty rows "$rows" cols "$columns"
export TERM
# Where scripts/install.sh puts the program for an ordinary user.
[[ :$PATH: == *":$HOME/.local/bin:"* ]] || export PATH=$HOME/.local/bin:$PATH
cat "$control/greeting"
export PS1='nested:\w\$ ' HISTFILE=
exec bash --norc --noprofile -i
