//! A host that lacks something, or does not allow it, gives an error that names it and a remedy.
//! The exit code is 7.

use std::{
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use nvvmm_tests::{Host, Outcome, required};

const NOBODY: u32 = 65534;

/// Runs its arguments with a /dev that has everything that nvvmm needs except the KVM device.
const WITHOUT_KVM: &str = r#"
set -e
dev=$NVVMM_RUNTIME_DIR/dev
mkdir "$dev"
mount -t tmpfs none "$dev"
mkdir "$dev/shm"
mount --bind /dev/shm "$dev/shm"
pool=
[ ! -c "$NVVMM_POOL" ] || pool=${NVVMM_POOL##*/}
for name in null zero urandom userfaultfd $pool; do
  [ ! -e "/dev/$name" ] || { touch "$dev/$name"; mount --bind "/dev/$name" "$dev/$name"; }
done
mount --rbind "$dev" /dev
exec "$0" "$@"
"#;

/// True for root. Only root can be another user or make a mount namespace.
fn is_root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        println!("SKIPPED: only root can play a user without permissions");
    }
    root
}

fn run_of(guest: &Path) -> [&str; 6] {
    let guest = guest.to_str().unwrap();
    ["run", "--kernel", guest, "--memory", "32M", "--detach"]
}

/// Runs the bare-metal guest with `nvvmm run`, behind a command that takes something away from it.
fn run_behind(host: &Host, wrapper: &[&str]) -> Outcome {
    let guest = required("NVVMM_BAREMETAL_GUEST");
    let run = host.command(&run_of(&guest));
    let mut command = Command::new(wrapper[0]);
    command
        .args(&wrapper[1..])
        .arg(run.get_program())
        .args(run.get_args());
    for (name, value) in run.get_envs() {
        command.env(name, value.unwrap_or_default());
    }
    Outcome::of(command)
}

#[test]
fn no_kvm_device() {
    if !is_root() {
        return;
    }
    let host = Host::new(64);
    let hide = ["unshare", "--mount", "sh", "-c", WITHOUT_KVM];
    let refused = run_behind(&host, &hide).refused(7, "/dev/kvm");
    assert!(refused.stderr.contains("try:"), "a remedy is given");
    host.assert_pool_clean();
}

#[test]
fn no_permission() {
    if !is_root() {
        return;
    }
    let host = Host::without_pool();
    nix::unistd::chown(host.runtime(), Some(NOBODY.into()), Some(NOBODY.into())).unwrap();
    if host.medium().is_device() {
        nix::unistd::chown(host.pool(), Some(NOBODY.into()), None).unwrap();
    }
    // Other users may not be allowed to read the directory of the test's programs.
    let open: PathBuf = PathBuf::from(format!("/dev/shm/nvvmm-test-open-{}", std::process::id()));
    std::fs::copy(required("NVVMM_BIN"), &open).unwrap();
    std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o755)).unwrap();
    let guest = open.with_extension("guest");
    std::fs::copy(required("NVVMM_BAREMETAL_GUEST"), &guest).unwrap();
    let nobody = [
        "setpriv",
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
    ];
    let nvvmm = |arguments: &[&str]| {
        let mut command = Command::new(nobody[0]);
        command.args(&nobody[1..]).arg(&open).args(arguments);
        command
            .env("NVVMM_RUNTIME_DIR", host.runtime())
            .env("NVVMM_POOL", host.pool());
        Outcome::of(command)
    };
    nvvmm(&["pool", "create", host.pool_str(), "--size", "64M"]).ok();
    let run = nvvmm(&run_of(&guest));
    // Its device is asked for, whatever the sysctl allows.
    assert!(
        run.refused(7, "no permission for userfaultfd")
            .stderr
            .contains("try:"),
        "a remedy is given"
    );
    std::fs::remove_file(&open).unwrap();
    std::fs::remove_file(&guest).unwrap();
}
