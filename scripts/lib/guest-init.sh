#!/bin/busybox sh
# shellcheck shell=dash
# The init of the Linux guest's initramfs: loads the drivers, starts nvvmm-agent, and
# nvvmm-witness on the console. Words on the kernel's command line change this: nvvmm.shell
# starts a shell instead of the witness, nvvmm.agent starts nvvmm-agent only.
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs run /run
mkdir /dev/pts
mount -t devpts devpts /dev/pts
# By this signal busybox's poweroff asks the first process to end.
trap 'poweroff -f' USR2
# Kernel messages would be printed inside of the witness's lines. They stay in the kernel log.
dmesg -n 1

while read -r module; do
  insmod "/modules/$module" || echo "init: could not load $module"
done </modules/list
ip link set lo up 2>/dev/null
nvvmm-agent >/run/agent.log 2>&1 &

if grep -qw nvvmm.shell /proc/cmdline; then
  setsid -c sh
elif grep -qw nvvmm.agent /proc/cmdline; then
  echo "@ ready cpus=$(nproc)"
  # A signal ends this wait, but not a program in the foreground.
  sleep 10000000 &
  wait
else
  setsid -c nvvmm-witness
  echo "@ died -- nvvmm-witness ended with status $?"
fi
poweroff -f
