#!/bin/busybox sh
# shellcheck shell=dash
# The init of the initramfs that scripts/debian-image.sh makes. It mounts the root file system
# and goes on with the init there. A disk that is read-only stays as it is: changes go to a tmpfs,
# and so into snapshots of the VM. `root=` on the kernel's command line names another disk than
# /dev/vda.
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev

end_badly() {
  echo "nvvmm: $*" >/dev/console
  poweroff -f
}

while read -r module; do
  insmod "/modules/$module" || echo "init: could not load $module"
done </modules/list

disk=$(sed -n 's/\(.* \)\{0,1\}root=\([^ ]*\).*/\2/p' /proc/cmdline)
disk=${disk:-/dev/vda}
tries=0
while [ ! -b "$disk" ]; do
  tries=$((tries + 1))
  [ "$tries" -lt 100 ] ||
    end_badly "there is no disk $disk: give the image to nvvmm run with --disk"
  sleep 0.1
done

if [ "$(cat "/sys/class/block/${disk##*/}/ro")" = 1 ]; then
  mount -t ext4 -o ro "$disk" /disk || end_badly "$disk has no root file system"
  mount -t tmpfs -o mode=755,size=75% changes /changes
  mkdir /changes/upper /changes/work
  mount -t overlay -o lowerdir=/disk,upperdir=/changes/upper,workdir=/changes/work root /root ||
    end_badly "changes cannot be kept in memory"
else
  mount -t ext4 "$disk" /root || end_badly "$disk has no root file system"
fi
for each in dev proc sys; do mount --move "/$each" "/root/$each"; done
exec switch_root /root /sbin/init "$@"
