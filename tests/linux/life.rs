//! Power-off, reboot, kill.

use nvvmm_tests::{
    Host,
    witness::{ask, assert_healthy, boot},
};

use crate::debugger::assert_shows_the_kernel;

/// The guest has no agent, and no program that follows the button.
fn hears_its_power_button(host: &Host, vm: &str) {
    let late = host.run(&["shutdown", vm, "--timeout", "4"]);
    late.refused(4, "has not shut down in 4s");
}

#[test]
fn a_guest_reboots_powers_off_and_a_killed_one_comes_back() {
    let host = Host::new(768);
    let mut vm = boot(&host, 160, 2, &[]);
    ask(&mut vm, "fill 8 1");
    hears_its_power_button(&host, &vm.name);
    vm.snapshot("before");
    vm.console().say("reboot");
    vm.expect("@ reboot ok");
    // After a reboot, a new machine is behind the same console.
    let ready = vm.expect("@ ready");
    assert!(ready.contains("cpus=2"), "{ready}");
    ask(&mut vm, "fill 8 2");
    assert_healthy(&mut vm);
    vm.console().say("poweroff");
    vm.expect("@ poweroff ok");
    vm.wait_gone();
    host.assert_pool_clean();
    assert_shows_the_kernel(&host, "before");

    let mut back = host.restore("before", &[]);
    assert_healthy(&mut back);
    back.kill();
    host.assert_pool_clean();
    let mut again = host.restore("before", &[]);
    assert_healthy(&mut again);
    again.stop();
    host.run(&["rm", "before"]).ok();
    let status = host.pool_status();
    assert_eq!(
        (
            status["snapshot_bytes"].as_u64(),
            status["leased_bytes"].as_u64()
        ),
        (Some(0), Some(0))
    );
}
