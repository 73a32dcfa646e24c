#!/usr/bin/env bash
# Makes the root file system of scripts/debian-image.sh: unpacks WORK/root.tar, puts WORK/add over
# it, and fills IMAGE, of that many bytes. HASH is of root's password, or empty. Runs as root, or in
# fakeroot, which keeps the owners of files.
#
#   debian-pack.sh WORK IMAGE BYTES HASH
set -euo pipefail
work=$1 image=$2 bytes=$3 hash=$4 tree=$1/tree
mkdir "$tree"
tar -C "$tree" --numeric-owner --exclude='./dev/*' -xf "$work/root.tar"
rm "$work/root.tar"
cp -r --no-dereference --preserve=mode,links --remove-destination "$work/add/." "$tree/"
chown -R --no-dereference 0:0 "$tree/usr/local/sbin" "$tree/usr/lib/modules"
[[ -z $hash ]] || sed -i "s|^root:[^:]*:|root:$hash:|" "$tree/etc/shadow"
chmod 755 "$tree"
# fakeroot leaves a file readable for its true owner when it changes the mode, but not when tar
# makes it: /etc/shadow- has the mode 0. Each such file is given the mode that it has.
find "$tree" -type f ! -perm -u+r -print0 | while IFS= read -r -d '' file; do
  chmod "$(stat -c %a "$file")" "$file"
done
# Newer than /usr: nothing is to be brought up to date at boot.
touch "$tree"/{etc,var}/.updated
truncate -s "$bytes" "$image"
mke2fs -q -t ext4 -L root -m 1 -d "$tree" "$image"
