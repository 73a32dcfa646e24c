//! Each copy and each rewind has an identity of its own; a snapshot has that of its VM.

use std::collections::HashSet;
use std::path::PathBuf;

use nvvmm_bare_metal::Memory as _;
use nvvmm_tests::{Host, SnapshotMemory, Vm, required};

/// Places of the generation identifier, and of disruption marker and generation counter.
const NUMBERS: [u64; 4] = [0xe_e000, 0xe_e008, 0xe_f010, 0xe_f068];
/// The note of a flat guest, up to its flags: owner, version.
const NOTE: &[u8] = b"nvvmm\0\0\0\x01\0\0\0";

/// The bare-metal guest, with the flag that it has an identity.
fn guest(directory: &tempfile::TempDir) -> PathBuf {
    let mut program = std::fs::read(required("NVVMM_BAREMETAL_GUEST")).unwrap();
    let found = program.windows(NOTE.len()).position(|bytes| bytes == NOTE);
    program[found.unwrap() + NOTE.len()] |= 1;
    let path = directory.path().join("guest");
    std::fs::write(&path, program).unwrap();
    path
}

/// The identity of a VM, by a snapshot of it, which is removed again.
fn identity(host: &Host, vm: &Vm<'_>) -> [u64; 4] {
    vm.snapshot("look");
    let identity = in_snapshot(host, "look");
    host.run(&["rm", "look"]).ok();
    identity
}

fn in_snapshot(host: &Host, name: &str) -> [u64; 4] {
    let memory = SnapshotMemory::read(host.pool(), name);
    assert_eq!(memory.word(0xe_f000) as u32, 0x4b4c_4356, "VMClock");
    NUMBERS.map(|place| memory.word(place))
}

#[test]
fn every_copy_and_every_rewind_is_somebody_else_and_a_snapshot_is_not() {
    let directory = tempfile::tempdir().unwrap();
    let guest = guest(&directory);
    let host = Host::new(128);
    let mut vm = host.boot(&["--kernel", guest.to_str().unwrap()], 16, 1);
    vm.ask("fill 4 7");
    vm.snapshot("base");
    let own = in_snapshot(&host, "base");
    assert!(own.iter().all(|number| *number != 0), "{own:x?}");
    assert_eq!(identity(&host, &vm), own, "a snapshot changes nothing");

    let mut seen = HashSet::from([own]);
    for name in ["base", "other"] {
        if name == "other" {
            vm.snapshot(name);
        }
        host.run(&["rewind", &vm.name, "--to", name]).ok();
        assert!(seen.insert(identity(&host, &vm)), "after a rewind");
    }
    assert!(vm.ask("check").contains("check ok"));
    vm.stop();
    assert_eq!(in_snapshot(&host, "base"), own, "and it stays what it is");

    host.run(&["spare", "base", "--count", "1"]).ok();
    for options in [&[][..], &["--prefault"], &["--paused"]] {
        let mut copy = host.restore("base", options);
        assert!(seen.insert(identity(&host, &copy)), "{options:?}");
        if options == ["--paused"] {
            copy.resume();
        }
        assert!(copy.ask("check").contains("check ok"));
        copy.stop();
    }
    host.run(&["spare", "base", "--count", "0"]).ok();
    assert_eq!(in_snapshot(&host, "base"), own);
    let moved = host.restore("base", &["--once"]);
    assert!(seen.insert(identity(&host, &moved)), "--once");
    moved.stop();
    host.assert_pool_clean();
}

#[test]
fn a_rewind_that_builds_the_machine_anew_gives_another_identity() {
    let directory = tempfile::tempdir().unwrap();
    let guest = guest(&directory);
    let host = Host::new(64).with_fault("NVVMM_TEST_WITHOUT", "rewind-in-place".to_owned());
    let vm = host.boot(&["--kernel", guest.to_str().unwrap()], 4, 1);
    vm.snapshot("base");
    let mut seen = HashSet::from([in_snapshot(&host, "base")]);
    for _ in 0..2 {
        host.run(&["rewind", &vm.name, "--to", "base"]).ok();
        assert!(seen.insert(identity(&host, &vm)));
    }
    vm.stop();
    host.assert_pool_clean();
}
