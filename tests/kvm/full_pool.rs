//! A full pool refuses snapshots, holds writes, and hurts nobody.

use nvvmm_tests::Host;
use std::time::{Duration, Instant};

#[test]
fn a_guest_that_finds_no_block_waits_and_goes_on_when_there_is_one() {
    let host = Host::new(64);
    let mut vm = host.boot_bare_metal(48, 1);
    vm.ask("fill 24 1");
    vm.snapshot("a");
    vm.ask("write 0 4000");
    // The pool cannot hold a third copy of what is rewritten now.
    vm.snapshot("b");
    vm.console().say("write 0 6000");
    let until = Instant::now() + Duration::from_secs(120);
    while vm.status()["notice"].is_null() {
        assert!(
            Instant::now() < until,
            "the VM never said that it waits: {}",
            vm.status()
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    host.run(&["rm", "a"]).ok();
    assert!(vm.expect("@ write").contains("write ok"));
    assert!(vm.ask("check").contains("check ok"));
    host.assert_pool_clean();
}

#[test]
fn a_pool_without_room_for_the_guest_is_no_crash() {
    let host = Host::new(8);
    let kernel = nvvmm_tests::required("NVVMM_BAREMETAL_GUEST");
    let kernel = kernel.to_str().unwrap().to_owned();
    let outcome = host.run(&[
        "run", "--kernel", &kernel, "--memory", "64M", "--cpus", "1", "--name", "big", "--detach",
    ]);
    if outcome.code == 0 {
        host.run(&["stop", "big", "--force"]);
    } else {
        outcome.refused(5, "full");
    }
    host.assert_pool_clean();
}
