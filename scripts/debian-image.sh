#!/usr/bin/env bash
# Makes a Debian guest from packages: a root file system with systemd, a login on the serial console
# and nvvmm-agent, and a kernel and an initramfs that boot it. Prints the command that runs it.
#
#   scripts/debian-image.sh [OPTION]...
#
#   --release NAME         release of Debian (default: trixie, which is Debian 13; bookworm is 12)
#   --include PACKAGE,...  more packages (repeatable). `nvvmm run --net` gives the guest a network
#   --size SIZE            size of the file system (default 2G); the file takes what is in use
#   --output FILE          the image (default: debian.img). Kernel and initramfs get the same name
#                          with .vmlinuz and .initrd
#   --force                replaces files that exist
#   --password-file FILE   password of root, in the first line: the console asks for it. Without
#                          this option the console has a shell of root, without a question, and
#                          nobody can log in otherwise
#   --agent FILE           this nvvmm-agent; without it the agent is built, which needs Rust
#   --mirror URL           where packages come from (default: http://deb.debian.org/debian)
#   --mode MODE            how packages are installed: root, unshare, fakechroot, or auto (the
#                          default), which is the first of them that works here
#   -h, --help             this text
#
# Needs no root, but for missing packages (mmdebstrap, fakeroot, passt and others), which sudo
# installs.
# The mode unshare needs user namespaces and a range of user IDs in /etc/subuid, as each user of
# Debian and Ubuntu has one. fakechroot needs neither, but makes only the release of Debian that the
# host has: programs of the image run with the host's loader. Nothing else of the host is changed.
# It fetches about 120 MiB and takes a minute or two. NVVMM_CACHE keeps the kernel.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$here/lib/programs.sh"
source "$here/lib/kernel.sh"
source "$here/lib/room.sh"

# virtio_pci is there so that the image boots in other machines, too.
initramfs_modules=(virtio_mmio virtio_pci virtio_blk virtio_rng virtio_net crc32c_generic ext4
  overlay vmw_vsock_virtio_transport)
packages=(systemd-sysv systemd-resolved udev dbus kmod procps login less vim-tiny iproute2)
release=trixie size=2G output=debian.img force=0 password_file='' agent='' mirror='' mode=auto

parse_arguments() {
  while (($#)); do
    case $1 in
      --release) release=${2:?--release needs a name}; shift ;;
      --include) take_packages "${2:?--include needs a package}"; shift ;;
      --size) size=${2:?--size needs a size}; shift ;;
      --output) output=${2:?--output needs a file}; shift ;;
      --force) force=1 ;;
      --password-file) password_file=${2:?--password-file needs a file}; shift ;;
      --agent) agent=${2:?--agent needs a file}; shift ;;
      --mirror) mirror=${2:?--mirror needs a URL}; shift ;;
      --mode) mode=${2:?--mode needs a name}; shift ;;
      -h | --help) usage; exit 0 ;;
      *) die "unknown argument $1" "see ${0##*/} --help" ;;
    esac
    shift
  done
  check_arguments
}

take_packages() {
  local names name
  IFS=', ' read -ra names <<<"$1"
  for name in "${names[@]}"; do
    [[ $name =~ ^[a-z0-9][a-z0-9+.-]+$ ]] || die "'$name' is not the name of a package"
    packages+=("$name")
  done
}

# check_arguments: all that can be found wrong before anything is fetched.
check_arguments() {
  local file
  [[ $release =~ ^[a-z]+$ ]] ||
    die "'$release' is not a release of Debian" "use trixie or bookworm"
  [[ $mode == @(auto|root|unshare|fakechroot) ]] ||
    die "--mode $mode" "it is auto, root, unshare or fakechroot"
  size_bytes=$(numfmt --from=iec "${size%B}" 2>/dev/null) || die "--size $size is not a size"
  ((size_bytes >= 512 << 20)) || die "--size $size is too small: Debian needs 512M or more"
  base=${output%.img}
  kernel=$base.vmlinuz initrd=$base.initrd
  [[ -d $(dirname "$output") ]] || die "there is no directory $(dirname "$output")"
  for file in "$output" "$kernel" "$initrd"; do
    [[ ! -d $file ]] || die "$file is a directory"
    [[ ! -e $file ]] || ((force)) || die "$file exists" "--force replaces it"
  done
  [[ -z $mirror ]] || export NVVMM_DEBIAN_MIRROR=$mirror
  [[ -z $agent || -f $agent ]] || die "there is no file $agent"
  [[ -z $password_file ]] || read_password
}

# read_password: sets password_hash (SHA-512), which perl's crypt makes.
read_password() {
  local password
  IFS= read -r password <"$password_file" || [[ -n $password ]] ||
    die "$password_file has no password"
  [[ -n $password ]] || die "$password_file has an empty first line"
  # shellcheck disable=SC2016 # perl's variables
  password_hash=$(perl -e 'chomp(my ($word, $salt) = <STDIN>); print crypt($word, "\$6\$$salt\$")' \
    <<<"$password"$'\n'"$(od -An -N8 -tx1 /dev/urandom | tr -d ' \n')")
  [[ $password_hash == \$6\$* ]] || die "this host cannot make a SHA-512 hash of a password"
}

need_tools() {
  local tools=(mmdebstrap debian-archive-keyring e2fsprogs busybox-static kmod cpio xz-utils zstd)
  ((EUID == 0)) || tools+=(fakeroot fakechroot uidmap)
  is_debian_like || die "packages of Debian need apt-get, which this machine does not have"
  need_packages "${tools[@]}"
  can_have_packages passt || say "without passt the guest has no network by --net"
}

# choose_mode: sets mode.
choose_mode() {
  if [[ $mode == auto ]]; then
    mode=fakechroot
    if ((EUID == 0)); then
      mode=root
    elif grep -qs "^$(id -un):" /etc/subuid && unshare --user --map-auto true 2>/dev/null; then
      mode=unshare
    fi
  fi
  [[ $mode != fakechroot || $(host_release) == "$release" ]] ||
    die "without root and user namespaces only the host's own release of Debian can be made" \
      "let root add a range of IDs: sudo usermod --add-subuids 100000-165535" \
      "  --add-subgids 100000-165535 $(id -un)" \
      "or run this as root"
}

# host_release: its code name, such as trixie.
host_release() { sed -n 's/^VERSION_CODENAME="\?\([a-z]*\).*/\1/p' /etc/os-release; }

get_kernel() {
  kernel_dir=$NVVMM_CACHE/debian-$release/kernel
  mkdir -p "$NVVMM_CACHE/debian-$release"
  hold_lock "debian-$release/prepare"
  [[ -e $kernel_dir/version ]] || from_suite "$release" fetch_kernel cloud "$kernel_dir"
  drop_lock
  kernel_version=$(<"$kernel_dir/version")
}

get_agent() {
  [[ -z $agent ]] || return 0
  need_rust
  build_guests
  agent=$(agent_path)
}

show_log() { tail -n 20 "$work/log" | cut -c 1-200 | sed 's/^/  | /' >&2; }

# make_root: leaves the root file system as an archive, $work/root.tar.
make_root() {
  local list arguments=("--mode=$mode" --variant=minbase "--keyring=$debian_keys"
    --aptopt='Acquire::Languages "none"'
    --dpkgopt='path-exclude=/usr/share/man/*'
    --dpkgopt='path-exclude=/usr/share/locale/*'
    --dpkgopt='path-exclude=/usr/share/doc/*'
    --dpkgopt='path-include=/usr/share/doc/*/copyright')
  list=$(IFS=,; echo "${packages[*]}")
  say "installing the packages of Debian $release (mmdebstrap, mode $mode)"
  mmdebstrap "${arguments[@]}" "--include=$list" "$release" "$work/root.tar" ${mirror:+"$mirror"} \
    >"$work/log" 2>&1 </dev/null && return
  show_log
  die "mmdebstrap could not make the root file system" "see its last lines above"
}

# make_additions: what is put over the packages' files.
make_additions() {
  local add=$work/add
  mkdir -p "$add"/{etc/systemd/system/multi-user.target.wants,usr/local/sbin,usr/lib/modules}
  install -m 755 "$agent" "$add/usr/local/sbin/nvvmm-agent"
  # Modes are kept: a hook that is not executable is off.
  mkdir -p "$add/etc/nvvmm"
  cp -a "$NVVMM_ROOT"/guest/agent/hooks/{snapshot.d,restored.d} "$add/etc/nvvmm/"
  cp -a "$kernel_dir/lib/modules/$kernel_version" "$add/usr/lib/modules/"
  rm -f "$add/usr/lib/modules/$kernel_version"/{build,source,vmlinuz}
  echo debian >"$add/etc/hostname"
  printf '127.0.0.1\tlocalhost debian\n::1\tlocalhost\n' >"$add/etc/hosts"
  echo "# The initramfs mounts the root file system." >"$add/etc/fstab"
  # systemd makes the machine's identity at boot.
  : >"$add/etc/machine-id"
  : >"$add/etc/motd"
  cat >"$add/etc/systemd/system/nvvmm-agent.service" <<'END'
[Unit]
Description=nvvmm agent
# A prompt on the console means that the agent runs.
Before=getty.target serial-getty@ttyS0.service

[Service]
Type=exec
ExecStart=/usr/local/sbin/nvvmm-agent
Restart=always
KillMode=process

[Install]
WantedBy=multi-user.target
END
  ln -s ../nvvmm-agent.service "$add/etc/systemd/system/multi-user.target.wants/"
  make_network "$add/etc/systemd"
  make_console "$add/etc/systemd/system"
}

# make_network SYSTEMD: a card gets its address, route and name servers by DHCP. Nothing waits for
# it at boot.
make_network() {
  local unit
  mkdir -p "$1/network"
  printf '[Match]\nType=ether\n\n[Network]\nDHCP=yes\n' >"$1/network/80-dhcp.network"
  for unit in systemd-networkd systemd-resolved; do
    ln -s "/lib/systemd/system/$unit.service" "$1/system/multi-user.target.wants/"
  done
  ln -s /dev/null "$1/system/systemd-networkd-wait-online.service"
}

# make_console UNITS: a login on the serial console; without a password a shell of root. It does
# not wait for udev as Debian's own unit does: on an emulated CPU the wait took too long. For the
# same reason other limits are longer, and nothing is fetched in a rhythm.
make_console() {
  local units=$1 timer autologin='--autologin root '
  [[ -z $password_file ]] || autologin=
  cat >"$units/serial-getty@ttyS0.service" <<END
[Unit]
Description=Login on the serial console
After=systemd-user-sessions.service
Before=getty.target
IgnoreOnIsolate=yes

[Service]
ExecStart=-/sbin/agetty $autologin--noclear --keep-baud 115200,57600,38400,9600 ttyS0 vt220
Type=idle
Restart=always
UtmpIdentifier=ttyS0
StandardInput=tty
StandardOutput=tty
TTYPath=/dev/ttyS0
TTYReset=yes
TTYVHangup=yes
IgnoreSIGPIPE=no
SendSIGHUP=yes

[Install]
WantedBy=getty.target
END
  mkdir -p "$units/getty.target.wants" "$units/../system.conf.d"
  ln -s ../serial-getty@ttyS0.service "$units/getty.target.wants/"
  printf '[Manager]\nDefaultTimeoutStartSec=10min\nDefaultDeviceTimeoutSec=10min\n' \
    >"$units/../system.conf.d/slow.conf"
  for timer in apt-daily apt-daily-upgrade dpkg-db-backup e2scrub_all fstrim; do
    ln -s /dev/null "$units/$timer.timer"
  done
}

# pack_root: makes the image. Without root, fakeroot keeps the owners of files.
pack_root() {
  local as_owner=()
  ((EUID == 0)) || as_owner=(fakeroot --)
  "${as_owner[@]}" bash "$here/lib/debian-pack.sh" "$work" "$work/image" "$size_bytes" \
    "${password_hash:-}" 2>"$work/log" && return
  show_log
  ! grep -q 'allocate block' "$work/log" ||
    die "the files, $(du -sh "$work/tree" | cut -f 1), do not fit into $size" "try a larger --size"
  die "the file system could not be made" "see the message above; $(room)"
}

make_initramfs() {
  local tree=$work/initramfs
  mkdir -p "$tree"/{bin,proc,sys,dev,disk,changes,root}
  cp "$(command -v busybox)" "$tree/bin/busybox"
  install -m 755 "$here/lib/debian-init.sh" "$tree/init"
  add_modules "$kernel_dir" "$tree" "${initramfs_modules[@]}"
  pack_initramfs "$tree" "$work/initrd"
}

# put_out: the files appear when all are made.
put_out() {
  install -m 644 "$kernel_dir/boot/vmlinuz-$kernel_version" "$kernel.new"
  install -m 644 "$work/initrd" "$initrd.new"
  mv "$kernel.new" "$kernel"
  mv "$initrd.new" "$initrd"
  mv "$work/image" "$output"
}

report() {
  say "made $output ($(numfmt --to=iec "$size_bytes")," \
    "$(du -h "$output" | cut -f 1) of it used), $kernel and $initrd"
  say "Debian $release with Linux $kernel_version, in $((SECONDS - started)) s; run it with:"
  printf 'nvvmm run --name debian --kernel %q --initramfs %q \\\n' "$kernel" "$initrd"
  printf '      --disk %q,ro --cmdline quiet --cpus 1 --detach\n' "$output"
}

started=$SECONDS
parse_arguments "$@"
choose_mode
need_tools
umask 022
# Beside the image: it is renamed at the end. mmdebstrap has its own directory below TMPDIR.
work=$(mktemp -d "$(dirname "$output")/.debian-image.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
get_agent
get_kernel
make_root
make_additions
pack_root
make_initramfs
put_out
report
