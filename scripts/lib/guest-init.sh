#!/bin/busybox sh
# shellcheck shell=dash
# The init of the Linux guest's initramfs: loads the drivers, starts nvvmm-agent, and nvvmm-witness on the
# console.
# nvvmm.shell on the kernel command line starts a shell instead, nvvmm.agent nothing but nvvmm-agent.
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs run /run
mkdir /dev/pts
mount -t devpts devpts /dev/pts
# Kernel messages would get into the middle of the witness's lines; they stay in the kernel log.
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
  sleep 10000000
else
  setsid -c nvvmm-witness
  echo "@ died -- nvvmm-witness ended with status $?"
fi
poweroff -f
