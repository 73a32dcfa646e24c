//! Root starts VMs that run as an ordinary user (`--uid`), and users find their VMs.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    process::Command,
};

use nvvmm_tests::{Host, Outcome, required};

const NOBODY: u32 = 65534;

/// A place that another user can reach, with the programs in it.
struct Open {
    base: tempfile::TempDir,
}

impl Open {
    fn new() -> Self {
        let readable = fs::Permissions::from_mode(0o755);
        let base = tempfile::Builder::new()
            .permissions(readable)
            .tempdir_in("/dev/shm")
            .unwrap();
        let open = Self { base };
        for variable in ["NVVMM_BIN", "NVVMM_BAREMETAL_GUEST"] {
            let copy = open.at(variable);
            fs::copy(required(variable), &copy).unwrap();
            fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).unwrap();
        }
        open
    }

    fn at(&self, name: &str) -> PathBuf {
        self.base.path().join(name)
    }

    /// nvvmm as root, or as the user that VMs are to become.
    fn nvvmm(&self, runtime: &Path, as_user: bool, arguments: &[&str]) -> Outcome {
        let program = self.at("NVVMM_BIN");
        let mut command = Command::new(if as_user {
            Path::new("setpriv")
        } else {
            &program
        });
        if as_user {
            let ids = ["--reuid=65534", "--regid=65534", "--clear-groups"];
            command.args(ids).arg(&program);
        }
        command.args(arguments).env("NVVMM_RUNTIME_DIR", runtime);
        Outcome::of(command)
    }
}

fn is_root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        println!("SKIPPED: only root can start VMs as others");
    }
    root
}

fn uids_of(pid: u64) -> Vec<String> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let ids = status
        .lines()
        .filter(|line| line.starts_with("Uid:") || line.starts_with("Gid:"));
    ids.flat_map(|line| line.split_ascii_whitespace().skip(1).map(str::to_owned))
        .collect()
}

#[test]
fn a_vm_of_root_runs_as_the_user_who_is_named() {
    let host = Host::without_pool();
    if !is_root() || host.medium().is_device() || host.medium().name() != "tmpfs" {
        return;
    }
    let open = Open::new();
    let runtime = open.at("run");
    let pool = open.at("pool");
    let pool = pool.to_str().unwrap();
    let guest = open.at("NVVMM_BAREMETAL_GUEST");
    let run = [
        "run",
        "--kernel",
        guest.to_str().unwrap(),
        "--memory",
        "32M",
        "--name",
        "v",
        "--pool",
        pool,
        "--uid",
        "nobody",
        "--gid",
        "65534",
        "--detach",
        "--json",
    ];
    let run = |more: &[&str]| open.nvvmm(&runtime, false, &[&run[..], more].concat());
    open.nvvmm(
        &open.at("run-of-root"),
        false,
        &["pool", "create", pool, "--size", "64M"],
    )
    .ok();
    fs::set_permissions(pool, fs::Permissions::from_mode(0o600)).unwrap();
    let refused = run(&[]).refused(8, "may not use the pool");
    assert!(refused.stderr.contains("chown 65534"), "{}", refused.stderr);
    nix::unistd::chown(pool, Some(NOBODY.into()), Some(NOBODY.into())).unwrap();
    let status = run(&[]).json();
    let ids = uids_of(status["pid"].as_u64().unwrap());
    assert!(ids.iter().all(|id| id == "65534"), "{ids:?}");
    let made = fs::metadata(&runtime).unwrap();
    assert_eq!((made.uid(), made.mode() & 0o777), (NOBODY, 0o700));
    for entry in fs::read_dir(&runtime).unwrap().flatten() {
        assert_eq!(entry.metadata().unwrap().uid(), NOBODY, "{entry:?}");
    }
    let as_user = |arguments: &[&str]| open.nvvmm(&runtime, true, arguments);
    let listed = as_user(&["ps", "--json"]).json();
    assert_eq!(listed[0]["vm"], "v", "{listed}");
    as_user(&["snapshot", "v", "s"]).ok();
    as_user(&["stop", "v"]).ok();
    open.nvvmm(
        &runtime,
        false,
        &[
            "restore", "s", "--pool", pool, "--name", "w", "--uid", "65534", "--detach",
        ],
    )
    .ok();
    as_user(&["stop", "w"]).ok();
    as_user(&["pool", "check", pool]).ok();
}

#[test]
fn an_ordinary_user_who_lacks_devices_is_told_all_and_leaves_nothing() {
    let host = Host::without_pool();
    if !is_root() || host.medium().name() != "tmpfs" {
        return;
    }
    let open = Open::new();
    let guest = open.at("NVVMM_BAREMETAL_GUEST");
    let runtime = open.at("run");
    fs::create_dir(&runtime).unwrap();
    fs::set_permissions(&runtime, fs::Permissions::from_mode(0o700)).unwrap();
    nix::unistd::chown(&runtime, Some(NOBODY.into()), Some(NOBODY.into())).unwrap();
    let default_pool = Path::new("/dev/shm/nvvmm-nobody.pool");
    if default_pool.exists() || fs::metadata("/dev/kvm").unwrap().mode() & 0o006 != 0 {
        println!("SKIPPED: the user nobody has a pool, or may use /dev/kvm");
        return;
    }
    let refused = open
        .nvvmm(
            &runtime,
            true,
            &["run", "--kernel", guest.to_str().unwrap(), "--detach"],
        )
        .refused(7, "/dev/kvm");
    let all = fs::read_to_string("/proc/sys/vm/unprivileged_userfaultfd").unwrap();
    if all.trim() == "0" {
        assert!(
            refused.stderr.contains("userfaultfd;") || refused.stderr.contains("userfaultfd\n")
        );
    }
    assert!(
        !default_pool.exists(),
        "a pool was made for a VM that cannot run"
    );
    assert_eq!(fs::read_dir(&runtime).unwrap().count(), 0);
}
