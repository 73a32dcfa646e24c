//! kill -9 at any moment loses nothing that was committed and leaks nothing.

use std::{
    process::{Child, Stdio},
    time::Duration,
};

use nvvmm_tests::{Host, Random, Vm};

/// How many VM processes are killed.
fn kills() -> u32 {
    std::env::var("NVVMM_TEST_KILLS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(12)
}

fn snapshot_names(host: &Host) -> Vec<String> {
    let listed = host.json(&["snapshots"]);
    listed
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry["name"].as_str().unwrap().to_owned())
        .collect()
}

fn start_snapshot(host: &Host, vm: &str, name: &str) -> Child {
    host.command(&["snapshot", vm, name])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("nvvmm starts")
}

#[test]
fn killed_vms_leave_a_clean_pool_and_every_committed_snapshot() {
    let mut random = Random::seeded("kill");
    let host = Host::new(768);
    let mut seed = host.boot_bare_metal(32, 2);
    seed.ask("fill 20 1");
    seed.ask("churn on 5 rand");
    seed.snapshot("k0");
    seed.kill();
    for round in 1..=kills() {
        let committed = snapshot_names(&host);
        assert!(
            !committed.is_empty(),
            "round {round}: a committed snapshot was lost"
        );
        let from = committed[random.below(committed.len() as u64) as usize].clone();
        let vm: Vm<'_> = host.restore(&from, &[]);
        let bystander = host.restore(&from, &[]);
        let name = format!("k{round}");
        let mut snapshot = start_snapshot(&host, &vm.name, &name);
        random.pause(40);
        vm.kill();
        let answered = snapshot.wait().expect("the command ends").success();
        host.assert_pool_clean();
        let now = snapshot_names(&host);
        for old in &committed {
            assert!(now.contains(old), "round {round}: {old} is gone");
        }
        assert!(
            !answered || now.contains(&name),
            "round {round}: {name} was reported and is gone"
        );
        check(bystander, "the bystander");
        if now.len() > 4 {
            host.run(&["rm", &now[random.below(now.len() as u64) as usize]])
                .ok();
        }
    }
    let left = snapshot_names(&host);
    for name in &left {
        check(host.restore(name, &[]), name);
    }
    for name in &left {
        host.run(&["rm", name]).ok();
    }
    host.assert_pool_clean();
    let status = host.pool_status();
    assert_eq!(status["snapshot_blocks"], 0, "{status}");
    assert_eq!(
        status["leased_blocks"], 0,
        "a dead holder's blocks are free again: {status}"
    );
    assert!(
        host.medium_bytes() < (2 << 20) + 2 * host.medium().granule_bytes(),
        "{} bytes behind an empty pool",
        host.medium_bytes()
    );
}

fn check(mut vm: Vm<'_>, whose: &str) {
    let answer = vm.ask("check");
    assert!(answer.contains("check ok"), "{whose}: {answer}");
    vm.stop();
}

#[test]
fn a_killed_vm_can_be_replaced_under_its_name() {
    let host = Host::new(256);
    let vm = host.boot_bare_metal(32, 1);
    let name = vm.name.clone();
    let kernel = nvvmm_tests::required("NVVMM_BAREMETAL_GUEST");
    let kernel = kernel.to_str().unwrap();
    let run = [
        "run", "--kernel", kernel, "--memory", "32M", "--cpus", "1", "--name", &name, "--detach",
    ];
    host.run(&run).refused(4, &name);
    vm.kill();
    std::thread::sleep(Duration::from_millis(50));
    host.run(&run).ok();
    host.run(&["stop", &name]).ok();
}
