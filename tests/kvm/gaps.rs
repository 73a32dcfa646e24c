//! A guest that walks through its memory tells its gaps, finds each write in its place after a
//! restore, and snapshots and `stats` name the longest access that was held.

use std::time::{Duration, Instant};

use nvvmm_tests::{Host, Vm};

/// Time in which each vCPU gets to walk on.
const PATIENCE: Duration = Duration::from_secs(60);

/// The numbers behind `name=` in an answer.
fn numbers(answer: &str, name: &str) -> Vec<u64> {
    let list = answer
        .split_whitespace()
        .find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
        .unwrap_or_else(|| panic!("{name}: {answer}"));
    list.split(',')
        .map(|number| number.parse().unwrap())
        .collect()
}

/// Stops the walk, and has the guest compare what it has written.
fn stopped_and_exact(vm: &mut Vm<'_>, frames: u64) {
    let off = vm.ask("pace off");
    assert!(off.contains("pace off steps="), "{off}");
    let answer = vm.ask("pace check");
    assert!(answer.contains("@ pace ok"), "{answer}");
    assert_eq!(numbers(&answer, "frames"), [frames]);
}

#[test]
fn a_walking_guest_is_exact_after_a_restore_and_tells_its_gaps() {
    let host = Host::new(256);
    let mut vm = host.boot_bare_metal(32, 2);
    // Any gap is above a limit of 0.
    let frames = numbers(&vm.ask("pace on 16 rand write 0"), "frames")[0];
    assert_eq!(frames, 16 * 256);
    let walked = |vm: &mut Vm<'_>| {
        let report = vm.ask("pace");
        let (steps, over) = (numbers(&report, "steps"), numbers(&report, "over")[0]);
        // A vCPU may not have run since the last report.
        let has_gap = numbers(&report, "largest").iter().any(|gap| *gap > 0);
        assert!(has_gap && over > 0, "{report}");
        steps
    };
    let until = Instant::now() + PATIENCE;
    while walked(&mut vm).iter().any(|steps| *steps < frames / 2) {
        assert!(Instant::now() < until, "a vCPU stands still");
    }
    let gaps = vm.ask("pace gaps");
    assert_eq!(gaps.matches('@').count(), 1 + 6, "{gaps}");
    vm.console().say("check");
    vm.expect("@ err pace is on");
    let report = host.json(&["snapshot", &vm.name, "walking"]);
    let before = walked(&mut vm);
    let until = Instant::now() + PATIENCE;
    let walk_on = |after: Vec<u64>| before.iter().zip(&after).all(|(a, b)| a < b);
    while !walk_on(walked(&mut vm)) {
        assert!(Instant::now() < until, "a vCPU stands still: {before:?}");
    }
    let held = |value: &serde_json::Value| value["held_max_us"].as_u64().unwrap();
    let stats = host.json(&["stats", &vm.name]);
    assert!(held(&stats) >= held(&report), "{report} {stats}");
    if stats["fault_times"]["count"].as_u64().unwrap() > 0 {
        assert!(held(&stats) > 0, "{stats}");
    }
    let mut copy = host.restore("walking", &[]);
    stopped_and_exact(&mut copy, frames);
    copy.stop();
    stopped_and_exact(&mut vm, frames);
    vm.stop();
    host.assert_pool_clean();
}
