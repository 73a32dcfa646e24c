//! A core dump of a VM process holds nothing of its guest.

use std::fs;

use nvvmm_tests::{Host, Vm};

/// Fails unless nothing that is mapped now or later goes into a core dump of the VM process.
fn assert_left_out(vm: &Vm<'_>) {
    match fs::read_to_string(format!("/proc/{}/coredump_filter", vm.pid)) {
        Ok(mask) => assert!(mask.trim().chars().all(|digit| digit == '0'), "{mask}"),
        // A process that cannot be dumped at all shows nothing to others.
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied),
    }
}

#[test]
fn a_vm_and_its_clone_leave_guest_memory_out() {
    let host = Host::new(192);
    let mut vm = host.boot_bare_metal(32, 1);
    vm.ask("fill 8 1");
    assert_left_out(&vm);
    vm.snapshot("base");
    vm.ask("touch all");
    let mut copy = host.restore("base", &[]);
    copy.ask("touch all");
    assert_left_out(&vm);
    assert_left_out(&copy);
}
