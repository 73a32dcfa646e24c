//! The power fails at every flush and fence: the pool is as before or as after, and in order.

use super::contents::Snapshots;
use super::fixture::{Bench, Fixture, commit_third, must_be_in_order, snapshots_of, use_a_disk};
use crate::region::sim::{CrashPoint, Fate, Survivors, Unit};
use crate::{Holder, SnapshotId};

fn scattered(seed: u64) -> Survivors {
    Survivors::of_all(Fate::Scattered(Unit::Line, seed))
}

fn check_points(points: &[CrashPoint], old: &Snapshots, new: &Snapshots, what: &str) {
    let (mut seen_old, mut seen_new) = (0, 0);
    for (at, point) in points.iter().enumerate() {
        let random = (0..4).map(|seed| scattered(at as u64 * 4 + seed + 1));
        for survivors in [Survivors::NONE, Survivors::ALL].into_iter().chain(random) {
            let what = format!("{what}, point {at} of {}, {survivors:?}", points.len());
            let left =
                Bench::after(point, survivors).unwrap_or_else(|error| panic!("{what}: {error}"));
            must_be_in_order(&left.pool, &what);
            let found = snapshots_of(&left.pool);
            assert!(
                found == *old || found == *new,
                "{what}: neither old nor new: {:?}",
                found.keys()
            );
            seen_old += usize::from(found == *old);
            seen_new += usize::from(found == *new);
            // Closed in order: the next one finds it so without deriving anything.
            let left = left.closed_and_opened();
            must_be_in_order(&left.pool, &what);
        }
    }
    assert!(
        seen_old > 0 && seen_new > 0,
        "{what}: old seen {seen_old} times, new {seen_new}"
    );
}

/// Runs `act` on the fixture, with the power failing at every flush and fence on the way.
fn cut_everywhere(what: &str, act: impl FnOnce(&Bench, &Holder, SnapshotId, SnapshotId)) {
    let Fixture {
        bench,
        vm,
        first,
        second,
    } = Fixture::new();
    let old = snapshots_of(&bench.pool);
    bench.control.record();
    act(&bench, &vm, first, second);
    let points = bench.control.recorded();
    let new = snapshots_of(&bench.pool);
    assert_ne!(old, new);
    assert!(points.len() >= 5, "{what}: only {} points", points.len());
    check_points(&points, &old, &new, what);
}

#[test]
fn a_commit_is_whole_or_nothing_wherever_the_power_fails() {
    cut_everywhere("commit", |_, vm, _, second| commit_third(vm, second));
}

#[test]
fn a_snapshot_with_a_disk_is_whole_or_nothing_wherever_the_power_fails() {
    cut_everywhere("disk", |bench, vm, _, _| use_a_disk(bench, vm));
}

#[test]
fn a_removal_is_whole_or_nothing_wherever_the_power_fails() {
    cut_everywhere("remove", |bench, vm, first, _| {
        vm.unpin(first).unwrap();
        assert!(!bench.pool.remove("first").unwrap().deferred);
    });
}

#[test]
fn a_deferred_removal_is_whole_or_nothing_wherever_the_power_fails() {
    cut_everywhere("deferred remove", |bench, vm, first, _| {
        assert!(bench.pool.remove("first").unwrap().deferred);
        vm.unpin(first).unwrap();
    });
}

#[test]
fn consuming_is_whole_or_nothing_wherever_the_power_fails() {
    cut_everywhere("consume", |_, vm, _, second| {
        let consumed = vm.consume(second).unwrap();
        assert_eq!(
            consumed.rest,
            Some(second),
            "it shares frames with the first"
        );
    });
}

#[test]
fn an_adoption_is_whole_or_nothing_wherever_the_power_fails() {
    cut_everywhere("adopt", |bench, _, _, _| {
        assert!(bench.pool.adopt("second").unwrap());
    });
}

#[test]
fn two_commits_in_a_row_never_fall_back_two() {
    let Fixture {
        bench, vm, second, ..
    } = Fixture::new();
    commit_third(&vm, second);
    let middle = snapshots_of(&bench.pool);
    bench.control.record();
    bench.pool.remove("third").unwrap();
    bench.pool.remove("second").unwrap();
    let points = bench.control.recorded();
    let mut last = middle.clone();
    last.remove("third");
    let between = last.clone();
    last.remove("second");
    for (at, point) in points.iter().enumerate() {
        for survivors in [Survivors::NONE, Survivors::ALL, scattered(at as u64 + 99)] {
            let pool = Bench::after(point, survivors).unwrap().pool;
            must_be_in_order(&pool, &format!("point {at} {survivors:?}"));
            let found = snapshots_of(&pool);
            assert!(
                [&middle, &between, &last].contains(&&found),
                "point {at} {survivors:?}: {:?}",
                found.keys()
            );
        }
    }
}

#[test]
fn a_recovery_that_is_cut_off_is_done_again() {
    let Fixture {
        bench, vm, second, ..
    } = Fixture::new();
    let old = snapshots_of(&bench.pool);
    bench.control.record();
    commit_third(&vm, second);
    let points = bench.control.recorded();
    let new = snapshots_of(&bench.pool);
    for (at, point) in points.iter().enumerate().step_by(3) {
        let left = Bench::recorded_from(point, scattered(at as u64)).unwrap();
        let again = left.control.recorded();
        let found = snapshots_of(&left.pool);
        assert!(found == old || found == new);
        for (cut, point) in again.iter().enumerate() {
            let left = Bench::after(point, scattered(cut as u64 + 5)).unwrap();
            must_be_in_order(&left.pool, &format!("point {at}, cut {cut}"));
            assert_eq!(snapshots_of(&left.pool), found);
        }
    }
}
