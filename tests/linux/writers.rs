//! Every writer of guest memory is tracked: vCPUs in kernel and user mode, devices, KVM itself.

use nvvmm_tests::{
    Host,
    witness::{ask, assert_healthy, boot},
};

#[test]
fn what_kvm_saw_written_was_the_vms_own() {
    let host = Host::new(768).with_dirty_log();
    let mut vm = boot(&host, 160, 2, &[]);
    ask(&mut vm, "fill 8 1");
    ask(&mut vm, "churn on");
    let mut seen = 0;
    for number in 0..3 {
        vm.snapshot(&format!("s{number}"));
        ask(&mut vm, "rng 512");
        let audit = host.json(&["audit", &vm.name]);
        for kind in ["not_own", "still_shared"] {
            assert_eq!(audit[kind].as_array().map(Vec::len), Some(0), "{audit}");
        }
        seen += audit["dirty_frames"].as_u64().unwrap();
    }
    assert!(seen > 0, "the log saw the guest write");
    assert_healthy(&mut vm);
    vm.stop();
}
