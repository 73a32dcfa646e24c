//! The library without the command line: VMs of this process, without sockets.

use std::{
    io::{BufRead, BufReader, Write},
    os::unix::net::UnixStream,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use nvvmm::{
    CreateOptions, ErrorKind, Pool, RestoreOptions, SnapshotRequest, Vm, VmExit, VmOptions, VmSpec,
    control::VmState,
};
use nvvmm_tests::required;

#[path = "../../vmm/examples/clone.rs"]
#[allow(dead_code, reason = "its main is not called")]
mod clone;

const PATIENCE: Duration = Duration::from_secs(300);

/// A pool on shared memory, gone when this is dropped.
struct OwnPool {
    _directory: tempfile::TempDir,
    path: PathBuf,
}

impl OwnPool {
    fn new() -> Self {
        let directory = tempfile::tempdir_in("/dev/shm").unwrap();
        let path = directory.path().join("pool");
        Self {
            _directory: directory,
            path,
        }
    }

    fn create(&self) -> Arc<Pool> {
        Pool::create(&self.path, &CreateOptions::of_size(256 << 20)).unwrap()
    }
}

fn spec() -> VmSpec {
    VmSpec::builder(required("NVVMM_BAREMETAL_GUEST"))
        .vcpus(2)
        .memory_bytes(32 << 20)
        .build()
}

fn with_console(name: &str) -> (VmOptions, UnixStream) {
    let (options, console) = VmOptions::named(name).with_console().unwrap();
    console.set_read_timeout(Some(PATIENCE)).unwrap();
    (options, console)
}

fn ask(console: &mut UnixStream, command: &str) -> String {
    writeln!(console, "{command}").unwrap();
    let word = command.split(' ').next().unwrap();
    let mut lines = BufReader::new(console).lines().map(Result::unwrap);
    let answer = lines.find(|line| line.starts_with(&format!("@ {word}")));
    answer.expect("the guest answers")
}

#[test]
fn the_example_snapshots_and_clones_a_guest() {
    let pool = OwnPool::new();
    clone::run(&required("NVVMM_BAREMETAL_GUEST"), &pool.path).unwrap();
    let pool = Pool::open(&pool.path).unwrap();
    assert!(pool.check().unwrap().is_clean());
    assert!(pool.status().unwrap().holders.is_empty());
}

#[test]
fn vms_of_one_process_do_not_see_each_other() {
    let own = OwnPool::new();
    let pool = own.create();
    let (options, mut console) = with_console("first");
    let first = Vm::boot(&pool, spec(), options).unwrap();
    assert!(ask(&mut console, "fill 8 1").contains("ok"));
    first.snapshot("base").unwrap();

    let (options, mut other) = with_console("second");
    let second = Vm::restore(&pool, "base", options).unwrap();
    assert!(ask(&mut other, "write 0 100").contains("ok"));
    assert!(ask(&mut console, "check").contains("ok"));
    assert!(ask(&mut other, "check").contains("ok"));

    first.pause().unwrap();
    assert_eq!(first.status().state, VmState::Paused);
    assert_eq!(second.status().state, VmState::Running);
    first.resume().unwrap();
    assert!(ask(&mut console, "check").contains("ok"));

    second.stop();
    assert_eq!(second.wait().unwrap(), VmExit::Stopped);
    assert!(ask(&mut console, "bye").contains("bye"));
    assert_eq!(first.wait().unwrap(), VmExit::PoweredOff);
    assert!(pool.status().unwrap().holders.is_empty());
}

#[test]
fn a_vm_ends_when_it_is_dropped() {
    let own = OwnPool::new();
    let pool = own.create();
    drop(Vm::boot(&pool, spec(), VmOptions::named("short")).unwrap());
    assert!(pool.status().unwrap().holders.is_empty());
    assert!(pool.check().unwrap().is_clean());
}

#[test]
fn a_vm_that_starts_paused_waits_to_be_resumed() {
    let own = OwnPool::new();
    let pool = own.create();
    let (mut options, mut console) = with_console("waiting");
    options.paused = true;
    let vm = Vm::boot(&pool, spec(), options).unwrap();
    assert_eq!(vm.status().state, VmState::Paused);
    vm.resume().unwrap();
    assert!(ask(&mut console, "fill 4 1").contains("ok"));
    let request = SnapshotRequest {
        stop: true,
        ..SnapshotRequest::from("suspended")
    };
    vm.snapshot(request).unwrap();
    let ended = VmExit::Snapshotted {
        snapshot: "suspended".into(),
    };
    assert_eq!(vm.wait().unwrap(), ended);

    let once = RestoreOptions {
        once: true,
        ..RestoreOptions::from("suspended")
    };
    let (options, mut console) = with_console("continued");
    let vm = Vm::restore(&pool, once, options).unwrap();
    assert!(ask(&mut console, "check").contains("ok"));
    drop(vm);
    assert!(pool.snapshots().unwrap().is_empty());
}

#[test]
fn failures_are_errors_of_the_call() {
    let own = OwnPool::new();
    let pool = own.create();
    let missing = Vm::restore(&pool, "nothing", VmOptions::named("vm"));
    assert_eq!(missing.err().unwrap().kind, ErrorKind::NotFound);

    let kernel = required("NVVMM_BAREMETAL_GUEST");
    let with_vsock = VmSpec::builder(kernel).vsock().build();
    let refused = Vm::boot(&pool, with_vsock, VmOptions::named("vm"));
    let refused = refused.err().unwrap();
    assert_eq!(refused.kind, ErrorKind::Usage);
    assert!(refused.message.contains("vsock"), "{refused}");

    let vm = Vm::boot(&pool, spec(), VmOptions::named("vm")).unwrap();
    vm.snapshot("taken").unwrap();
    assert_eq!(vm.snapshot("taken").unwrap_err().kind, ErrorKind::Refused);
    assert_eq!(vm.rewind("other").unwrap_err().kind, ErrorKind::NotFound);
    assert_eq!(vm.status().state, VmState::Running);
}
