//! KVM's dirty log agrees with the frames that the engine made writable.

use nvvmm_tests::{Host, Random, repetitions};

#[test]
fn every_frame_that_kvm_saw_written_was_the_vms_own() {
    let mut random = Random::seeded("dirty_log");
    let host = Host::new(1024).with_dirty_log();
    let mut vm = host.boot_bare_metal(64, 2);
    vm.ask("fill 40 7");
    vm.ask("churn on 3 rand");
    let (mut seen, snapshots) = (0, repetitions(5).max(2));
    for number in 0..snapshots {
        vm.snapshot(&format!("s{number}"));
        random.pause(50);
        let audit = host.json(&["audit", &vm.name]);
        for kind in ["not_own", "still_shared", "stale"] {
            assert_eq!(audit[kind].as_array().map(Vec::len), Some(0), "{audit}");
        }
        seen += audit["dirty_frames"].as_u64().unwrap();
    }
    assert!(seen > 0, "the log saw the guest write");
    let mut copy = host.restore("s1", &[]);
    random.pause(50);
    let audit = host.json(&["audit", &copy.name]);
    for kind in ["not_own", "still_shared", "stale"] {
        assert_eq!(audit[kind].as_array().map(Vec::len), Some(0), "{audit}");
    }
    assert!(copy.ask("check").contains("check ok"));
    assert!(vm.ask("check").contains("check ok"));
}
