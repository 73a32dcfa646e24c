# shellcheck shell=bash
# Lets the group kvm use /dev/kvm and /dev/userfaultfd: a udev rule, and the devices as they are
# now. Sourced by scripts/install.sh and scripts/lib/as-user.sh.
# shellcheck disable=SC2034 # scripts that source this use the names

access_devices=(kvm userfaultfd)
access_rule=/etc/udev/rules.d/60-nvvmm.rules

# access_rule_text: the rule, as in the file.
access_rule_text() {
  local name
  echo "# Members of the group kvm may run VMs with nvvmm. Made by nvvmm's scripts/install.sh."
  for name in "${access_devices[@]}"; do
    echo "KERNEL==\"$name\", GROUP=\"kvm\", MODE=\"0660\""
  done
}

# access_commands: what root types to have the same now, without the rule.
access_commands() {
  echo "sudo groupadd --system --force kvm && sudo chgrp kvm /dev/kvm /dev/userfaultfd &&" \
    "sudo chmod 0660 /dev/kvm /dev/userfaultfd"
}

# have_kvm_group: makes the group where there is none. For root.
have_kvm_group() { getent group kvm >/dev/null || groupadd --system kvm; }

# open_devices: the group kvm may use the devices from now on. For root.
open_devices() {
  local name
  for name in "${access_devices[@]}"; do
    [[ -c /dev/$name ]] || continue
    chgrp kvm "/dev/$name" && chmod 0660 "/dev/$name" || return 1
  done
}

# reload_udev: where udev runs, it applies its rules to the devices.
reload_udev() {
  command -v udevadm >/dev/null && [[ -S /run/udev/control ]] || return 0
  udevadm control --reload &&
    udevadm trigger --subsystem-match=misc --sysname-match=kvm --sysname-match=userfaultfd
}
