//! A host that refuses a thread, a descriptor, a mapping or memory ends no running VM: what was
//! asked of the VM is refused or done, and its memory stays exact.
//!
//! Each test goes through the requests that an operation makes: the first is refused, then the
//! second, until the operation makes no more. In the gate it is every other one: the odd ones, or
//! the even ones.

use std::{
    fs,
    path::{Path, PathBuf},
};

use nvvmm_snapshot::Resource;
use nvvmm_test_profile::{seed, sized};
use nvvmm_tests::{Host, Vm};

use crate::full_pool::wait_for_state;

/// Requests of one operation at most: an operation that makes more hides an endless loop.
const REQUESTS_MAX: u32 = 200;

/// Has processes of a host lack something.
struct Lacks {
    _directory: tempfile::TempDir,
    order: PathBuf,
    orders: u32,
}

impl Lacks {
    fn new(pool_mib: u64) -> (Self, Host) {
        let directory = tempfile::tempdir().unwrap();
        let order = directory.path().join("order");
        let host = Host::new(pool_mib);
        let host = host.with_fault("NVVMM_TEST_LACK", order.to_str().unwrap().to_owned());
        let lacks = Self {
            _directory: directory,
            order,
            orders: 0,
        };
        (lacks, host)
    }

    /// From now on process `pid` is refused its `number`-th request, once. Returns the order.
    fn refuse(&mut self, resource: Resource, number: u32, pid: i32) -> String {
        // No two orders are alike, so that each is counted anew.
        self.orders += 1;
        let order = format!("{} {number} {pid} {}", resource.name(), self.orders);
        let unseen = self.order.with_extension("new");
        fs::write(&unseen, &order).unwrap();
        fs::rename(unseen, &self.order).unwrap();
        order
    }

    fn nothing(&self) {
        let _ = fs::remove_file(&self.order);
    }
}

/// Does `operation` again and again, with one more request of the VM process granted each time.
/// `operation` returns the exit code, and undoes what it did.
fn with_each_lack(
    host: &Host,
    lacks: &mut Lacks,
    vm: &mut Vm<'_>,
    operation: impl Fn(&Host, &str, &str) -> i32,
) {
    let first = sized(1 + (seed() % 2) as u32, 1);
    for resource in Resource::ALL {
        let mut refusals = 0;
        for number in (first..).step_by(sized(2, 1)) {
            assert!(number < REQUESTS_MAX, "{resource:?} without end");
            let order = lacks.refuse(resource, number, vm.pid);
            let code = operation(host, &vm.name, &format!("s-{}-{number}", resource.name()));
            lacks.nothing();
            let was_refused = host.is_logged(&format!("NVVMM_TEST_LACK: refused {order}\n"));
            refusals += u32::from(code != 0);
            assert!(
                was_refused || code == 0,
                "code {code} of {resource:?} without a refusal"
            );
            // A write of the guest that was refused something is tried again in 20 ms.
            wait_for_state(vm, "running");
            assert!(
                vm.ask("check").contains("check ok"),
                "{resource:?} {number}"
            );
            if !was_refused {
                let requests = number - 1;
                println!(
                    "{resource:?}: no more than {requests} requests, {refusals} of them fatal to it"
                );
                // Each command is a connection, which needs a descriptor and a thread.
                let needed = [Resource::Thread, Resource::Descriptor].contains(&resource);
                assert!(
                    requests >= u32::from(needed),
                    "nothing was refused: {resource:?}"
                );
                break;
            }
        }
    }
    host.assert_pool_clean();
}

#[test]
fn a_snapshot_is_taken_or_refused_and_the_vm_runs_on() {
    let (mut lacks, host) = Lacks::new(256);
    let mut vm = host.boot_bare_metal(32, 2);
    vm.ask("fill 16 1");
    with_each_lack(&host, &mut lacks, &mut vm, |host, vm, name| {
        let code = host.run(&["snapshot", vm, name]).code;
        if code == 0 {
            host.run(&["rm", name]).ok();
        }
        code
    });
    vm.snapshot("end");
    assert!(vm.ask("check").contains("check ok"));
}

#[test]
fn a_pause_is_done_or_refused_and_the_vm_can_be_resumed() {
    let (mut lacks, host) = Lacks::new(128);
    let mut vm = host.boot_bare_metal(32, 1);
    vm.ask("fill 16 1");
    with_each_lack(&host, &mut lacks, &mut vm, |host, vm, _| {
        let paused = host.run(&["pause", vm]).code;
        let resumed = host.run(&["resume", vm]).code;
        host.run(&["resume", vm]);
        paused.max(resumed)
    });
}

#[test]
fn a_ring_begins_or_not_and_ends_with_its_cause_while_the_vm_runs_on() {
    let (mut lacks, host) = Lacks::new(256);
    let mut vm = host.boot_bare_metal(32, 1);
    vm.ask("fill 16 1");
    with_each_lack(&host, &mut lacks, &mut vm, |host, vm, _| {
        let begun = host
            .run(&["checkpoint", vm, "--every", "20ms", "--keep", "2"])
            .code;
        std::thread::sleep(std::time::Duration::from_millis(100));
        let ended = host.run(&["checkpoint", vm, "--stop"]).code;
        if begun == 0 && ended != 0 {
            host.run(&["checkpoint", vm, "--stop"]).ok();
        }
        begun.max(ended)
    });
}

/// A control group with one VM process, whose threads the kernel limits.
struct Group {
    at: PathBuf,
    pid: i32,
}

impl Group {
    /// `None`, and said so, where there are no such groups.
    fn of(pid: i32) -> Option<Self> {
        let parents = ["/sys/fs/cgroup/pids", "/sys/fs/cgroup"];
        for parent in parents {
            let group = Self {
                at: Path::new(parent).join(format!("nvvmm-test-{pid}")),
                pid,
            };
            if fs::create_dir(&group.at).is_ok()
                && group.at.join("pids.max").exists()
                && fs::write(group.at.join("cgroup.procs"), pid.to_string()).is_ok()
            {
                return Some(group);
            }
        }
        println!("SKIPPED: no control group that limits threads");
        None
    }

    /// Allows this many threads more than there are.
    fn allow(&self, more: u32) {
        let now = fs::read_to_string(self.at.join("pids.current")).unwrap();
        let now: u32 = now.trim().parse().unwrap();
        fs::write(self.at.join("pids.max"), (now + more).to_string()).unwrap();
    }

    fn allow_all(&self) {
        fs::write(self.at.join("pids.max"), "max").unwrap();
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(parent) = self.at.parent() {
            let _ = fs::write(parent.join("cgroup.procs"), self.pid.to_string());
        }
        let _ = fs::remove_dir(&self.at);
    }
}

/// The same with the kernel's own refusals.
#[test]
fn a_control_group_that_is_out_of_threads_ends_no_vm() {
    for more in 0..4 {
        let host = Host::new(128);
        let mut vm = host.boot_bare_metal(32, 1);
        vm.ask("fill 16 1");
        let Some(group) = Group::of(vm.pid) else {
            return;
        };
        group.allow(more);
        let outcome = host.run(&["snapshot", &vm.name, "s"]);
        assert!(!outcome.stderr.contains("panicked"), "{}", outcome.stderr);
        group.allow_all();
        wait_for_state(&vm, "running");
        assert!(vm.ask("check").contains("check ok"));
        let taken = host.json(&["snapshots"]).as_array().unwrap().len();
        assert_eq!(taken == 1, outcome.code == 0, "{}", outcome.stderr);
        drop(group);
        vm.stop();
        host.assert_pool_clean();
    }
}

/// A rewind that cannot build the VM again ends it, and says why; one that is refused does not.
#[test]
fn a_rewind_is_done_or_refused_or_ends_the_vm_with_its_cause() {
    rewinds_are_done_or_refused_or_end_the_vm(|host| {
        host.with_fault("NVVMM_TEST_WITHOUT", "rewind-in-place".to_owned())
    });
}

/// A rewind in place asks for little. Where that is refused half-way, the machine is built anew.
#[test]
fn a_rewind_in_place_is_done_whatever_is_refused_once() {
    for (resource, number) in [
        (Resource::Mapping, 1),
        (Resource::Memory, 1),
        (Resource::Memory, 2),
        (Resource::Memory, 3),
    ] {
        let (mut lacks, host) = Lacks::new(256);
        let mut vm = host.boot_bare_metal(16, 1);
        vm.ask("fill 8 1");
        vm.snapshot("s");
        let digest = vm.ask("digest all");
        vm.ask("write 0 1000 1");
        let order = lacks.refuse(resource, number, vm.pid);
        let report = host.json(&["rewind", &vm.name, "--to", "s"]);
        lacks.nothing();
        assert!(host.is_logged(&format!("NVVMM_TEST_LACK: refused {order}\n")));
        println!("{resource:?} {number}: {report}");
        assert_eq!(vm.ask("digest all"), digest);
        vm.stop();
        host.assert_pool_clean();
    }
}

fn rewinds_are_done_or_refused_or_end_the_vm(way: impl Fn(Host) -> Host) {
    for resource in Resource::ALL {
        let (mut lacks, host) = Lacks::new(256);
        let host = way(host);
        let mut number = 0;
        let mut vm: Option<Vm<'_>> = None;
        loop {
            number += 1;
            assert!(number < REQUESTS_MAX, "{resource:?} without end");
            let running = match vm.take() {
                Some(vm) => vm,
                None if number == 1 => {
                    let mut vm = host.boot_bare_metal(16, 1);
                    vm.ask("fill 8 1");
                    vm.snapshot("s");
                    vm
                }
                None => host.restore("s", &[]),
            };
            let order = lacks.refuse(resource, number, running.pid);
            let outcome = host.run(&["rewind", &running.name, "--to", "s"]);
            lacks.nothing();
            let was_refused = host.is_logged(&format!("NVVMM_TEST_LACK: refused {order}\n"));
            assert!(!outcome.stderr.contains("panicked"), "{}", outcome.stderr);
            if outcome.stderr.contains("could not be rebuilt") {
                running.wait_gone();
                continue;
            }
            let mut running = Vm::attach(&host, running.name.clone());
            assert!(running.ask("check").contains("check ok"));
            vm = Some(running);
            if !was_refused {
                assert_eq!(outcome.code, 0, "{}", outcome.stderr);
                break;
            }
        }
        println!("{resource:?}: {} requests", number - 1);
        // A machine is built from all of them.
        assert!(number > 1, "nothing was refused: {resource:?}");
        host.assert_pool_clean();
    }
}
