//! A snapshot taken while every vCPU writes holds exactly the memory of one instant.

use nvvmm_tests::{Engine, Host, Random, SnapshotMemory, Vm, repetitions};

/// Runs all checks of the guest itself. For every vCPU, every frame holds the data that its writer
/// had written at one instant.
fn assert_exact(vm: &mut Vm<'_>, whose: &str) {
    let answer = vm.ask("check");
    assert!(answer.contains("@ check ok"), "{whose}: {answer}");
}

fn snapshots_of_a_churning_guest(vcpus: u32, pattern: &str, access: &str) {
    let mut random = Random::seeded(pattern);
    let host = Host::new(1024);
    let mut original = host.boot_bare_metal(64, vcpus);
    original.ask("fill 40 7");
    original.ask(&format!(
        "churn on {} {pattern} {access}",
        random.below(1 << 30)
    ));
    let names: Vec<String> = (0..repetitions(6).max(2))
        .map(|number| format!("s{number}"))
        .collect();
    for name in &names {
        random.pause(60);
        let report = original.snapshot(name);
        let bytes = |what: &str| report[what].as_u64().unwrap();
        match host.engine() {
            Engine::Redirect => assert_eq!(bytes("copied_paused_bytes"), 0, "{report}"),
            Engine::Private => {
                assert!(bytes("copied_bytes") >= bytes("new_bytes"), "{report}");
                assert!(
                    bytes("copied_paused_bytes") < bytes("copied_bytes"),
                    "some of it was copied while the guest went on: {report}"
                );
            }
        }
    }
    for name in &names {
        let frames = SnapshotMemory::read(host.pool(), name).assert_one_instant(name);
        assert!(frames >= 40 * 256, "{name}: {frames} frames were compared");
    }
    assert_exact(&mut original, "the original");
    // Two copies at a time run beside the original, and all of them write.
    for pair in names.chunks(2) {
        let mut copies: Vec<Vm<'_>> = pair.iter().map(|name| host.restore(name, &[])).collect();
        for (copy, name) in copies.iter_mut().zip(pair) {
            assert_exact(copy, name);
            random.pause(30);
            assert_exact(copy, name);
        }
        copies.into_iter().for_each(Vm::stop);
    }
    assert_exact(&mut original, "the original at the end");
    original.stop();
    host.assert_pool_clean();
}

#[test]
fn one_vcpu_in_order() {
    snapshots_of_a_churning_guest(1, "seq", "check");
}

#[test]
fn two_vcpus_in_random_order() {
    snapshots_of_a_churning_guest(2, "rand", "check");
}

#[test]
fn two_vcpus_whose_first_access_is_an_atomic_write() {
    snapshots_of_a_churning_guest(2, "rand", "xchg");
}

#[test]
fn three_vcpus_that_write_blindly_across_chunks() {
    snapshots_of_a_churning_guest(3, "stride", "blind");
}

#[test]
fn two_vcpus_on_a_small_working_set() {
    snapshots_of_a_churning_guest(2, "hot", "check");
}

#[test]
fn a_snapshot_of_a_paused_vm_is_the_memory_it_stands_at() {
    let host = Host::new(512);
    let mut vm = host.boot_bare_metal(32, 2);
    vm.ask("fill 16 3");
    let digest = vm.ask("digest all");
    vm.pause();
    vm.snapshot("still");
    assert_eq!(
        vm.status()["state"],
        "paused",
        "a snapshot leaves a paused VM paused"
    );
    vm.resume();
    vm.ask("write 0 500 3");
    assert_ne!(vm.ask("digest all"), digest, "the original went on");
    for options in [&[][..], &["--prefault"]] {
        let mut copy = host.restore("still", options);
        assert_eq!(copy.ask("digest all"), digest, "{options:?}");
        copy.ask("write 7 500 2");
        assert_exact(&mut copy, "the copy");
        copy.stop();
    }
}
