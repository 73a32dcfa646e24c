//! A ring of checkpoints keeps the newest few of a running VM. Each checkpoint is exact, and the VM
//! can be rewound to any of them.

use std::time::{Duration, Instant};

use nvvmm_snapshot::Pool;
use nvvmm_tests::{Host, Random, SnapshotMemory, Vm, repetitions};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(120);

/// Waits until the status of the VM's ring in `nvvmm ps` fulfils `holds`, and returns the status.
fn wait_for_ring(vm: &Vm<'_>, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
    let until = Instant::now() + PATIENCE;
    loop {
        let ring = vm.status()["ring"].clone();
        if holds(&ring) {
            return ring;
        }
        assert!(Instant::now() < until, "never {what}: {ring}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn taken(ring: &Value) -> u64 {
    ring["taken_count"].as_u64().unwrap()
}

fn wait_for_more(vm: &Vm<'_>, more: u64) -> Value {
    let before = taken(&vm.status()["ring"]);
    wait_for_ring(vm, "more checkpoints", |ring| {
        assert_eq!(ring["running"], true, "{ring}");
        taken(ring) >= before + more
    })
}

/// Names of the snapshots in the pool, the oldest first.
fn names(host: &Host) -> Vec<String> {
    let pool = Pool::open(host.pool()).unwrap();
    let entries = pool.entries().unwrap();
    entries.into_iter().map(|entry| entry.name).collect()
}

fn stop_ring(host: &Host, vm: &Vm<'_>) -> Value {
    let ring = host.json(&["checkpoint", &vm.name, "--stop"]);
    assert_eq!(ring["running"], false, "{ring}");
    ring
}

fn rewind(host: &Host, vm: &Vm<'_>, options: &[&str]) -> Value {
    let mut arguments = vec!["rewind", vm.name.as_str()];
    arguments.extend_from_slice(options);
    host.json(&arguments)
}

fn assert_exact(vm: &mut Vm<'_>, whose: &str) {
    let answer = vm.ask("check");
    assert!(answer.contains("@ check ok"), "{whose}: {answer}");
}

fn churning(host: &Host) -> Vm<'_> {
    let mut vm = host.boot_bare_metal(48, 2);
    vm.ask("fill 16 3");
    vm.ask("churn on 11 rand");
    vm
}

#[test]
fn the_newest_few_are_kept_and_each_is_of_one_instant() {
    let host = Host::new(1024);
    let mut vm = churning(&host);
    let begun = host.json(&["checkpoint", &vm.name, "--every", "10ms", "--keep", "4"]);
    assert_eq!(
        (begun["running"].as_bool(), begun["every_us"].as_u64()),
        (Some(true), Some(10_000)),
        "{begun}"
    );
    wait_for_more(&vm, u64::from(repetitions(40)));
    let ring = stop_ring(&host, &vm);
    let last = taken(&ring);
    let expected: Vec<String> = (last - 3..=last)
        .map(|number| format!("{}@{number}", vm.name))
        .collect();
    assert_eq!(names(&host), expected, "{ring}");
    assert_eq!(
        (
            ring["kept_count"].as_u64(),
            ring["newest_snapshot"].as_str()
        ),
        (Some(4), Some(&*expected[3]))
    );
    for name in &expected {
        let frames = SnapshotMemory::read(host.pool(), name).assert_one_instant(name);
        assert!(frames >= 16 * 256, "{name}: {frames} frames were compared");
        let mut copy = host.restore(name, &[]);
        assert_exact(&mut copy, name);
        copy.stop();
    }
    assert_exact(&mut vm, "the original");

    // Checkpoints are ordinary snapshots. The ring goes on with those that it finds.
    host.run(&["rm", &expected[1]]).ok();
    host.json(&["checkpoint", &vm.name, "--every", "0", "--keep", "2"]);
    wait_for_more(&vm, 3);
    let last = last + taken(&stop_ring(&host, &vm));
    let kept = [last - 1, last].map(|number| format!("{}@{number}", vm.name));
    assert_eq!(names(&host), kept);
    vm.stop();
    host.assert_pool_clean();
}

#[test]
fn a_rewind_goes_back_exactly_and_the_vm_stays_what_it_is() {
    let host = Host::new(512);
    let mut vm = host.boot_bare_metal(32, 2);
    vm.ask("fill 8 5");
    let mut digests = Vec::new();
    for seed in 0..3 {
        vm.ask(&format!("write {} 300 {}", seed * 7, seed + 1));
        host.json(&["checkpoint", &vm.name, "--every", "1h", "--keep", "3"]);
        wait_for_ring(&vm, "a checkpoint", |ring| taken(ring) == 1);
        stop_ring(&host, &vm);
        digests.push(vm.ask("digest all"));
    }
    vm.ask("write 0 1000 2");
    let now = vm.ask("digest all");
    assert!(!digests.contains(&now));
    let before = vm.status();
    for back in [3, 1, 2, 2] {
        let report = rewind(&host, &vm, &["-n", &back.to_string()]);
        assert_eq!(
            report["snapshot"],
            format!("{}@{}", vm.name, 4 - back),
            "{report}"
        );
        // The console connection and the process stay the same.
        assert_eq!(vm.ask("digest all"), digests[3 - back], "{back} back");
        assert_exact(&mut vm, &format!("{back} back"));
        let after = vm.status();
        for same in ["name", "pid", "console", "vcpus", "memory_bytes", "pool"] {
            assert_eq!(after[same], before[same], "{same}");
        }
        assert_eq!(after["state"], "running");
        // The next rewind undoes these writes.
        vm.ask("write 100 200 1");
    }
    assert_eq!(names(&host).len(), 3, "all are kept");

    // Rewinds to a snapshot with a name. The VM stays paused.
    vm.snapshot("named");
    let named = vm.ask("digest all");
    vm.ask("write 9 90 1");
    vm.pause();
    let report = rewind(&host, &vm, &["--to", "named"]);
    assert_eq!(report["paused"], true, "{report}");
    assert_eq!(vm.status()["state"], "paused");
    vm.resume();
    assert_eq!(vm.ask("digest all"), named);

    let none = host.run(&["rewind", &vm.name, "-n", "4"]);
    none.refused(3, "there are 3");
    host.run(&["rewind", &vm.name, "--to", "nothing"])
        .refused(3, "nothing");
    let other = host.boot_bare_metal(48, 1);
    other.snapshot("other");
    host.run(&["rewind", &vm.name, "--to", "other"])
        .refused(4, "other CPUs, memory or devices");
    assert_eq!(vm.ask("digest all"), named, "a refusal changes nothing");
    other.stop();
    vm.stop();
    host.assert_pool_clean();
}

/// A rewind chooses the checkpoint that the ring removes next.
#[test]
fn a_rewind_to_the_oldest_checkpoint_does_not_lose_it_to_the_ring() {
    let host = Host::new(1024);
    let mut vm = churning(&host);
    host.json(&["checkpoint", &vm.name, "--every", "0", "--keep", "1"]);
    for _ in 0..24 {
        wait_for_more(&vm, 1);
        rewind(&host, &vm, &["-n", "1"]);
    }
    assert_exact(&mut vm, "at the end");
    stop_ring(&host, &vm);
    vm.stop();
    host.assert_pool_clean();
}

#[test]
fn rewinds_while_the_ring_goes_on() {
    let mut random = Random::seeded("rewinds_while_the_ring_goes_on");
    let host = Host::new(1024);
    let mut vm = churning(&host);
    host.json(&["checkpoint", &vm.name, "--every", "10ms", "--keep", "5"]);
    wait_for_more(&vm, 5);
    for _ in 0..repetitions(6) {
        let back = 1 + random.below(5);
        rewind(&host, &vm, &["-n", &back.to_string()]);
        assert_exact(&mut vm, &format!("{back} back"));
        wait_for_more(&vm, 3);
    }
    stop_ring(&host, &vm);
    for name in names(&host) {
        SnapshotMemory::read(host.pool(), &name).assert_one_instant(&name);
    }
    assert_exact(&mut vm, "at the end");
    vm.stop();
    host.assert_pool_clean();
}

#[test]
fn a_guest_that_reboots_or_stands_still_has_its_ring() {
    let host = Host::new(512);
    let vm = churning(&host);
    host.json(&["checkpoint", &vm.name, "--every", "5ms", "--keep", "3"]);
    wait_for_more(&vm, 3);
    vm.pause();
    let before = vm.status()["ring"].clone();
    wait_for_ring(&vm, "missed", |ring| {
        ring["missed_count"].as_u64().unwrap() >= before["missed_count"].as_u64().unwrap() + 5
    });
    assert!(
        taken(&vm.status()["ring"]) <= taken(&before) + 1,
        "nothing changes in a paused VM"
    );
    // A snapshot that the user took is not part of the ring.
    vm.snapshot("mine");
    vm.resume();
    wait_for_more(&vm, 5);
    stop_ring(&host, &vm);
    assert!(names(&host).contains(&"mine".to_owned()));
    host.run(&["snapshot", &vm.name, "x@1"])
        .refused(2, "names with @");
    vm.stop();
    host.assert_pool_clean();
}

#[test]
fn a_killed_vm_leaves_its_checkpoints() {
    let mut random = Random::seeded("a_killed_vm_leaves_its_checkpoints");
    for round in 0..repetitions(4) {
        let host = Host::new(512);
        let vm = churning(&host);
        host.json(&["checkpoint", &vm.name, "--every", "0", "--keep", "3"]);
        wait_for_more(&vm, 3);
        random.pause(40);
        let name = vm.name.clone();
        vm.kill();
        host.assert_pool_clean();
        let left = names(&host);
        assert_eq!(left.len(), 3, "{left:?}");
        for name in &left {
            SnapshotMemory::read(host.pool(), name).assert_one_instant(name);
        }
        // The ring of a VM with that name goes on where it ended.
        host.run(&["restore", &left[2], "--name", &name, "--detach"])
            .ok();
        let mut again = Vm::attach(&host, name.clone());
        assert_exact(&mut again, &format!("round {round}"));
        host.json(&["checkpoint", &name, "--every", "10ms", "--keep", "3"]);
        wait_for_more(&again, 4);
        stop_ring(&host, &again);
        assert!(names(&host).iter().all(|name| !left.contains(name)));
        again.stop();
        host.assert_pool_clean();
    }
}

#[test]
fn a_full_pool_ends_the_ring_and_not_the_guest() {
    let host = Host::new(96);
    let mut vm = host.boot_bare_metal(32, 1);
    vm.ask("fill 24 3");
    vm.ask("churn on 8 rand");
    host.json(&["checkpoint", &vm.name, "--every", "2ms", "--keep", "1000"]);
    let ring = wait_for_ring(&vm, "ended", |ring| ring["running"] == false);
    assert_eq!(ring["failure"]["kind"], "pool_full", "{ring}");
    assert!(taken(&ring) > 0, "{ring}");
    let notes = host.run(&["ps"]).ok().stderr;
    assert!(
        notes.contains("the ring of checkpoints has ended: the pool is full"),
        "{notes}"
    );
    let checkpoints = names(&host);
    let mut arguments = vec!["rm"];
    arguments.extend(checkpoints.iter().map(String::as_str));
    host.run(&arguments).ok();
    assert_exact(&mut vm, "after the ring");
    assert_eq!(vm.status()["state"], "running");
    vm.stop();
    host.assert_pool_clean();
}

#[test]
fn a_new_vm_of_a_dead_ones_name_keeps_off_its_checkpoints_until_told() {
    let host = Host::new(512);
    let vm = host.boot_bare_metal(32, 1);
    host.json(&["checkpoint", &vm.name, "--every", "1ms", "--keep", "3"]);
    wait_for_more(&vm, 4);
    stop_ring(&host, &vm);
    let name = vm.name.clone();
    vm.kill();
    let left = names(&host);
    assert_eq!(left.len(), 3);
    let kernel = nvvmm_tests::required("NVVMM_BAREMETAL_GUEST");
    let kernel = kernel.to_str().unwrap();
    host.run(&[
        "run", "--name", &name, "--kernel", kernel, "--memory", "32M", "--cpus", "1", "--detach",
    ])
    .ok();
    let mut new = Vm::attach(&host, name.clone());
    let restore = format!("nvvmm restore {} --name {name}", left[2]);
    for arguments in [
        &["checkpoint", &name, "--every", "1ms", "--keep", "1"][..],
        &["rewind", &name],
        &["rewind", &name, "-n", "3"],
    ] {
        let refused = host.run(arguments).refused(4, "of an earlier VM");
        assert!(refused.stderr.contains(&restore), "{}", refused.stderr);
    }
    assert_eq!(names(&host), left);
    assert!(new.ask("fill 2 1").contains("ok"), "it runs on");
    // Told so, the first new checkpoint removes them all, however many are kept.
    host.json(&[
        "checkpoint",
        &name,
        "--every",
        "1h",
        "--keep",
        "8",
        "--replace",
    ]);
    wait_for_ring(&new, "a checkpoint", |ring| taken(ring) == 1);
    stop_ring(&host, &new);
    let own = names(&host);
    assert!(own.len() == 1 && !left.contains(&own[0]), "{own:?}");
    rewind(&host, &new, &[]);
    host.run(&["rewind", &name, "-n", "2"])
        .refused(3, "there is 1");
    new.stop();
    host.assert_pool_clean();
}
