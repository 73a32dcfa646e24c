//! kill -9 at any moment loses no committed snapshot and leaks no block.

use std::{
    collections::BTreeSet,
    process::{Child, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

use nvvmm_test_profile::sized;
use nvvmm_tests::{Host, Medium, Random, SnapshotMemory, Vm, is_nested};

/// Number of workers that kill at the same time, and MiB of their pool. On a device each check
/// reads the whole pool, so the pool is smaller.
fn workers_and_pool_mib() -> (u32, u64) {
    if Medium::chosen().is_device() {
        (2, 384)
    } else {
        (4, 1024)
    }
}

/// Snapshots that a worker keeps.
const KEPT: usize = 3;

/// Processes that are killed: many where kills are cheap. On other media the medium is under test,
/// and a few are enough.
fn kills() -> u32 {
    let medium = Medium::chosen();
    match (is_nested(), medium.name()) {
        // Each check after a kill reads the whole device.
        (true, "devdax") => 3,
        (true, _) => sized(3, 10),
        (false, "tmpfs") => sized(100, 1000),
        (false, _) => sized(10, 40),
    }
}

fn snapshot_names(host: &Host) -> BTreeSet<String> {
    let listed = host.json(&["snapshots"]);
    listed
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry["snapshot"].as_str().unwrap().to_owned())
        .collect()
}

/// Starts a command that will be killed soon.
fn start(host: &Host, arguments: &[&str]) -> Child {
    host.command(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("nvvmm starts")
}

/// A worker that makes, uses and removes its own snapshots, and kills the processes that do so.
struct Worker<'h> {
    host: &'h Host,
    random: Random,
    number: u32,
    /// Names of snapshots that must be there.
    committed: BTreeSet<String>,
    names: u32,
    killed: &'h AtomicU32,
}

impl<'h> Worker<'h> {
    fn new(host: &'h Host, random: Random, number: u32, killed: &'h AtomicU32) -> Self {
        Self {
            host,
            random,
            number,
            committed: BTreeSet::new(),
            names: 0,
            killed,
        }
    }

    fn work(mut self, kills: u32) {
        let mut source = self.host.restore("seed", &[]);
        while self.killed.load(Ordering::Relaxed) < kills {
            source = self.round(source);
            self.host.assert_pool_clean();
            let now = snapshot_names(self.host);
            assert!(
                now.is_superset(&self.committed) && now.contains("seed"),
                "of {:?} there is only {now:?}",
                self.committed
            );
            if self.committed.len() > KEPT {
                if let Some(name) = self.committed.pop_first() {
                    self.host.run(&["rm", &name]).ok();
                }
            } else if self.random.below(6) == 0 {
                let name = self.any_of_mine();
                SnapshotMemory::read(self.host.pool(), &name).assert_one_instant(&name);
            }
        }
        check(source, "the last source");
    }

    fn round(&mut self, source: Vm<'h>) -> Vm<'h> {
        match self.random.below(7) {
            0 | 1 => return self.kill_a_vm_that_is_snapshotted(source),
            2 => self.kill_a_snapshot_command(&source),
            3 => self.kill_a_clone(),
            4 => self.kill_a_restore(&[]),
            5 => self.kill_a_restore(&["--once"]),
            _ => self.kill_a_removal(),
        }
        source
    }

    /// A snapshot of this worker, or the first of all snapshots.
    fn any_of_mine(&mut self) -> String {
        let at = self.random.below(self.committed.len() as u64 + 1) as usize;
        self.committed
            .iter()
            .nth(at)
            .map_or("seed", String::as_str)
            .to_owned()
    }

    fn new_name(&mut self) -> String {
        self.names += 1;
        format!("w{}-{}", self.number, self.names)
    }

    /// Records a snapshot whose maker died while it made it. Such a snapshot may be there or not.
    fn settle(&mut self, name: String) {
        if snapshot_names(self.host).contains(&name) {
            self.committed.insert(name);
        }
    }

    fn kill(&mut self, mut child: Child, within_ms: u64) {
        self.random.pause(within_ms);
        if child
            .try_wait()
            .expect("a child can be asked for")
            .is_none()
        {
            self.killed.fetch_add(1, Ordering::Relaxed);
        }
        child.kill().expect("a child can be killed");
        child.wait().expect("a child ends");
    }

    fn kill_a_vm_that_is_snapshotted(&mut self, vm: Vm<'h>) -> Vm<'h> {
        let name = self.new_name();
        let mut command = start(self.host, &["snapshot", &vm.name, &name]);
        self.random.pause(60);
        vm.kill();
        self.killed.fetch_add(1, Ordering::Relaxed);
        let answered = command.wait().expect("the command ends").success();
        self.settle(name.clone());
        assert!(
            !answered || self.committed.contains(&name),
            "{name} was reported and is gone"
        );
        let from = self.any_of_mine();
        self.host.restore(&from, &[])
    }

    fn kill_a_snapshot_command(&mut self, vm: &Vm<'h>) {
        let name = self.new_name();
        let command = start(self.host, &["snapshot", &vm.name, &name]);
        self.kill(command, 40);
        // A VM does one operation at a time. When it answers this, it has taken the snapshot, or it
        // never got the command.
        vm.pause();
        vm.resume();
        self.settle(name);
    }

    fn kill_a_clone(&mut self) {
        let from = self.any_of_mine();
        let clone = self.host.restore(&from, &[]);
        self.random.pause(60);
        clone.kill();
        self.killed.fetch_add(1, Ordering::Relaxed);
    }

    /// Kills a restore. Without --detach the command itself is the VM process.
    fn kill_a_restore(&mut self, options: &[&str]) {
        let from = self.any_of_mine();
        if !options.is_empty() {
            if from == "seed" {
                return;
            }
            self.committed.remove(&from);
        }
        let vm = self.host.next_name();
        let mut arguments = vec!["restore", &from, "--name", &vm];
        arguments.extend_from_slice(options);
        let command = start(self.host, &arguments);
        self.kill(command, 250);
        if from != "seed" {
            self.settle(from);
        }
    }

    fn kill_a_removal(&mut self) {
        let name = self.any_of_mine();
        if self.committed.remove(&name) {
            let command = start(self.host, &["rm", &name]);
            self.kill(command, 12);
            self.settle(name);
        }
    }
}

#[test]
fn killed_processes_leave_a_clean_pool_and_every_committed_snapshot() {
    let mut random = Random::seeded("kill");
    let (workers, pool_mib) = workers_and_pool_mib();
    let host = Host::new(pool_mib);
    let mut seed = host.boot_bare_metal(32, 2);
    seed.ask("fill 20 1");
    seed.ask("churn on 5 rand");
    seed.snapshot("seed");
    seed.kill();
    let killed = AtomicU32::new(0);
    std::thread::scope(|scope| {
        for number in 0..workers {
            let worker = Worker::new(&host, random.another(), number, &killed);
            scope.spawn(|| worker.work(kills()));
        }
    });
    println!("{} processes were killed", killed.load(Ordering::Relaxed));
    let left = snapshot_names(&host);
    for name in &left {
        SnapshotMemory::read(host.pool(), name).assert_one_instant(name);
        check(host.restore(name, &[]), name);
    }
    for name in &left {
        host.run(&["rm", name]).ok();
    }
    host.assert_pool_clean();
    let status = host.pool_status();
    assert_eq!(status["snapshot_bytes"], 0, "{status}");
    assert_eq!(
        status["leased_bytes"], 0,
        "a dead holder's blocks are free again: {status}"
    );
    // Each chunk that was ever used has a block of counts.
    let tables = pool_mib / 2 * 4096;
    assert!(
        host.medium_bytes() < tables + (2 << 20) + 2 * host.medium().granule_bytes(),
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
    host.run(&run).ok();
    host.run(&["stop", &name]).ok();
}
