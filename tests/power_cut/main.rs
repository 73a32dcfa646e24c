//! Power of the KVM host is cut while a VM runs, and while snapshots are taken and removed.
//!
//! When the power is back, every snapshot that `nvvmm snapshot --durability power` reported as
//! taken is there with its memory. One cut hits all media that the test is given.
//!
//! This runs once in each of two boots of the nested harness. The first boot ends when QEMU is
//! killed. scripts/test.sh starts it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs,
    io::Write,
    path::PathBuf,
    sync::mpsc,
    time::{Duration, Instant},
};

use nvvmm_snapshot::Pool;
use nvvmm_test_profile::sized;
use nvvmm_tests::{Host, Medium, Random, SnapshotMemory, flushes, required, witness};

/// Longest wait for the harness to see that the power is to be cut.
const PATIENCE: Duration = Duration::from_secs(240);
/// Longest time until the power is cut, while snapshots are taken and removed. Under emulation this
/// is enough for some dozen.
const LONGEST_WORK_MS: u64 = 10_000;

/// Path of the log, which is outside of the nested host and survives the cut. It has a line for
/// each snapshot that was taken, and for each that is about to be removed.
fn log(host: &Host) -> PathBuf {
    required("NVVMM_RESULTS").join(format!("power-cut-{}.log", host.medium().name()))
}

/// Path of the log of a Linux guest that writes to a disk: what it was told to be flushed.
fn flushes_log(host: &Host) -> PathBuf {
    required("NVVMM_RESULTS").join(format!("power-cut-{}.flushes", host.medium().name()))
}

/// True if a Linux guest writes to a disk, too. In the gate there is no time for its boot.
fn has_linux() -> bool {
    sized(false, true)
}

/// The number in a variable of scripts/test.sh.
fn number(variable: &str) -> i32 {
    let text = required(variable);
    text.to_str().unwrap().parse().unwrap()
}

#[test]
fn what_was_said_to_be_taken_outlives_a_power_cut() {
    let media = Medium::all();
    let hosts: Vec<Host> = (media.iter())
        .map(|medium| Host::lasting_on(medium, "power-cut"))
        .collect();
    let boot = number("NVVMM_NESTED_BOOT");
    match boot - number("NVVMM_POWER_CUT_BOOT") {
        0 => work_until_the_cut(&hosts),
        1 => hosts.iter().for_each(after_the_cut),
        _ => panic!("nothing is to be done in boot {boot}"),
    }
}

fn work_until_the_cut(hosts: &[Host]) {
    // Each medium has snapshots to lose when the power goes.
    let (ready, all_ready) = mpsc::channel();
    std::thread::scope(|scope| {
        for host in hosts {
            let ready = ready.clone();
            scope.spawn(move || work(host, ready));
        }
        hosts.iter().for_each(|_| all_ready.recv().unwrap());
        let mut writers: Vec<_> = (hosts.iter().filter(|_| has_linux()))
            .map(start_flushes)
            .collect();
        // From here on the power may go at any moment: in a commit, in a removal, in the guest's
        // writes.
        Random::seeded("power cut").pause(LONGEST_WORK_MS);
        fs::write(required("NVVMM_NESTED_POWER_SWITCH"), "").unwrap();
        writers.iter_mut().for_each(|writer| _ = writer.wait());
    });
}

/// Boots a Linux guest that writes to a disk, and waits for its first flush.
fn start_flushes(host: &Host) -> std::process::Child {
    let pool = Pool::open(host.pool()).unwrap();
    pool.create_disk("flushed", flushes::DISK_BYTES).unwrap();
    let vm = witness::boot_with_options(host, 96, 1, &["--disk", "flushed"]);
    let log = fs::File::create(flushes_log(host)).unwrap();
    let writer = flushes::start(host, &vm, 1, log);
    let until = Instant::now() + PATIENCE;
    while fs::metadata(flushes_log(host)).unwrap().len() == 0 {
        assert!(Instant::now() < until, "the guest does not write");
        std::thread::sleep(Duration::from_millis(50));
    }
    // The VM is to run until the cut.
    std::mem::forget(vm);
    writer
}

/// Takes and removes snapshots until the power is cut. Sends a message when the first ones are
/// there.
fn work(host: &Host, ready: mpsc::Sender<()>) {
    host.run(&["pool", "create", host.pool_str(), "--size", "384M"])
        .ok();
    let mut vm = host.boot_bare_metal(32, 2);
    vm.ask("fill 16 4");
    vm.ask("churn on 9 rand");
    let mut log = fs::File::create(log(host)).unwrap();
    let snapshot = |log: &mut fs::File, name: &str| {
        host.run(&["snapshot", &vm.name, name, "--durability", "power"])
            .ok();
        writeln!(log, "taken {name}").unwrap();
    };
    for number in 0..3 {
        snapshot(&mut log, &format!("before{number}"));
    }
    ready.send(()).unwrap();
    let until = Instant::now() + PATIENCE;
    for number in 0.. {
        assert!(Instant::now() < until, "the power was not cut");
        let name = format!("until{number}");
        snapshot(&mut log, &name);
        if number % 4 != 0 {
            writeln!(log, "removed {name}").unwrap();
            host.run(&["rm", &name]).ok();
        }
    }
}

/// Names of the snapshots that must be there, oldest first.
fn kept(host: &Host) -> Vec<String> {
    let log = fs::read_to_string(log(host)).unwrap();
    let mut kept: Vec<String> = Vec::new();
    // The last line may be incomplete.
    for line in log
        .split_inclusive('\n')
        .filter_map(|line| line.strip_suffix('\n'))
    {
        match line.split_once(' ') {
            Some(("taken", name)) => kept.push(name.to_owned()),
            Some(("removed", name)) => kept.retain(|taken| taken != name),
            _ => panic!("{line:?} in {log}"),
        }
    }
    kept
}

fn after_the_cut(host: &Host) {
    host.assert_pool_clean();
    let status = host.pool_status();
    assert!(status["holders"].as_array().unwrap().is_empty(), "{status}");
    assert_eq!(status["leased_bytes"], 0, "{status}");
    if has_linux() {
        let log = fs::read_to_string(flushes_log(host)).unwrap();
        let last = flushes::last_reported(&log).unwrap();
        let pool = Pool::open(host.pool()).unwrap();
        flushes::assert_there(&pool, "flushed", 1, last);
        println!("{}: {last} flushes, none is lost", host.medium().name());
    }
    let names = kept(host);
    assert!(names.len() >= 3, "{names:?}");
    let listed = host.json(&["snapshots"]);
    for name in &names {
        assert!(
            listed
                .as_array()
                .unwrap()
                .iter()
                .any(|snapshot| snapshot["snapshot"] == *name),
            "{name} is lost: {listed}"
        );
        let frames = SnapshotMemory::read(host.pool(), name).assert_one_instant(name);
        assert!(frames > 0);
    }
    println!(
        "{}: {} snapshots were taken before the cut, and are there",
        host.medium().name(),
        names.len()
    );
    let mut vm = host.restore(names.last().unwrap(), &[]);
    let answer = vm.ask("check");
    assert!(answer.contains("check ok"), "{answer}");
    vm.snapshot("again");
    vm.stop();
    host.assert_pool_clean();
}
