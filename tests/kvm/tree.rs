//! Snapshots of restored VMs, and of VMs restored from those, removed in any order.

use nvvmm_tests::{Host, Random, repetitions};

#[test]
fn a_tree_of_snapshots_survives_deletion_in_any_order() {
    let mut random = Random::seeded("tree");
    let host = Host::new(1024);
    let mut digests: Vec<(String, String)> = Vec::new();
    let mut root = host.boot_bare_metal(32, 2);
    root.ask("fill 20 11");
    digests.push(("n0".into(), root.ask("digest all")));
    root.snapshot("n0");
    root.stop();
    let id_of = |name: &str| entry_of(&host, name)["snapshot_id"].clone();
    for number in 1..repetitions(8).max(4) {
        let parent = digests[random.below(digests.len() as u64) as usize]
            .0
            .clone();
        let mut vm = host.restore(&parent, &[]);
        vm.ask(&format!(
            "write {} 300 {}",
            random.below(64),
            1 + random.below(8)
        ));
        let name = format!("n{number}");
        digests.push((name.clone(), vm.ask("digest all")));
        vm.snapshot(&name);
        assert_eq!(
            entry_of(&host, &name)["parent_id"],
            id_of(&parent),
            "{name} of {parent}"
        );
        vm.stop();
    }
    while !digests.is_empty() {
        let (gone, _) = digests.swap_remove(random.below(digests.len() as u64) as usize);
        host.run(&["rm", &gone]).ok();
        host.assert_pool_clean();
        if let Some((name, digest)) = digests.last() {
            let mut vm = host.restore(name, &[]);
            assert_eq!(
                &vm.ask("digest all"),
                digest,
                "{name}, after {gone} was removed"
            );
            vm.stop();
        }
    }
    let status = host.pool_status();
    assert_eq!(status["snapshot_bytes"], 0, "nothing is left: {status}");
}

fn entry_of(host: &Host, name: &str) -> serde_json::Value {
    let listed = host.json(&["snapshots"]);
    let found = listed
        .as_array()
        .unwrap()
        .iter()
        .find(|entry| entry["snapshot"] == *name);
    found
        .unwrap_or_else(|| panic!("{name} is not in {listed}"))
        .clone()
}

#[test]
fn a_snapshot_that_a_vm_runs_from_can_be_removed() {
    let host = Host::new(512);
    let mut vm = host.boot_bare_metal(32, 1);
    vm.ask("fill 16 5");
    let digest = vm.ask("digest all");
    vm.snapshot("base");
    vm.stop();
    let mut copy = host.restore("base", &[]);
    host.run(&["rm", "base"]).ok();
    host.run(&["restore", "base", "--detach"])
        .refused(3, "base");
    assert_eq!(
        copy.ask("digest all"),
        digest,
        "the memory stays while the VM lives"
    );
    copy.snapshot("kept");
    copy.stop();
    let mut again = host.restore("kept", &[]);
    assert_eq!(again.ask("digest all"), digest);
    again.stop();
    host.assert_pool_clean();
    host.run(&["rm", "kept"]).ok();
    assert_eq!(host.pool_status()["snapshot_bytes"], 0);
}

#[test]
fn once_consumes_the_snapshot_and_copies_nothing() {
    let host = Host::new(512);
    let mut vm = host.boot_bare_metal(32, 2);
    vm.ask("fill 16 9");
    let digest = vm.ask("digest all");
    vm.snapshot("only");
    vm.stop();
    let mut back = host.restore("only", &["--once"]);
    assert_eq!(
        host.json(&["snapshots"]).as_array().unwrap().len(),
        0,
        "it is consumed"
    );
    assert_eq!(back.ask("digest all"), digest);
    back.ask("write 0 4000");
    assert_eq!(back.status()["ram"]["copied_bytes"], 0, "{}", back.status());
    assert!(back.ask("check").contains("check ok"));
    let digest = back.ask("digest all");
    back.snapshot("next");
    back.stop();
    let mut next = host.restore("next", &[]);
    assert_eq!(
        next.ask("digest all"),
        digest,
        "what was never touched after --once is in the next snapshot too"
    );
    next.stop();
    host.assert_pool_clean();
}

#[test]
fn once_takes_nothing_that_another_snapshot_or_vm_needs() {
    let host = Host::new(512);
    let mut vm = host.boot_bare_metal(32, 2);
    vm.ask("fill 16 9");
    let first = vm.ask("digest all");
    vm.snapshot("first");
    vm.ask("write 0 1000");
    let second = vm.ask("digest all");
    vm.snapshot("second");
    host.run(&["restore", "second", "--once", "--detach"])
        .refused(4, "in use by");
    assert_eq!(
        vm.ask("digest all"),
        second,
        "the original still runs on the blocks"
    );
    vm.stop();
    let mut once = host.restore("second", &["--once"]);
    assert_eq!(once.ask("digest all"), second);
    once.ask("write 500 3000");
    let mut older = host.restore("first", &[]);
    assert_eq!(older.ask("digest all"), first);
    for mut vm in [once, older] {
        assert!(vm.ask("check").contains("check ok"));
        vm.stop();
    }
    host.assert_pool_clean();
}
