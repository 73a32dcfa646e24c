use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use nvvmm::ErrorKind;

use super::host::{FILE_SIZE, OPEN_FILES, Tried};
use super::*;

/// A host that lacks nothing, in a directory of its own.
struct Played {
    directory: tempfile::TempDir,
    host: Host,
}

const FILES: [(&str, &str); 9] = [
    ("proc/sys/kernel/osrelease", "6.12.3-arch1-1\n"),
    (
        "proc/sys/kernel/seccomp/actions_avail",
        "kill_process kill_thread errno\n",
    ),
    ("proc/sys/user/max_user_namespaces", "1000\n"),
    ("proc/sys/vm/max_map_count", "65530\n"),
    ("proc/self/ns/user", ""),
    (
        "proc/cpuinfo",
        "processor : 0\nflags\t\t: fpu vmx hypervisor\n",
    ),
    (
        "proc/meminfo",
        "MemTotal: 9 kB\nMemAvailable:   8388608 kB\n",
    ),
    ("dev/kvm", ""),
    ("dev/userfaultfd", ""),
];

impl Played {
    fn good() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let host = Host {
            root: directory.path().to_owned(),
            tried: Tried {
                architecture: "x86_64".into(),
                is_root: false,
                kvm: Ok(()),
                userfaultfd: Ok(()),
                runtime_dir: Ok(()),
                pool: Ok(None),
                landlock: 6,
                limits: BTreeMap::from([(OPEN_FILES, 1024)]),
                fusermount: true,
                passt: true,
            },
        };
        let played = Self { directory, host };
        fs::create_dir_all(played.path("dev/shm")).unwrap();
        FILES
            .iter()
            .for_each(|(path, content)| played.write(path, content));
        played.write("dev/fuse", "");
        played
    }

    fn path(&self, path: &str) -> std::path::PathBuf {
        self.directory.path().join(path)
    }

    fn write(&self, path: &str, content: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap_or(Path::new("/"))).unwrap();
        fs::write(path, content).unwrap();
    }

    fn remove(&self, path: &str) {
        fs::remove_file(self.path(path)).unwrap();
    }

    fn finding(&self, check: &str) -> Finding {
        let mut all = Report::of(&self.host).findings.into_iter();
        all.find(|finding| finding.check == check).expect(check)
    }

    /// The check warns with these words, and VMs can run.
    fn warns(&self, check: &str, words: &str) {
        let finding = self.finding(check);
        assert_eq!(finding.state, State::Warn, "{finding:?}");
        assert!(finding.remedy.is_some(), "{finding:?}");
        assert!(finding.found.contains(words), "{finding:?}");
        assert!(Report::of(&self.host).vms_can_run);
    }

    fn cannot_run(&self, check: &str, words: &str) {
        let finding = self.finding(check);
        assert_eq!(finding.state, State::Missing, "{finding:?}");
        assert!(finding.found.contains(words), "{finding:?}");
        let report = Report::of(&self.host);
        assert!(!report.vms_can_run);
        let remedy = finding.remedy.expect("a remedy");
        assert!(report.text().contains(&format!("try: {remedy}")));
    }
}

fn lack(message: &str) -> Result<(), VmError> {
    Err(VmError::new(ErrorKind::HostLacks, message).with_remedy("mend it"))
}

#[test]
fn a_host_that_lacks_nothing_is_told_so() {
    let played = Played::good();
    let report = Report::of(&played.host);
    let bad: Vec<&Finding> = report
        .findings
        .iter()
        .filter(|finding| finding.state != State::Ok)
        .collect();
    // The disk of the test may be nearly full.
    assert!(bad.iter().all(|found| found.check == "/dev/shm"), "{bad:?}");
    assert!(report.text().ends_with("VMs can run on this host\n"));
}

#[test]
fn the_start_of_a_vm_and_the_doctor_use_the_same_words() {
    let mut played = Played::good();
    played.host.tried.kvm = lack("cannot open /dev/kvm: Permission denied");
    played.cannot_run("KVM", "cannot open /dev/kvm: Permission denied");
    let mut played = Played::good();
    played.host.tried.userfaultfd = lack("no permission for userfaultfd");
    played.cannot_run("userfaultfd", "no permission for userfaultfd");
    let mut played = Played::good();
    played.host.tried.runtime_dir = lack("the runtime directory /x is open to other users");
    played.cannot_run("runtime directory", "open to other users");
}

#[test]
fn a_missing_permission_is_mended_by_one_exact_command() {
    let mut played = Played::good();
    if nix::unistd::geteuid().is_root() {
        // Root may open anything.
        return;
    }
    played.host.tried.kvm = lack("cannot open /dev/kvm: Permission denied");
    let closed = |mode| {
        let mode = fs::Permissions::from_mode(mode);
        fs::set_permissions(played.path("dev/kvm"), mode).unwrap();
    };
    closed(0o000);
    let remedy = played.finding("KVM").remedy.unwrap();
    assert!(remedy.contains("chgrp kvm /dev/kvm"), "{remedy}");
    // Its owner is not asked for the rights of the group.
    closed(0o060);
    let remedy = played.finding("KVM").remedy.unwrap();
    assert!(remedy.starts_with("sudo usermod -aG"), "{remedy}");
}

#[test]
fn an_old_kernel_and_another_processor_are_missing_things() {
    let mut played = Played::good();
    played.write("proc/sys/kernel/osrelease", "5.15.0-91-generic");
    played.cannot_run("kernel", "5.15");
    played.write("proc/sys/kernel/osrelease", "5.19.0");
    assert_eq!(played.finding("kernel").state, State::Ok);
    played.host.tried.architecture = "aarch64".into();
    played.cannot_run("architecture", "aarch64");
}

#[test]
fn kinds_of_kvm_are_told_apart() {
    let played = Played::good();
    assert_eq!(
        played.finding("virtualisation").found,
        "VMX, in a virtual machine (nested)"
    );
    played.write("proc/cpuinfo", "flags : fpu svm");
    assert_eq!(played.finding("virtualisation").found, "SVM");
    played.write("proc/cpuinfo", "flags : fpu vmxish");
    played.warns("virtualisation", "software KVM");
    played.remove("dev/kvm");
    played.warns("virtualisation", "shows no vmx or svm");
}

#[test]
fn userfaultfd_that_is_open_to_everybody_is_a_warning() {
    let mut played = Played::good();
    played.remove("dev/userfaultfd");
    played.warns("userfaultfd", "vm.unprivileged_userfaultfd");
    played.host.tried.is_root = true;
    assert_eq!(played.finding("userfaultfd").state, State::Ok);
}

#[test]
fn limits_that_a_vm_would_meet_are_warnings() {
    let mut played = Played::good();
    played.host.tried.limits = BTreeMap::from([(OPEN_FILES, 64), (FILE_SIZE, 1 << 20)]);
    played.warns(OPEN_FILES, "at most 64");
    played.warns(FILE_SIZE, "1.0 MiB");
    played.write("proc/sys/vm/max_map_count", "1000");
    played.warns("mappings", "1000");
}

#[test]
fn the_lowest_limit_of_tasks_above_counts() {
    let played = Played::good();
    let check = "tasks of the cgroup";
    assert_eq!(played.finding(check).found, "no limit");
    played.write("proc/self/cgroup", "0::/user.slice/user-1000.slice\n");
    played.write("sys/fs/cgroup/user.slice/user-1000.slice/pids.max", "max\n");
    assert_eq!(played.finding(check).found, "no limit");
    played.write("sys/fs/cgroup/user.slice/pids.max", "100\n");
    played.warns(check, "at most 100");
    // The first version of cgroups.
    played.write("proc/self/cgroup", "8:cpu,pids:/box\n7:blkio:/\n");
    played.write("sys/fs/cgroup/pids/box/pids.max", "7\n");
    played.warns(check, "at most 7");
}

#[test]
fn media_are_listed() {
    let played = Played::good();
    assert_eq!(played.finding("persistent memory").state, State::Ok);
    played.write(
        "proc/self/mounts",
        "/dev/pmem0 /mnt/p ext4 rw,dax=always 0 0\n/dev/sda / ext4 rw 0 0\n",
    );
    played.write("dev/dax0.0", "");
    assert_eq!(
        played.finding("persistent memory").found,
        "/mnt/p /dev/dax0.0"
    );
    let pages = "sys/kernel/mm/hugepages/hugepages-2048kB";
    played.write(&format!("{pages}/nr_hugepages"), "4\n");
    played.write(&format!("{pages}/free_hugepages"), "1\n");
    assert_eq!(
        played.finding("huge pages").found,
        "2.0 MiB of 8.0 MiB free"
    );
    played.write("proc/meminfo", "MemAvailable: 1024 kB\n");
    played.warns("/dev/shm", "memory for 1.0 MiB");
}

#[test]
fn a_pool_that_is_another_users_is_a_warning() {
    let mut played = Played::good();
    let theirs = VmError::new(ErrorKind::Refused, "/dev/shm/x.pool is not your pool");
    played.host.tried.pool = Err(theirs.with_remedy("give another"));
    played.warns("pool", "not your pool");
}

#[test]
fn a_kernel_without_confinement_is_a_warning() {
    let mut played = Played::good();
    played.host.tried.landlock = 0;
    played.warns("Landlock", "no Landlock");
    played.write("proc/sys/kernel/seccomp/actions_avail", "");
    played.warns("seccomp", "no seccomp");
    played.write("proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1");
    played.warns("user namespaces", "apparmor");
    played.host.tried.is_root = true;
    assert_eq!(played.finding("user namespaces").state, State::Ok);
}

#[test]
fn users_need_a_program_to_mount() {
    let mut played = Played::good();
    played.host.tried.passt = false;
    played.warns("network", "passt");
    played.host.tried.fusermount = false;
    played.warns("FUSE", "fusermount3");
    played.remove("dev/fuse");
    played.warns("FUSE", "there is no /dev/fuse");
}

#[test]
fn json_has_a_state_for_each_check() {
    let played = Played::good();
    let json = serde_json::to_value(Report::of(&played.host).json()).unwrap();
    assert_eq!(json["vms_can_run"], true);
    let checks = json["checks"].as_array().unwrap();
    assert!(checks.iter().all(|check| check["state"].is_string()));
    assert!(checks.len() > 12);
}
