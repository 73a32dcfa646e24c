//! A full pool refuses snapshots and holds the guest that needs space. No other VM is harmed.

use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use nvvmm_snapshot::{BlockNo, CHUNK_BLOCKS, FaultPoint, Holder, Pool};
use nvvmm_tests::{Engine, Host, Random, Vm, repetitions, required};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(120);
/// Long enough to see that a running vCPU runs.
const A_WHILE: Duration = Duration::from_millis(300);
/// Operations on a VM that runs out of space again and again.
const OPERATIONS: u32 = 60;

pub(crate) fn wait_until(vm: &Vm<'_>, what: &str, holds: impl Fn(&Value) -> bool) {
    let until = Instant::now() + PATIENCE;
    while !holds(&vm.status()) {
        assert!(Instant::now() < until, "never {what}: {}", vm.status());
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub(crate) fn wait_for_state(vm: &Vm<'_>, state: &str) {
    wait_until(vm, state, |status| status["state"] == state);
}

/// Processor time that the vCPU threads have used, in clock ticks.
fn vcpu_ticks(vm: &Vm<'_>) -> u64 {
    let tasks = fs::read_dir(format!("/proc/{}/task", vm.pid)).unwrap();
    let stats = tasks
        .flatten()
        // Other threads of the process come and go.
        .filter_map(|task| fs::read_to_string(task.path().join("stat")).ok());
    stats
        .filter(|stat| stat.contains("(nvvmm-vcpu"))
        .map(|stat| {
            let fields: Vec<&str> = stat
                .rsplit_once(')')
                .unwrap()
                .1
                .split_whitespace()
                .collect();
            fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
        })
        .sum()
}

/// Fails unless the vCPUs stand still soon: the last one is held a moment after the first.
pub(crate) fn assert_stands_still(vm: &Vm<'_>) {
    let until = Instant::now() + PATIENCE;
    loop {
        let before = vcpu_ticks(vm);
        std::thread::sleep(A_WHILE);
        if vcpu_ticks(vm) == before {
            return;
        }
        assert!(Instant::now() < until, "a vCPU runs");
    }
}

/// State that a refused operation must not change. The VM's leases and blocks are part of it.
fn footprint(host: &Host, vm: &Vm<'_>) -> (Value, Value, Value) {
    let status = vm.status();
    (
        host.pool_status(),
        status["ram"].clone(),
        status["snapshots_taken"].clone(),
    )
}

/// A VM of two vCPUs that rewrites its memory and has run out of space.
fn starved(host: &Host) -> Vm<'_> {
    let mut vm = host.boot_bare_metal(48, 2);
    vm.ask("fill 24 1");
    vm.ask("churn on 5 rand");
    let until = Instant::now() + PATIENCE;
    for number in 0.. {
        if vm.status()["state"] == "no-space" {
            break;
        }
        assert!(
            Instant::now() < until,
            "the pool is never full: {}",
            vm.status()
        );
        host.run(&["snapshot", &vm.name, &format!("s{number}")]);
        std::thread::sleep(Duration::from_millis(50));
    }
    vm
}

/// Removes all snapshots, and waits until the VM reports that it has space.
fn make_space(host: &Host, vm: &Vm<'_>) {
    for entry in host.json(&["snapshots"]).as_array().unwrap() {
        host.run(&["rm", entry["snapshot"].as_str().unwrap()]).ok();
    }
    wait_until(vm, "relieved", |status| status["notice"].is_null());
}

pub(crate) fn assert_exact(vm: &mut Vm<'_>) {
    vm.ask("churn off");
    assert!(vm.ask("check").contains("check ok"));
}

/// True if guests of this pool wait for space. Guests with private memory never do.
fn guests_wait(host: &Host) -> bool {
    let waits = host.engine() == Engine::Redirect;
    if !waits {
        println!("SKIPPED: a guest with private memory never waits for space");
    }
    waits
}

#[test]
fn a_guest_that_finds_no_block_stands_still_and_goes_on_by_itself() {
    let host = Host::new(96);
    if host.engine() == Engine::Private {
        return a_guest_with_private_memory_never_waits(&host, || _ = host.run(&["rm", "a"]).ok());
    }
    let mut vm = starved(&host);
    assert!(
        vm.status()["notice"]
            .as_str()
            .unwrap()
            .contains("pool is full")
    );
    assert_stands_still(&vm);
    make_space(&host, &vm);
    assert_exact(&mut vm);
    assert_eq!(vm.status()["state"], "running");
    host.assert_pool_clean();
}

#[test]
fn a_pause_of_a_vm_without_space_is_at_once_and_lasts() {
    let host = Host::new(96);
    if !guests_wait(&host) {
        return;
    }
    let mut vm = starved(&host);
    vm.pause();
    assert_eq!(vm.status()["state"], "paused");
    vm.pause();
    host.run(&["resume", &vm.name]).refused(5, "stays paused");
    make_space(&host, &vm);
    assert_eq!(vm.status()["state"], "paused");
    assert_stands_still(&vm);
    vm.resume();
    assert_exact(&mut vm);
    host.assert_pool_clean();
}

#[test]
fn what_is_refused_without_space_changes_nothing() {
    let host = Host::new(96);
    if !guests_wait(&host) {
        return;
    }
    let vm = starved(&host);
    assert_stands_still(&vm);
    let before = footprint(&host, &vm);
    host.run(&["snapshot", &vm.name, "late"])
        .refused(5, "pool is full");
    host.run(&["snapshot", &vm.name, "last", "--stop"])
        .refused(5, "pool is full");
    host.run(&["resume", &vm.name])
        .refused(5, "runs on by itself");
    assert_eq!(footprint(&host, &vm), before);
    assert_eq!(vm.status()["state"], "no-space");
    vm.stop();
    host.assert_pool_clean();
    assert!(host.pool_status()["holders"].as_array().unwrap().is_empty());
}

#[test]
fn a_snapshot_that_finds_the_pool_full_changes_nothing() {
    let host = Host::new(96);
    let mut idle = host.boot_bare_metal(16, 1);
    idle.ask("fill 8 3");
    idle.snapshot("idle");
    if host.engine() == Engine::Private {
        return a_refused_copy_changes_nothing(&host, idle);
    }
    let mut greedy = host.boot_bare_metal(512, 1);
    greedy.console().say("fill all 1");
    wait_for_state(&greedy, "no-space");
    // Pauses the VM, as an idle guest writes to its stack. The free blocks in the VM's leased
    // chunks are enough for the metadata of a few snapshots.
    idle.pause();
    for number in 0.. {
        let before = footprint(&host, &idle);
        let outcome = host.run(&["snapshot", &idle.name, &format!("more{number}")]);
        if outcome.code != 0 {
            outcome.refused(5, "full");
            assert_eq!(footprint(&host, &idle), before);
            break;
        }
    }
    assert_eq!(idle.status()["state"], "paused");
    idle.resume();
    greedy.stop();
    assert!(idle.ask("check").contains("check ok"));
    idle.snapshot("more");
    host.assert_pool_clean();
}

/// Allocates every free block of the pool.
fn take_the_rest(ballast: &Holder) -> Vec<BlockNo> {
    let mut taken = Vec::new();
    for count in [64, 1] {
        while let Ok(blocks) = ballast.take_blocks(count) {
            taken.extend(blocks);
        }
    }
    taken
}

/// A snapshot is refused before its VM is paused, or it is taken, for any amount of free space.
#[test]
fn a_snapshot_is_refused_before_the_pause_or_taken() {
    let host = Host::new(96);
    let mut vm = host.boot_bare_metal(48, 1);
    vm.ask("fill 24 1");
    vm.snapshot("base");
    let pool = Pool::open(host.pool()).unwrap();
    let ballast = pool.hold("ballast").unwrap();
    let mut taken = take_the_rest(&ballast);
    let mut refused = 0;
    // The VM's leased blocks are enough for a few snapshots. After that it needs the blocks that
    // are given back here. The nightly run gives one block back each time.
    let given_at_once = 17 - repetitions(16) as usize;
    for number in 0.. {
        let outcome = host.run(&["snapshot", &vm.name, &format!("s{number}")]);
        if outcome.code == 0 && refused > 0 {
            break;
        }
        if outcome.code != 0 {
            let refusal = outcome.refused(5, "pool is full").stderr;
            // The guest writes to its stack and may itself wait for a block that the snapshot
            // reserved. The snapshot then releases the block, so that the guest goes on and can be
            // paused.
            let before_the_pause = ["may be needed", "has written", "the guest waits"];
            assert!(
                before_the_pause.iter().any(|words| refusal.contains(words)),
                "not before the pause: {refusal}"
            );
            let snapshots = vm.status()["snapshots_taken"].as_array().unwrap().len();
            assert_eq!(snapshots, number - refused + 1);
            refused += 1;
            assert!(
                taken.len() > given_at_once,
                "a snapshot needs less than the pool has"
            );
            ballast.free_blocks(&taken.split_off(taken.len() - given_at_once));
        }
    }
    drop(ballast);
    assert!(vm.ask("check").contains("check ok"));
    host.assert_pool_clean();
}

/// Blocks that the pool's holders have leased and do not use.
fn unused_blocks(host: &Host) -> u64 {
    let status = host.pool_status();
    let holders = status["holders"].as_array().unwrap().iter();
    let used: u64 = holders
        .map(|holder| holder["used_bytes"].as_u64().unwrap())
        .sum();
    (status["leased_bytes"].as_u64().unwrap() - used) / 4096
}

/// Has the guest write until its VM has too few unused leased blocks for one more write.
fn use_up_leases(host: &Host, vm: &mut Vm<'_>, ballast: &Holder) {
    let copied_at_once = if host.medium().maps_whole_chunks() {
        512
    } else {
        16
    };
    // A VM returns the chunks of a full pool beyond two unused ones within about a second. This
    // waits for that, so that the guest need not write so often.
    let until = Instant::now() + PATIENCE;
    loop {
        take_the_rest(ballast);
        if unused_blocks(host) < 3 * u64::from(CHUNK_BLOCKS) {
            break;
        }
        assert!(
            Instant::now() < until,
            "holds {} unused",
            unused_blocks(host)
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    for turn in 1.. {
        take_the_rest(ballast);
        let writes = unused_blocks(host) / copied_at_once;
        if writes == 0 {
            return;
        }
        // Writes elsewhere than at the end of the last copy of a chunk: a copy there would be twice
        // as large.
        let answer = vm.ask(&format!("write {} {} 512", turn * 32, writes.min(64)));
        assert!(answer.contains("write ok"), "{answer}");
    }
}

/// Holds a process at a fault point while the file exists. The process goes on even if the test
/// fails.
struct Gate(PathBuf);

impl Gate {
    fn close(path: PathBuf) -> Self {
        fs::write(&path, "").unwrap();
        Self(path)
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        fs::remove_file(&self.0).unwrap();
    }
}

/// A snapshot that has begun does not fail for lack of space. Two things are tried: writes of the
/// guest between the reservation and the pause, and another holder that takes all free blocks.
#[test]
fn what_a_snapshot_needs_is_reserved_before_the_pause() {
    let directory = tempfile::tempdir().unwrap();
    let gate_path = directory.path().join("gate");
    let at = FaultPoint::SnapshotReserved.name();
    let wait = format!("{at}:{}", gate_path.display());
    let host = Host::new(1024).with_fault("NVVMM_FAULT_WAIT", wait);
    let mut vm = host.boot_bare_metal(160, 1);
    vm.ask("fill 140 1");
    vm.snapshot("base");
    let gate = Gate::close(gate_path);
    let pool = Pool::open(host.pool()).unwrap();
    let ballast = pool.hold("ballast").unwrap();
    let vm_name = vm.name.clone();
    let outcome = std::thread::scope(|scope| {
        // Dropped inside the scope, so that a failure lets the snapshot end. The scope waits for
        // it.
        let gate = gate;
        let taking = scope.spawn(|| host.run(&["snapshot", &vm_name, "late"]));
        let until = Instant::now() + PATIENCE;
        while !host.is_logged(&format!("NVVMM_FAULT_WAIT: waits at {at}\n")) {
            assert!(Instant::now() < until, "never at {at}");
            std::thread::sleep(Duration::from_millis(5));
        }
        // Writes a frame in each of 64 chunks. With private memory, all of them are copied in the
        // pause.
        assert!(vm.ask("write 0 64 512").contains("write ok"));
        take_the_rest(&ballast);
        if host.engine() == Engine::Redirect {
            use_up_leases(&host, &mut vm, &ballast);
        }
        drop(gate);
        taking.join().unwrap()
    });
    outcome.ok();
    drop(ballast);
    let digest = vm.ask("digest all");
    assert!(vm.ask("check").contains("check ok"));
    let mut copy = host.restore("late", &[]);
    assert_eq!(copy.ask("digest all"), digest);
    host.assert_pool_clean();
}

/// Operations at any time while space comes and goes are done or refused, and the guest's memory
/// stays exact.
#[test]
fn operations_race_with_a_pool_that_fills_and_empties() {
    let mut random = Random::seeded("full");
    let host = Host::new(96);
    let mut vm = host.boot_bare_metal(48, 2);
    vm.ask("fill 24 1");
    vm.ask("churn on 5 rand");
    let mut names = Vec::new();
    for step in 0..repetitions(OPERATIONS) {
        random.pause(30);
        let (outcome, allowed) = match random.below(6) {
            0 => (host.run(&["pause", &vm.name]), &[0][..]),
            1 => (host.run(&["resume", &vm.name]), &[0, 5][..]),
            2 | 3 => {
                let name = format!("s{step}");
                let outcome = host.run(&["snapshot", &vm.name, &name]);
                if outcome.code == 0 {
                    names.push(name);
                }
                (outcome, &[0, 5][..])
            }
            _ if names.is_empty() => continue,
            _ => {
                let at = random.below(names.len() as u64) as usize;
                (host.run(&["rm", &names.swap_remove(at)]), &[0][..])
            }
        };
        assert!(
            allowed.contains(&outcome.code),
            "step {step}: {} {}",
            outcome.code,
            outcome.stderr
        );
    }
    make_space(&host, &vm);
    vm.resume();
    assert_exact(&mut vm);
    vm.snapshot("end");
    let mut copy = host.restore("end", &[]);
    assert!(copy.ask("check").contains("check ok"));
    host.assert_pool_clean();
}

#[test]
fn a_pool_without_room_for_the_guest_is_no_crash() {
    let host = Host::new(8);
    let kernel = required("NVVMM_BAREMETAL_GUEST");
    let kernel = kernel.to_str().unwrap().to_owned();
    let outcome = host.run(&[
        "run", "--kernel", &kernel, "--memory", "64M", "--cpus", "1", "--name", "big", "--detach",
    ]);
    if outcome.code == 0 {
        host.run(&["stop", "big", "--force"]);
    } else {
        outcome.refused(5, "full");
    }
    host.assert_pool_clean();
}

/// With the private engine, a snapshot is what finds a full pool. It is refused and changes nothing
/// until `make_space`.
pub(crate) fn a_guest_with_private_memory_never_waits(host: &Host, make_space: impl FnOnce()) {
    let mut vm = host.boot_bare_metal(48, 1);
    vm.ask("fill 24 1");
    vm.snapshot("a");
    // Rewrites the memory until the pool cannot hold another copy.
    for number in 0.. {
        assert!(vm.ask("write 0 6000").contains("write ok"));
        if host.pool_status()["free_bytes"].as_u64().unwrap() < 6000 * 4096 {
            break;
        }
        vm.snapshot(&format!("b{number}"));
    }
    assert!(vm.status()["notice"].is_null(), "{}", vm.status());
    let before = host.pool_status();
    host.run(&["snapshot", &vm.name, "c"]).refused(5, "full");
    assert_eq!(host.pool_status()["free_bytes"], before["free_bytes"]);
    assert!(vm.ask("check").contains("check ok"));
    host.assert_pool_clean();
    make_space();
    let digest = vm.ask("digest all");
    vm.snapshot("c");
    vm.stop();
    let mut copy = host.restore("c", &[]);
    assert_eq!(copy.ask("digest all"), digest);
    copy.stop();
    host.assert_pool_clean();
}

/// The same for a VM whose snapshot has to copy. Only the count of frames that were copied in vain
/// changes.
fn a_refused_copy_changes_nothing(host: &Host, mut idle: Vm<'_>) {
    let pool = Pool::open(host.pool()).unwrap();
    let ballast = pool.hold("ballast").unwrap();
    take_the_rest(&ballast);
    idle.ask("write 0 1000");
    idle.pause();
    let without_copies = || {
        let (pool, mut ram, taken) = footprint(host, &idle);
        // The block behind a frame that was written since is of no use, and is not kept.
        for key in ["copied_bytes", "mapped_bytes"] {
            ram[key].take();
        }
        (pool, ram, taken)
    };
    let before = without_copies();
    host.run(&["snapshot", &idle.name, "more"])
        .refused(5, "full");
    assert_eq!(without_copies(), before);
    assert_eq!(idle.status()["state"], "paused");
    idle.resume();
    drop(ballast);
    assert!(idle.ask("check").contains("check ok"));
    idle.snapshot("more");
    host.assert_pool_clean();
}
