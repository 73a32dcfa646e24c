#!/bin/busybox sh
# shellcheck shell=dash
# The init of the nested host's initramfs. It makes this machine's root file system the root, and
# runs the command that nested.sh left in the results directory. It leaves the command's status
# there, and powers off or boots once more.
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev

end_badly() {
  echo "nested-init: $*"
  dmesg | tail -n 20
  poweroff -f
}

while read -r module; do
  insmod "/modules/$module" || echo "nested-init: could not load $module"
done </modules/list

option() { sed -n "s/.*nested\.$1=\([^ ]*\).*/\1/p" /proc/cmdline; }

results=$(option results) boots=$(option boots)
share=trans=virtio,version=9p2000.L,msize=1048576
mount -t 9p -o "$share,ro,cache=loose" host /host || end_badly "no root file system"
mount -t tmpfs -o size=50% changes /changes
mkdir /changes/upper /changes/work
layers=lowerdir=/host,upperdir=/changes/upper,workdir=/changes/work
mount -t overlay -o $layers overlay /root || end_badly "no overlay"
mount --move /dev /root/dev
mount -t proc proc /root/proc
mount -t sysfs sys /root/sys
mount -t tmpfs -o mode=755 run /root/run
mkdir -p /root/dev/shm /root/dev/pts "/root$results"
mount -t tmpfs -o size=60% shm /root/dev/shm
mount -t devpts devpts /root/dev/pts
# Shells open process substitutions by this link, which udev would make.
ln -s /proc/self/fd /root/dev/fd
mount -t 9p -o "$share,cache=none" results "/root$results" || end_badly "no results directory"
ip link set lo up
# A network that leads nowhere. passt gives a guest the address of the card with the default route.
ip link add outside type dummy && ip addr add 10.9.9.2/24 dev outside &&
  ip link set outside up && ip route add default via 10.9.9.1 ||
  echo "nested-init: could not make a network"
hostname nested
ulimit -n 65536

output=
for port in /sys/class/virtio-ports/*; do
  [ "$(cat "$port/name")" = output ] && output=/dev/${port##*/}
done
[ -n "$output" ] || end_badly "no output port"
control=$results/.nested
boot=1
while [ -e "/root$control/boot_id.$boot" ]; do
  [ -e "/root$control/status.$boot" ] || end_badly "boot $boot ended without a status"
  boot=$((boot + 1))
done
cat /proc/sys/kernel/random/boot_id >"/root$control/boot_id.$boot"
[ -c /root/dev/kvm ] || end_badly "kvm_amd gave no /dev/kvm"
# KVM patches its own code (static keys) when the number of vCPUs without a local APIC, or with
# one that is off, changes from or to 0. This happens with every VM that boots or is restored.
# QEMU's emulation does not survive it every time: a CPU of the nested host stops, or takes an
# exception with the guest's GS and panics. Two vCPUs that never run keep the numbers above 0, so
# that the code is patched once.
ln -s /root/dev/null /dev/null # for what the shell starts in the background
# shellcheck disable=SC2016 # perl's variables
chroot /root /usr/bin/perl -e '
  open(my $kvm, "+<", "/dev/kvm") or die "/dev/kvm: $!";
  for my $chip (0, 1) {
    my $fd = ioctl($kvm, 0xAE01, 0) or die "KVM_CREATE_VM: $!";
    open(my $vm, "+<&=", int $fd) or die "VM: $!";
    push @held, $vm;
    $chip and (ioctl($vm, 0xAE60, 0) or die "KVM_CREATE_IRQCHIP: $!");
    push @held, (ioctl($vm, 0xAE41, 0) or die "KVM_CREATE_VCPU: $!");
  }
  sleep;
' </root/dev/null &
# A sign of life for nested.sh. It takes the time of the file from the machine that keeps it.
while :; do
  echo "$boot" >"/root$control/alive"
  sleep 10
done </root/dev/null &
npt=$(cat /sys/module/kvm_amd/parameters/npt)
shm=$(df -h /root/dev/shm | awk 'NR == 2 {print $2}')
echo "Linux $(uname -r), kvm_amd npt=$npt, /dev/shm $shm" >"/root$control/up.$boot"

# The root is that of a mount namespace: who is in a chroot gets no user namespaces.
# shellcheck disable=SC2016 # the inner shell's argument
in_root='cd /root && mount --move . / && exec chroot . /bin/bash "$1"'
if [ "$(option shell)" = 1 ]; then
  setsid -c unshare -m /bin/sh -c "$in_root" sh "$control/command" <>/root/dev/hvc0 >&0 2>&1
else
  NVVMM_NESTED_BOOT=$boot unshare -m /bin/sh -c "$in_root" sh "$control/command" \
    </root/dev/null >"/root$output" 2>&1
fi
status=$?
# Writes back file systems that the command left mounted. Only persistent memory and disks survive a
# reboot.
sync
echo $status >"/root$control/status.$boot"
if [ $status = 0 ] && [ "$boot" -lt "$boots" ]; then
  reboot -f
else
  poweroff -f
fi
