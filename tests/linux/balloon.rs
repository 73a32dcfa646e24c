//! Memory that a Linux guest frees goes back to the pool. All else stays as it is.

use std::time::{Duration, Instant};

use nvvmm_tests::agent::output;
use nvvmm_tests::witness::{ask, assert_healthy, boot, boot_without_witness};
use nvvmm_tests::{Host, Vm};
use serde_json::Value;

/// Longest wait for a guest: at least ten times what its reports take in an emulated KVM host.
const PATIENCE: Duration = Duration::from_secs(300);
const MIB: u64 = 1 << 20;
/// A file in the guest's memory.
const FILE_MIB: u64 = 144;

fn memory(host: &Host, vm: &Vm<'_>, options: &[&str]) -> Value {
    host.json(&[&["memory", &*vm.name], options].concat())
}

fn until(host: &Host, vm: &Vm<'_>, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
    let end = Instant::now() + PATIENCE;
    loop {
        let memory = memory(host, vm, &[]);
        if holds(&memory) {
            return memory;
        }
        assert!(Instant::now() < end, "{what}: {memory}");
        std::thread::sleep(Duration::from_millis(500));
    }
}

fn used(memory: &Value) -> u64 {
    memory["used_bytes"].as_u64().unwrap()
}

#[test]
fn what_is_freed_leaves_the_pool_and_later_snapshots() {
    let host = Host::new(1536).with_dirty_log();
    let mut vm = boot(&host, 448, 2, &[]);
    ask(&mut vm, "fill 24 5 1");
    until(&host, &vm, "a driver", |memory| {
        memory["balloon"]["reports_free"] == true
    });
    let write = format!("dd if=/dev/zero of=/freed bs=1M count={FILE_MIB} 2>&1");
    output(&host, &vm, &write);
    let full = used(&memory(&host, &vm, &[]));
    vm.snapshot("full");
    output(&host, &vm, "rm /freed");
    // Snapshots in the middle of reports.
    for number in 0..3 {
        vm.snapshot(&format!("during{number}"));
        let audit = host.json(&["audit", &vm.name]);
        for kind in ["not_own", "still_shared"] {
            assert_eq!(audit[kind].as_array().map(Vec::len), Some(0), "{audit}");
        }
    }
    let memory = until(&host, &vm, "freed memory stays", |memory| {
        used(memory) + FILE_MIB * MIB * 3 / 4 < full
    });
    println!("{full} bytes, and then: {memory}");
    assert_healthy(&mut vm);
    vm.snapshot("freed");
    vm.stop();
    for snapshot in ["full", "during0", "during2", "freed"] {
        let mut copy = host.restore(snapshot, &[]);
        assert_healthy(&mut copy);
        output(&host, &copy, &write);
        assert_healthy(&mut copy);
        copy.stop();
    }
    host.assert_pool_clean();
}

#[test]
fn a_balloon_takes_memory_and_gives_it_back() {
    let host = Host::new(1024);
    let mut vm = boot(&host, 320, 1, &[]);
    ask(&mut vm, "fill 24 5 1");
    until(&host, &vm, "a driver", |memory| {
        memory["balloon"]["guest_free_bytes"].is_u64()
    });
    memory(&host, &vm, &["--target", "96M"]);
    let is_of = |size: u64| move |memory: &Value| memory["balloon"]["actual_bytes"] == size;
    until(&host, &vm, "the balloon grows", is_of(96 * MIB));
    vm.snapshot("taken");
    let mut copy = host.restore("taken", &[]);
    for vm in [&mut vm, &mut copy] {
        assert_healthy(vm);
        memory(&host, vm, &["--target", "0"]);
        until(&host, vm, "the balloon shrinks", is_of(0));
        assert_healthy(vm);
    }
    copy.stop();
    vm.stop();
    host.assert_pool_clean();
}

/// Bytes of memory that a snapshot has.
fn size_of(host: &Host, snapshot: &str) -> u64 {
    let all = host.json(&["snapshots"]);
    let all = all.as_array().unwrap();
    let found = all.iter().find(|entry| entry["snapshot"] == snapshot);
    found.unwrap()["mapped_bytes"].as_u64().unwrap()
}

#[test]
fn a_snapshot_that_waits_for_freed_memory_is_without_it() {
    let host = Host::new(1024);
    let vm = boot_without_witness(&host, 448);
    until(&host, &vm, "a driver", |memory| {
        memory["balloon"]["reports_free"] == true
    });
    vm.snapshot("idle");
    let write = format!("dd if=/dev/zero of=/freed bs=1M count={FILE_MIB} 2>&1 && rm /freed");
    output(&host, &vm, &write);
    vm.snapshot("at-once");
    // Free blocks by their size, the largest last: those that free page hinting would name.
    println!("{}", output(&host, &vm, "cat /proc/buddyinfo"));
    let begun = Instant::now();
    let wait = ["snapshot", &vm.name, "waited", "--wait-freed", "2m"];
    host.run(&wait).ok();
    let waited = begun.elapsed();
    let [idle, at_once, later] = ["idle", "at-once", "waited"].map(|name| size_of(&host, name));
    println!("idle {idle}, at once {at_once}, {later} after {waited:?}");
    assert!(
        later + FILE_MIB * MIB * 3 / 4 < at_once,
        "{later}, {at_once}"
    );
    // A guest that stands still is not waited for.
    vm.pause();
    let begun = Instant::now();
    host.run(&["snapshot", &vm.name, "paused", "--wait-freed", "5m"])
        .ok();
    assert!(begun.elapsed() < Duration::from_secs(60));
    vm.resume();
    vm.stop();
    host.assert_pool_clean();
}
