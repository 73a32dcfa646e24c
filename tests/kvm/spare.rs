//! Spare VMs stand by, are taken, and end; copies come all or not at all.

use std::time::{Duration, Instant};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use nvvmm_tests::{Host, Vm, wait_gone};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(60);

/// A host with a snapshot `base` of a guest that has written a few MiB.
fn with_base(host: &Host) {
    let mut vm = host.boot_bare_metal(16, 1);
    vm.ask("fill 4 7");
    vm.snapshot("base");
    vm.stop();
}

fn spares(host: &Host) -> Vec<Value> {
    let listed = host.json(&["ps"]);
    let all = listed.as_array().unwrap().iter();
    all.filter(|vm| vm["state"] == "spare").cloned().collect()
}

fn until(what: &str, is_so: impl Fn() -> bool) {
    let late = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < late, "never: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn until_there_are(host: &Host, count: usize) {
    until("so many spare VMs", || spares(host).len() == count);
}

fn pid(vm: &Value) -> i32 {
    vm["pid"].as_i64().unwrap() as i32
}

#[test]
fn a_spare_vm_is_taken_runs_as_any_other_and_another_one_stands_by() {
    let host = Host::new(128);
    with_base(&host);
    let told = host.json(&["spare", "base", "--count", "1"]);
    assert_eq!(told[0]["standing_by_count"], 1, "{told}");
    let [spare] = &spares(&host)[..] else {
        panic!("one spare VM");
    };
    assert_eq!(spare["origin"]["snapshot"], "base");
    assert_eq!(spare["sandbox"]["seccomp"], true);
    assert_eq!(spare["memory_bytes"], 16 << 20);
    assert_eq!(host.run(&["ps", "--quiet"]).ok().stdout, "");

    let name = host.next_name();
    let taken = host.json(&["restore", "base", "--name", &name, "--detach"]);
    assert_eq!(
        (&taken["vm"], &taken["pid"]),
        (&name.as_str().into(), &spare["pid"])
    );
    assert_eq!(taken["restore"]["vm"], name.as_str());
    assert!(
        taken["console"].as_str().unwrap().contains(&name),
        "{taken}"
    );
    let mut vm = Vm::attach(&host, name.clone());
    assert!(vm.ask("check").contains("check ok"));
    vm.ask("write 0 10");
    until("the pool names it", || {
        let status = host.pool_status();
        let holders = status["holders"].as_array().unwrap().iter();
        let is_it = |holder: &&Value| holder["pid"] == spare["pid"];
        holders
            .filter(is_it)
            .all(|holder| holder["holder"] == name.as_str())
    });
    // Operations know the name, and its record is that of the restore.
    vm.snapshot("after");
    host.run(&["rewind", &name, "--to", "after"]).ok();
    vm.ask("stat");
    until_there_are(&host, 1);
    vm.stop();
    let ended = host.json(&["ps", "--all"]);
    let is_it = |vm: &&Value| vm["vm"] == name.as_str();
    let ended = ended
        .as_array()
        .unwrap()
        .iter()
        .find(is_it)
        .unwrap()
        .clone();
    assert_eq!(ended["end"]["reason"], "stopped");
    assert_eq!(ended["end"]["arguments"][0], "restore", "{ended}");

    // A killed one leaves nothing, and is not counted.
    let other = pid(&spares(&host)[0]);
    kill(Pid::from_raw(other), Signal::SIGKILL).unwrap();
    wait_gone(other);
    until_there_are(&host, 0);
    let vm = host.restore("base", &[]);
    until_there_are(&host, 1);
    host.run(&["spare", "base", "--count", "0"]).ok();
    assert!(spares(&host).is_empty());
    vm.stop();
    host.assert_pool_clean();
}

#[test]
fn spare_vms_end_with_their_snapshot_and_with_all_vms() {
    let host = Host::new(128);
    with_base(&host);
    host.run(&["spare", "base", "--count", "2"]).ok();
    let told = host.run(&["spare"]).ok().stdout;
    assert!(told.contains("base") && told.contains('2'), "{told}");
    let first = spares(&host);
    let removed = host.json(&["rm", "base"]);
    assert_eq!(removed[0]["deferred"], false, "{removed}");
    first.iter().map(pid).for_each(wait_gone);
    assert_eq!(
        host.run(&["spare"]).ok().stdout,
        "no spare VMs are wanted\n"
    );

    with_base(&host);
    host.run(&["spare", "base", "--count", "1"]).ok();
    let fits = host.json(&["restore", "base", "--name", "fits", "--detach", "--paused"]);
    assert_eq!(fits["state"], "paused");
    host.run(&["stop", "--all"]).ok();
    // One that is being built meanwhile ends, too, and leaves nothing.
    until("no spare VM is left", || spares(&host).is_empty());
    until("no file of spare VMs is left", || {
        let left = std::fs::read_dir(host.runtime()).unwrap();
        let mut left = left.map(|file| file.unwrap().file_name().into_string().unwrap());
        !left.any(|name| name.starts_with(".spare"))
    });
}

#[test]
fn copies_start_all_or_none() {
    let host = Host::new(128);
    with_base(&host);
    host.run(&["spare", "base", "--count", "1"]).ok();
    let copies = [
        "restore", "base", "--name", "c", "--count", "3", "--detach", "--quiet",
    ];
    assert_eq!(host.run(&copies).ok().stdout, "c-1\nc-2\nc-3\n");
    for name in ["c-1", "c-2", "c-3"] {
        let mut vm = Vm::attach(&host, name.to_owned());
        assert!(vm.ask("check").contains("check ok"));
        vm.stop();
    }
    host.run(&["spare", "base", "--count", "0"]).ok();
    // Started again by its record, it is one VM.
    host.run(&["start", "c-2"]).ok();
    assert_eq!(host.run(&["ps", "--quiet"]).ok().stdout, "c-2\n");
    host.run(&copies).refused(4, "the name 'c-2' is taken");
    host.run(&["stop", "c-2"]).ok();
    // Its socket cannot be made.
    let in_the_way = host.runtime().join("m-2.sock");
    std::fs::create_dir(&in_the_way).unwrap();
    let told = host.run(&["restore", "base", "--name", "m", "--count", "3", "--detach"]);
    let told = told.refused(2, "not all of 3 VMs");
    assert!(told.stderr.contains("'m-2'"), "{}", told.stderr);
    std::fs::remove_dir(&in_the_way).unwrap();
    assert_eq!(host.run(&["ps", "--quiet"]).ok().stdout, "");
    host.assert_pool_clean();
}
