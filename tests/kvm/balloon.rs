//! Memory that a guest gives back is gone. All else stays as it is, in the guest and in snapshots.

use std::time::Duration;

use nvvmm_tests::{Host, Random, SnapshotMemory, Vm, repetitions};

const FILLED_MIB: u64 = 16;
/// Longest wait for a guest that gives back memory.
const PATIENCE: Duration = Duration::from_secs(200);

fn assert_exact(vm: &mut Vm<'_>, whose: &str) {
    let answer = vm.ask("check");
    assert!(answer.contains("@ check ok"), "{whose}: {answer}");
}

/// Bytes of the guest that have a block of the pool.
fn used(host: &Host, vm: &Vm<'_>) -> u64 {
    host.json(&["memory", &vm.name])["used_bytes"]
        .as_u64()
        .unwrap()
}

#[test]
fn what_a_guest_gives_back_is_gone_and_snapshots_meanwhile_are_of_one_instant() {
    let host = Host::new(768);
    let mut random = Random::seeded("balloon");
    let mut vm = host.boot_bare_metal(48, 2);
    vm.ask(&format!("fill {FILLED_MIB} 3"));
    vm.ask("churn on 5 rand");
    let mut names = Vec::new();
    let rounds = repetitions(8);
    for way in ["report", "balloon"] {
        vm.console().say(&format!("give {way} {rounds}"));
        for number in 0..2 {
            random.pause(40);
            let name = format!("{way}{number}");
            vm.snapshot(&name);
            names.push(name);
        }
        let given = vm.console().expect("@ give", PATIENCE);
        assert!(given.contains("@ give ok pieces=15"), "{given}");
    }
    for name in &names {
        let frames = SnapshotMemory::read(host.pool(), name).assert_one_instant(name);
        assert!(frames >= FILLED_MIB * 256, "{name}: {frames} frames");
    }
    vm.ask("churn off");
    let answer = vm.ask("check all");
    assert!(answer.contains("@ check ok"), "{answer}");
    // Copies go on in the middle of a round.
    for name in &names {
        let mut copy = host.restore(name, &[]);
        assert_exact(&mut copy, name);
        copy.stop();
    }
    vm.stop();
    host.assert_pool_clean();
}

#[test]
fn a_guest_that_gives_back_what_it_uses_harms_itself_only() {
    let host = Host::new(512);
    let mut liar = host.boot_bare_metal(32, 1);
    liar.ask(&format!("fill {FILLED_MIB} 3"));
    liar.snapshot("before");
    let mut copy = host.restore("before", &[]);
    let before = used(&host, &liar);
    let given = liar.ask("give lie");
    assert!(given.contains("@ give ok"), "{given}");
    assert!(used(&host, &liar) + ((FILLED_MIB - 4) << 20) < before);
    let answer = liar.ask("check");
    assert!(answer.contains("@ check bad"), "{answer}");
    assert!(answer.contains("what=zero"), "{answer}");
    liar.snapshot("after");
    SnapshotMemory::read(host.pool(), "before").assert_one_instant("before");
    assert_exact(&mut copy, "the copy");
    let mut again = host.restore("before", &[]);
    assert_exact(&mut again, "another copy");
    [liar, copy, again].into_iter().for_each(Vm::stop);
    host.assert_pool_clean();
}
