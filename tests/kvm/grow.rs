//! A pool grows under running VMs. Guests that wait for space go on, and no memory is harmed.

use std::time::{Duration, Instant};

use nvvmm_tests::{Engine, Host, Random, SnapshotMemory, Vm, repetitions};

fn wait_until_starved(vm: &Vm<'_>) {
    let until = Instant::now() + Duration::from_secs(120);
    while vm.status()["notice"].is_null() {
        assert!(
            Instant::now() < until,
            "the VM never said that it waits: {}",
            vm.status()
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// True if the pool is on a device. Such a pool keeps its size: growing it is refused and changes
/// nothing.
fn has_fixed_size(host: &Host) -> bool {
    let fixed = host.medium().is_device();
    if fixed {
        let before = host.pool_status();
        host.run(&["pool", "grow", "--size", "+64M"])
            .refused(4, "size is fixed");
        assert_eq!(host.pool_status(), before);
        println!("SKIPPED: a pool on a device does not grow");
    }
    fixed
}

#[test]
fn a_guest_that_finds_no_block_goes_on_when_the_pool_grows() {
    let host = Host::new(64);
    if has_fixed_size(&host) {
        return;
    }
    if host.engine() == Engine::Private {
        return crate::full_pool::a_guest_with_private_memory_never_waits(&host, || {
            let grown = host.json(&["pool", "grow", "--size", "+64M"]);
            assert_eq!(grown["size_bytes"], 128 << 20, "{grown}");
        });
    }
    let mut vm = host.boot_bare_metal(48, 1);
    vm.ask("fill 24 1");
    vm.snapshot("a");
    vm.ask("write 0 4000");
    // The pool cannot hold a third copy of the rewritten memory.
    vm.snapshot("b");
    vm.console().say("write 0 6000");
    wait_until_starved(&vm);
    let grown = host.json(&["pool", "grow", "--size", "+64M"]);
    assert_eq!(grown["size_bytes"], 128 << 20, "{grown}");
    assert!(vm.expect("@ write").contains("write ok"));
    assert!(vm.status()["notice"].is_null(), "{}", vm.status());
    assert!(vm.ask("check").contains("check ok"));
    host.assert_pool_clean();
    // Data on the new part is as good as the rest, for other VMs too.
    let digest = vm.ask("digest all");
    vm.snapshot("c");
    vm.stop();
    let mut copy = host.restore("c", &[]);
    assert_eq!(copy.ask("digest all"), digest);
    copy.stop();
    host.assert_pool_clean();
}

#[test]
fn vms_keep_their_exact_memory_while_the_pool_grows() {
    let mut random = Random::seeded("grow");
    let host = Host::new(96);
    if has_fixed_size(&host) {
        return;
    }
    let mut original = host.boot_bare_metal(48, 2);
    original.ask("fill 20 3");
    original.ask(&format!("churn on {} rand check", random.below(1 << 30)));
    original.snapshot("base");
    let mut copy = host.restore("base", &[]);
    let mut names = vec!["base".to_owned()];
    let growths = u64::from(repetitions(6).max(2));
    for number in 0..growths {
        host.run(&["pool", "grow", "--size", "+48M"]).ok();
        random.pause(40);
        let name = format!("s{number}");
        if number % 2 == 0 { &original } else { &copy }.snapshot(&name);
        names.push(name);
        host.assert_pool_clean();
    }
    assert_eq!(host.pool_status()["size_bytes"], (96 + growths * 48) << 20);
    for name in &names {
        SnapshotMemory::read(host.pool(), name).assert_one_instant(name);
    }
    for vm in [&mut original, &mut copy] {
        let answer = vm.ask("check");
        assert!(answer.contains("@ check ok"), "{answer}");
    }
    original.kill();
    copy.stop();
    for name in &names {
        host.run(&["rm", name]).ok();
    }
    let status = host.pool_status();
    assert_eq!(
        (&status["snapshot_bytes"], &status["leased_bytes"]),
        (&0.into(), &0.into()),
        "{status}"
    );
    host.assert_pool_clean();
}
