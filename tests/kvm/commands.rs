//! Commands on a running VM, as a user types them.

use nvvmm_tests::Host;

#[test]
fn pause_resume_ps_stop() {
    let host = Host::new(256);
    let mut vm = host.boot_bare_metal(32, 2);
    vm.ask("fill 8 1");
    let status = vm.status();
    assert_eq!(
        (status["state"].as_str(), status["vcpu_count"].as_u64()),
        (Some("running"), Some(2)),
        "{status}"
    );
    vm.pause();
    assert_eq!(vm.status()["state"], "paused");
    vm.console().say("stat");
    assert_eq!(
        vm.console().line(std::time::Duration::from_millis(500)),
        None,
        "a paused guest says nothing"
    );
    vm.resume();
    assert!(
        vm.expect("@ stat").contains("filled=2048"),
        "it goes on where it was"
    );
    let table = host.run(&["ps"]).ok().stdout;
    assert!(
        table.contains(&vm.name) && table.contains("running"),
        "{table}"
    );
    vm.stop();
    assert_eq!(host.json(&["ps"]).as_array().unwrap().len(), 0);
}

#[test]
fn snapshot_and_stop_then_restore_continues() {
    let host = Host::new(256);
    let mut vm = host.boot_bare_metal(32, 2);
    vm.ask("fill 16 4");
    vm.ask("churn on 9 seq");
    host.json(&["snapshot", &vm.name, "end", "--stop"]);
    vm.wait_gone();
    assert_eq!(host.json(&["ps"]).as_array().unwrap().len(), 0);
    let mut back = host.restore("end", &[]);
    let first = back.ask("stat");
    assert!(first.contains("churn=on"), "{first}");
    assert!(back.ask("check").contains("check ok"));
    assert_ne!(back.ask("stat"), first, "the churn goes on");
    let report = &back.status()["restore"];
    assert!(
        report["first_instruction_us"].as_u64().unwrap() > 0,
        "{report}"
    );
}

#[test]
fn a_durability_that_the_pool_cannot_keep_is_refused_and_nothing_happens() {
    let host = Host::new(256);
    let vm = host.boot_bare_metal(32, 1);
    let status = host.pool_status();
    let limit = &status["durability"];
    let strengths = ["process", "host", "power"];
    let strongest = strengths.iter().position(|name| limit == *name);
    let (kept, beyond) = strengths.split_at(strongest.expect("one of them") + 1);
    for asked in beyond {
        host.run(&["snapshot", &vm.name, "never", "--durability", asked])
            .refused(4, status["durability_reason"].as_str().unwrap());
    }
    assert_eq!(host.json(&["snapshots"]).as_array().unwrap().len(), 0);
    for asked in kept {
        let taken = host.json(&["snapshot", &vm.name, asked, "--durability", asked]);
        assert_eq!(taken["durability"], *limit, "as much as the pool can");
    }
}

#[test]
fn a_guest_that_powers_off_ends_its_vm() {
    let host = Host::new(256);
    let mut vm = host.boot_bare_metal(32, 2);
    vm.ask("stat");
    vm.ask("bye");
    vm.wait_gone();
    host.assert_pool_clean();
}

#[test]
fn names_are_taken_once() {
    let host = Host::new(256);
    let vm = host.boot_bare_metal(32, 1);
    vm.snapshot("s");
    host.run(&["snapshot", &vm.name, "s"]).refused(4, "s");
    host.run(&["restore", "s", "--name", &vm.name, "--detach"])
        .refused(4, &vm.name);
    host.run(&["snapshot", "nobody", "t"]).refused(3, "nobody");
    host.run(&["restore", "nothing", "--detach"])
        .refused(3, "nothing");
    host.run(&["rm", "nothing"]).refused(3, "nothing");
    host.run(&["snapshot", &vm.name, "../etc"])
        .refused(2, "'/' cannot be in a name");
}
