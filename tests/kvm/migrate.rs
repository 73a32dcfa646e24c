//! A VM that goes to another host: it is there as it was, or it goes on here. Never both, and
//! never neither.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nvvmm_snapshot::FaultPoint;
use nvvmm_tests::{Host, Outcome, Vm, required, schema};
use serde_json::Value;

/// A stand-in for ssh(1): the commands of a directory, for a host of the test.
struct Ssh(tempfile::TempDir);

impl Ssh {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// A program that runs commands on that host. `first` is done before the first command, and
    /// `later` before those that follow.
    fn to(&self, host: &Host, first: &str, later: &str) -> PathBuf {
        let path = self.0.path().join("ssh");
        let marker = self.0.path().join("called");
        let script = format!(
            "#!/bin/sh\nwhile [ \"$1\" != -- ]; do shift; done\n\
             export NVVMM_RUNTIME_DIR={} NVVMM_POOL={}\n\
             if [ -e {marker} ]; then {later}; else : > {marker}; {first}; fi\n\
             eval \"exec $3\"\n",
            host.runtime().display(),
            host.pool_str(),
            marker = marker.display(),
        );
        std::fs::write(&path, script).unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(0o700)).unwrap();
        path
    }
}

/// Runs `nvvmm migrate`.
fn migrate(from: &Host, vm: &str, ssh: &Path, more: &[&str]) -> Outcome {
    let program = required("NVVMM_DEV_BIN");
    let (ssh, program) = (ssh.to_str().unwrap(), program.to_str().unwrap());
    let arguments = [
        "migrate",
        vm,
        "ssh://other",
        "--ssh",
        ssh,
        "--program",
        program,
    ];
    from.run(&[&arguments, more].concat())
}

fn vms(host: &Host) -> Value {
    host.json(&["ps"])
}

fn assert_nothing_left(host: &Host) {
    assert_eq!(vms(host), serde_json::json!([]));
    assert_eq!(host.json(&["snapshots"]), serde_json::json!([]));
    host.assert_pool_clean();
}

/// A guest that writes all the time, by rules that it can check.
fn busy<'h>(host: &'h Host) -> Vm<'h> {
    let mut vm = host.boot_bare_metal(32, 2);
    vm.ask("fill 20 7");
    vm.ask("churn on 11 rand check");
    vm
}

fn assert_exact(vm: &mut Vm<'_>, when: &str) {
    for _ in 0..2 {
        let answer = vm.ask("check");
        assert!(answer.contains("@ check ok"), "{when}: {answer}");
    }
}

#[test]
fn a_vm_that_writes_goes_to_another_host_and_back() {
    let hosts = [Host::new(256), Host::new(256)];
    let name = {
        let vm = busy(&hosts[0]);
        vm.name.clone()
    };
    for (from, to) in [(&hosts[0], &hosts[1]), (&hosts[1], &hosts[0])] {
        let ssh = Ssh::new();
        let report = migrate(from, &name, &ssh.to(to, ":", ":"), &["--json"]).json();
        schema::assert_valid(&["migrate"], &report);
        let rounds = report["round_count"].as_u64().unwrap();
        assert!((2..=9).contains(&rounds), "{report}");
        assert!(
            report["downtime_us"].as_u64() < report["total_us"].as_u64(),
            "{report}"
        );
        let all = report["stream_bytes"].as_u64().unwrap();
        assert!(
            all > report["stream_paused_bytes"].as_u64().unwrap(),
            "{report}"
        );
        assert_nothing_left(from);
        assert_exact(&mut Vm::attach(to, name.clone()), "after its way");
        assert_eq!(to.json(&["snapshots"]), serde_json::json!([]));
    }
    Vm::attach(&hosts[0], name).stop();
    hosts.iter().for_each(assert_nothing_left);
}

#[test]
fn a_paused_vm_stays_paused_and_is_the_same() {
    let (from, to) = (Host::new(128), Host::new(128));
    let mut vm = from.boot_bare_metal(32, 1);
    vm.ask("fill 20 7");
    let digest = vm.ask("digest all");
    vm.pause();
    let ssh = Ssh::new();
    migrate(&from, &vm.name, &ssh.to(&to, ":", ":"), &[]).ok();
    assert_nothing_left(&from);
    let mut there = Vm::attach(&to, vm.name.clone());
    assert_eq!(there.status()["state"], "paused");
    there.resume();
    assert_eq!(there.ask("digest all"), digest);
    there.stop();
    to.assert_pool_clean();
}

#[test]
fn a_vm_goes_on_here_when_the_other_host_dies_at_any_step() {
    let (from, to) = (Host::new(256), Host::new(256));
    let mut vm = busy(&from);
    let steps = [
        (FaultPoint::MigrationReceived, 1),
        (FaultPoint::MigrationReceived, 2),
        (FaultPoint::MigrationRestored, 1),
        (FaultPoint::MigrationResumed, 1),
    ];
    for (point, nth) in steps {
        let ssh = Ssh::new();
        let dies = format!("export NVVMM_FAULT={}:{nth}", point.name());
        let outcome = migrate(&from, &vm.name, &ssh.to(&to, &dies, ":"), &[]);
        let died = format!("NVVMM_FAULT: killed at {}", point.name());
        assert!(outcome.stderr.contains(&died), "{}", outcome.stderr);
        outcome.refused(1, "the connection to other");
        assert_eq!(vm.status()["state"], "running", "{}", point.name());
        assert_exact(&mut vm, point.name());
        // A host that died leaves what it had; the next migration of that VM is another one.
        if point == FaultPoint::MigrationResumed {
            assert_eq!(
                vms(&to),
                serde_json::json!([]),
                "it was asked, and has ended the VM"
            );
        }
        for left in vms(&to).as_array().unwrap() {
            to.run(&["stop", "--force", left["vm"].as_str().unwrap()])
                .ok();
        }
        to.run(&["rm", "--all", "--force"]);
        assert_eq!(from.json(&["snapshots"]), serde_json::json!([]));
    }
    vm.stop();
    [&from, &to].into_iter().for_each(assert_nothing_left);
}

#[test]
fn a_vm_that_is_there_is_not_here_also_if_nobody_heard_it() {
    let (from, to) = (Host::new(256), Host::new(256));
    let vm = busy(&from);
    let ssh = Ssh::new();
    let dies = format!("export NVVMM_FAULT={}", FaultPoint::MigrationTaken.name());
    migrate(&from, &vm.name, &ssh.to(&to, &dies, ":"), &[]).ok();
    assert_nothing_left(&from);
    let mut there = Vm::attach(&to, vm.name.clone());
    assert_exact(&mut there, "there");
    there.stop();
    to.run(&["rm", "--all", "--force"]);
    assert_nothing_left(&to);
}

#[test]
fn a_vm_stays_paused_when_nobody_can_say_where_it_is() {
    let (from, to) = (Host::new(256), Host::new(256));
    let mut vm = busy(&from);
    let ssh = Ssh::new();
    let dies = format!("export NVVMM_FAULT={}", FaultPoint::MigrationTaken.name());
    let ssh = ssh.to(&to, &dies, "echo no route >&2; exit 255");
    let outcome = migrate(&from, &vm.name, &ssh, &[]);
    outcome.refused(1, "it is not known if");
    assert_eq!(vm.status()["state"], "paused");
    Vm::attach(&to, vm.name.clone()).stop();
    vm.resume();
    assert_exact(&mut vm, "resumed");
    vm.stop();
    to.run(&["rm", "--all", "--force"]);
    [&from, &to].into_iter().for_each(assert_nothing_left);
}

#[test]
fn what_cannot_be_moved_is_refused_and_runs_on() {
    let (from, to) = (Host::new(256), Host::new(256));
    let mut vm = busy(&from);
    let ssh = Ssh::new();
    let good = ssh.to(&to, ":", ":");
    // A VM of that name is there.
    let kernel = required("NVVMM_BAREMETAL_GUEST");
    let kernel = kernel.to_str().unwrap();
    let run = [
        "run", "--kernel", kernel, "--memory", "8M", "--detach", "--name", &vm.name,
    ];
    to.run(&run).ok();
    migrate(&from, &vm.name, &good, &[]).refused(4, "is taken");
    Vm::attach(&to, vm.name.clone()).stop();
    // Programs that are no ssh: one that fails, one that says something else, and one that waits.
    let failing = [
        ("/bin/false", "ended"),
        ("/bin/echo", "ended"),
        ("/nonexistent", "start"),
    ];
    for (program, what) in failing {
        let outcome = migrate(&from, &vm.name, Path::new(program), &[]);
        assert!(
            outcome.code != 0 && outcome.stderr.contains(what),
            "{}",
            outcome.stderr
        );
    }
    let silent = ssh.to(&to, "exec sleep 600", "exec sleep 600");
    migrate(&from, &vm.name, &silent, &["--timeout", "1s"]).refused(1, "timed out");
    migrate(&from, "nobody", &good, &[]).refused(3, "nobody");
    // Its pool is too small for this memory.
    let small = Host::new(16);
    let outcome = migrate(&from, &vm.name, &Ssh::new().to(&small, ":", ":"), &[]);
    outcome.refused(5, "MiB free");
    assert_eq!(vm.status()["state"], "running");
    assert_exact(&mut vm, "all of them refused");
    assert_eq!(from.json(&["snapshots"]), serde_json::json!([]));
    vm.stop();
    [&from, &to, &small]
        .into_iter()
        .for_each(assert_nothing_left);
}
