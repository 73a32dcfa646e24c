//! Options of `nvvmm restore` that a snapshot or its guest cannot honour are named.

use nvvmm_tests::Host;

#[test]
fn a_snapshot_of_a_vm_is_not_restarted_in_a_guest_whatever_that_guest_lacks() {
    let host = Host::new(256);
    let vm = host.boot_bare_metal(16, 1);
    vm.snapshot("whole");
    // This guest has no agent, and that is not the reason.
    let refused = host
        .run(&["restore", "whole", "--into", &vm.name])
        .refused(4, "not a snapshot of a process");
    assert!(!refused.stderr.contains("agent"), "{}", refused.stderr);
    host.run(&["restore", "nothing", "--into", &vm.name])
        .refused(3, "nothing");
    // Nor is an image of another pool, and the VM's own pool may be named.
    let other = Host::new(64);
    host.run(&[
        "restore",
        "whole",
        "--into",
        &vm.name,
        "--pool",
        other.pool_str(),
    ])
    .refused(4, "--pool names");
    host.run(&[
        "restore",
        "whole",
        "--into",
        &vm.name,
        "--pool",
        host.pool_str(),
    ])
    .refused(4, "not a snapshot of a process");
    vm.stop();
}

#[test]
fn a_clock_that_nobody_in_the_guest_can_set_is_said() {
    let host = Host::new(256);
    let vm = host.boot_bare_metal(16, 1);
    vm.snapshot("s");
    vm.stop();
    let arguments = ["restore", "s", "--name", "copy", "--detach"];
    let stepped = host.run(&[&arguments[..], &["--clock", "step"]].concat());
    let told = stepped.ok().stderr;
    assert!(told.contains("the guest's clock is not set"), "{told}");
    let copy = nvvmm_tests::Vm::attach(&host, "copy".into());
    assert_eq!(copy.status()["restore"]["clock"], "no-agent");
    copy.stop();
    // This guest has no time of day: nothing is said of it unless it is asked for.
    for options in [&[][..], &["--clock", "keep"]] {
        let kept = host.run(&[&arguments[..], options].concat()).ok().stderr;
        assert!(!kept.contains("clock"), "{kept}");
        let copy = nvvmm_tests::Vm::attach(&host, "copy".into());
        assert_eq!(copy.status()["restore"]["clock"], "kept");
        copy.stop();
    }
}
