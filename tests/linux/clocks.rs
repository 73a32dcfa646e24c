//! Clocks of a Linux guest across restores and rewinds, when the host's time of day jumps.

use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nvvmm_tests::agent::output;
use nvvmm_tests::host_clock::HostClock;
use nvvmm_tests::{Host, Vm, witness::boot_without_witness};

/// Longest wait for an agent in an emulated host.
const PATIENCE: Duration = Duration::from_secs(120);
const HOUR: i64 = 3600;
/// Longest time that a look at both clocks takes, in seconds.
const LOOK: u64 = 20;
/// Much more than a guest runs here between two looks, and much less than an hour, in seconds.
const SHORT: f64 = 900.0;

fn number(host: &Host, vm: &Vm<'_>, script: &str) -> f64 {
    let text = output(host, vm, script);
    let number = text.trim().parse();
    number.unwrap_or_else(|_| panic!("{script}: {text}"))
}

/// Seconds that the guest has run, by its monotonic clock.
fn uptime(host: &Host, vm: &Vm<'_>) -> f64 {
    number(host, vm, "cut -d' ' -f1 /proc/uptime")
}

/// The guest's time of day is the host's, within the time of a look.
fn assert_time_of_host(host: &Host, vm: &Vm<'_>, what: &str) {
    let until = Instant::now() + PATIENCE;
    while vm.status()["restore"]["clock"] != "set" {
        assert!(Instant::now() < until, "{what}: {}", vm.status());
        thread::sleep(Duration::from_millis(200));
    }
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let before = now().as_secs();
    let guest = number(host, vm, "date +%s") as u64;
    let after = now().as_secs();
    assert!(after - before <= LOOK, "{what}: the look took too long");
    // The agent has set it to the second that it was told, some time after it was told.
    let right = before.saturating_sub(LOOK)..=after;
    assert!(
        right.contains(&guest),
        "{what}: {guest} is not in {right:?}"
    );
}

#[test]
fn an_hour_that_passed_and_a_host_clock_that_was_set_back_are_no_jump_of_monotonic_time() {
    let Some(clock) = HostClock::of_emulated_host() else {
        println!("the host's clock is not this test's: nothing is tested");
        return;
    };
    let host = Host::new(768);
    let vm = boot_without_witness(&host, 160);
    let first = uptime(&host, &vm);
    let look = |vm: &Vm<'_>, what: &str| {
        let now = uptime(&host, vm);
        assert!(now >= first, "{what}: {now} s after {first} s");
        assert!(now - first < SHORT, "{what}: {now} s after {first} s");
    };
    vm.snapshot("base");
    for (off, what) in [
        (0, "at once"),
        (HOUR, "an hour later"),
        (-2 * HOUR, "the host's clock was set back"),
    ] {
        clock.put_off_by(off);
        let copy = host.restore("base", &[]);
        assert_time_of_host(&host, &copy, what);
        look(&copy, what);
        copy.stop();
        host.run(&["rewind", &vm.name, "--to", "base"]).ok();
        assert_time_of_host(&host, &vm, what);
        look(&vm, what);
    }
    // A guest that goes on without a restore is told nothing, and its clocks go on.
    clock.put_off_by(HOUR);
    vm.pause();
    vm.resume();
    look(&vm, "after a pause");
    vm.stop();
    drop(clock);
    host.assert_pool_clean();
}
