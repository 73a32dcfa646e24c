//! A VM that was started paused is a paused VM: all that can be done with one can be done with it.

use nvvmm_tests::{Host, Vm, required};

fn boot_paused(host: &Host) -> Vm<'_> {
    let kernel = required("NVVMM_BAREMETAL_GUEST");
    let kernel = kernel.to_str().unwrap().to_owned();
    host.boot(&["--kernel", &kernel, "--paused"], 32, 2)
}

#[test]
fn a_vm_that_has_never_run_is_snapshotted_rewound_and_sent_and_its_copies_boot() {
    let host = Host::new(256);
    let mut vm = boot_paused(&host);
    assert_eq!(vm.snapshot("plain")["snapshot"], "plain");
    host.run(&["snapshot", &vm.name, "verified", "--verify"])
        .ok();
    assert_eq!(vm.status()["state"], "paused");
    // A ring waits for the guest to run.
    host.run(&["checkpoint", &vm.name, "--every", "1ms"]).ok();
    host.run(&["checkpoint", &vm.name, "--stop"]).ok();
    host.run(&["rewind", &vm.name, "--to", "plain"]).ok();
    assert_eq!(vm.status()["state"], "paused");
    host.run(&["send", "plain", "-o", "/dev/null"]).ok();
    vm.resume();
    vm.expect("@ ready");
    assert!(vm.ask("fill 2 1").contains("ok"));
    vm.stop();
    for snapshot in ["plain", "verified"] {
        let mut copy = host.restore(snapshot, &["--paused"]);
        copy.snapshot(&format!("{snapshot}-again"));
        copy.resume();
        copy.expect("@ ready");
        copy.stop();
    }
    host.assert_pool_clean();
}

#[test]
fn a_vm_that_has_never_run_ends_with_a_snapshot() {
    let host = Host::new(256);
    let vm = boot_paused(&host);
    host.run(&["snapshot", &vm.name, "end", "--stop"]).ok();
    vm.wait_gone();
    let mut copy = host.restore("end", &["--paused", "--once"]);
    copy.resume();
    copy.expect("@ ready");
    copy.stop();
    host.assert_pool_clean();
}
