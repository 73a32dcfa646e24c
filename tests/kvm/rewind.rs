//! A VM goes back to its snapshots, in the machine that it has or in one that is built anew: memory
//! is exact, and the VM stays what it is.

use std::time::{Duration, Instant};

use nvvmm_snapshot::Pool;
use nvvmm_tests::{Engine, Host, Random, Vm, repetitions};
use serde_json::Value;

/// Ways to rewind: in place, and by building the machine anew.
const WAYS: [bool; 2] = [true, false];
const PATIENCE: Duration = Duration::from_secs(60);

fn host_that_rewinds(in_place: bool, pool_mib: u64) -> Host {
    let host = Host::new(pool_mib);
    match in_place {
        true => host,
        false => host.with_fault("NVVMM_TEST_WITHOUT", "rewind-in-place".to_owned()),
    }
}

fn rewind(host: &Host, vm: &Vm<'_>, to: &str) -> Value {
    host.json(&["rewind", &vm.name, "--to", to])
}

fn was_in_place(report: &Value) -> bool {
    let phases = report["phases"].as_array().unwrap();
    phases.iter().any(|phase| phase["phase"] == "PutBackMemory")
}

#[test]
fn a_hundred_rewinds_to_different_snapshots_are_exact() {
    let mut random = Random::seeded("a_hundred_rewinds");
    for in_place in WAYS {
        let host = host_that_rewinds(in_place, 512);
        let mut vm = host.boot_bare_metal(32, 2);
        vm.ask("fill 12 5");
        let mut digests = Vec::new();
        for number in 0..3 {
            vm.ask(&format!("write {} 400 {}", number * 900, number + 1));
            vm.snapshot(&format!("s{number}"));
            digests.push(vm.ask("digest all"));
        }
        let rewinds = repetitions(if in_place { 100 } else { 4 });
        for round in 0..rewinds {
            let to = random.below(3) as usize;
            vm.ask(&format!(
                "write {} {} 1",
                random.below(2000),
                1 + random.below(400)
            ));
            let report = rewind(&host, &vm, &format!("s{to}"));
            assert_eq!(was_in_place(&report), in_place, "{report}");
            assert_eq!(vm.ask("digest all"), digests[to], "round {round}, s{to}");
        }
        assert!(vm.ask("check").contains("check ok"));
        // The same counts, whichever way: they begin with the rewind.
        rewind(&host, &vm, "s1");
        let stats = vm.stats();
        assert_eq!(stats["snapshot_totals"]["taken_count"], 0, "{stats}");
        let status = vm.status();
        assert_eq!(status["origin"]["snapshot"], "s1", "{status}");
        assert_eq!(status["snapshots_taken"].as_array().unwrap().len(), 0);
        vm.snapshot("after");
        let mut copy = host.restore("after", &[]);
        assert_eq!(copy.ask("digest all"), digests[1]);
        copy.stop();
        vm.stop();
        host.assert_pool_clean();
    }
}

#[test]
fn a_snapshot_that_the_vm_is_at_no_more_can_be_removed() {
    for in_place in WAYS {
        let host = host_that_rewinds(in_place, 128);
        let mut vm = host.boot_bare_metal(32, 1);
        vm.ask("fill 12 5");
        vm.snapshot("first");
        let digest = vm.ask("digest all");
        vm.ask("write 0 2000 1");
        vm.snapshot("second");
        rewind(&host, &vm, "first");
        host.run(&["rm", "second"]).ok();
        vm.ask("write 0 50 1");
        rewind(&host, &vm, "first");
        // What only the second had, and what was written since, is free again when it is cleaned.
        let free = || host.pool_status()["free_bytes"].as_u64().unwrap();
        let until = Instant::now() + PATIENCE;
        while free() < (128 - 12 - 8) << 20 {
            assert!(Instant::now() < until, "{}", host.pool_status());
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(host.pool_status()["snapshot_count"], 1);
        assert_eq!(vm.ask("digest all"), digest);
        vm.stop();
        host.assert_pool_clean();
    }
}

#[test]
fn a_full_pool_lets_a_vm_go_back() {
    for in_place in WAYS {
        let host = host_that_rewinds(in_place, 64);
        if host.engine() != Engine::Redirect {
            return;
        }
        let mut vm = host.boot_bare_metal(32, 1);
        vm.ask("fill 16 5");
        vm.snapshot("s");
        let digest = vm.ask("digest all");
        vm.ask("write 0 3000 1");
        let ballast = {
            let pool = std::sync::Arc::new(Pool::open(host.pool()).unwrap());
            let ballast = pool.hold("ballast").unwrap();
            while ballast.take_blocks(64).is_ok() {}
            while ballast.take_blocks(1).is_ok() {}
            ballast
        };
        for _ in 0..3 {
            rewind(&host, &vm, "s");
            assert_eq!(vm.ask("digest all"), digest);
            assert_eq!(vm.status()["state"], "running");
        }
        drop(ballast);
        vm.ask("write 0 3000 1");
        rewind(&host, &vm, "s");
        assert_eq!(vm.ask("digest all"), digest);
        vm.stop();
        host.assert_pool_clean();
    }
}
