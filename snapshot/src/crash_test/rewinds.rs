//! Two disks go back to a snapshot, with the power failing at every flush and fence, or the process
//! killed at every store: both are as before, or both as at the snapshot.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::disks::{Between, DISK_BYTES, Disks, Expected, Request, seen};
use super::fixture::{Bench, Fixture, must_be_in_order};
use super::silence_kills;
use crate::region::sim::{Fate, Survivors, Unit};
use crate::{DiskHead, Holder, NewMap, NewSnapshot, SnapshotId, SnapshotKind};

const NAMES: [&str; 2] = ["data", "logs"];
/// Writes before the snapshot, and after it: whole frames, sectors, and what is given back.
const EARLIER: [Request; 3] = [
    Request::Frames { first: 0, count: 3 },
    Request::Frames { first: 4, count: 1 },
    Request::Flush,
];
const LATER: [Request; 5] = [
    Request::Frames { first: 1, count: 1 },
    Request::Sector {
        frame: 4,
        sector: 1,
    },
    Request::Discard { first: 2, count: 1 },
    Request::Frames { first: 6, count: 2 },
    Request::Flush,
];

/// Two disks that were written, and a snapshot of them from before the last writes.
struct Written {
    bench: Bench,
    heads: Vec<Arc<DiskHead>>,
    snapshot: SnapshotId,
    vm: Holder,
    /// As they are, and as they were at the snapshot.
    now: Disks,
    then: Disks,
}

impl Written {
    fn new() -> Written {
        let Fixture { bench, vm, .. } = Fixture::new();
        let attach = |name: &&str| {
            bench.pool.create_disk(name, DISK_BYTES).unwrap();
            vm.attach_disk(name).unwrap()
        };
        let heads: Vec<_> = NAMES.iter().map(attach).collect();
        make(&heads, &EARLIER, 1);
        let then = contents(&heads);
        let new = NewSnapshot {
            kind: SnapshotKind::Vm,
            name: "then",
            parent: None,
            base: None,
            maps: vec![NewMap::memory(2 << 20, &[])],
            state: b"state",
            frames_new: 0,
        };
        let cuts = heads.iter().map(|head| head.cut().unwrap()).collect();
        let reservation = vm.reserve(4).unwrap();
        let taken = vm.commit_with_disks(new, cuts, &[], reservation).unwrap();
        make(&heads, &LATER, 10);
        let now = contents(&heads);
        assert_ne!(now, then);
        Written {
            bench,
            heads,
            snapshot: taken.id,
            vm,
            now,
            then,
        }
    }

    /// The number of the medium's next store.
    fn stores(&self) -> u64 {
        self.bench.control.record()
    }

    fn go_back(&self) {
        let named: Vec<_> = self.heads.iter().map(|head| &**head).zip(NAMES).collect();
        DiskHead::rewind_all(&named, self.snapshot).unwrap();
    }
}

/// Makes requests to all disks, each with a tag of its own.
fn make(heads: &[Arc<DiskHead>], requests: &[Request], first_tag: u64) {
    for (request, tag) in requests.iter().zip(first_tag..) {
        for head in heads {
            request.make(head, tag).unwrap();
        }
    }
}

fn contents(heads: &[Arc<DiskHead>]) -> Disks {
    let content = |head: &Arc<DiskHead>| Expected::exactly(&seen(head).unwrap());
    let names = NAMES.iter().map(|name| (*name).to_owned());
    names.zip(heads.iter().map(content)).collect()
}

fn between(before: &Disks, after: &Disks) -> Between {
    Between {
        before: before.clone(),
        after: after.clone(),
        found: None,
    }
}

#[test]
fn a_cut_stores_nothing_whatever_was_written() {
    let written = Written::new();
    for _ in 0..3 {
        let before = written.stores();
        let cuts: Vec<_> = written
            .heads
            .iter()
            .map(|head| head.cut().unwrap())
            .collect();
        assert_eq!(written.stores(), before);
        drop(cuts);
        make(&written.heads, &LATER, 20);
        assert!(written.stores() > before);
    }
}

#[test]
fn disks_go_back_together_wherever_the_power_fails() {
    let written = Written::new();
    written.bench.control.record();
    written.go_back();
    assert_eq!(contents(&written.heads), written.then);
    let points = written.bench.control.recorded();
    assert!(points.len() >= 3, "only {} points", points.len());
    let either = between(&written.now, &written.then);
    let (mut before, mut after) = (0, 0);
    for (at, point) in points.iter().enumerate() {
        let scattered = (0..6).map(|seed| Fate::Scattered(Unit::Line, at as u64 * 6 + seed + 1));
        let survivors = scattered.map(Survivors::of_all);
        for survivors in [Survivors::NONE, Survivors::ALL]
            .into_iter()
            .chain(survivors)
        {
            let what = format!("point {at} of {}, {survivors:?}", points.len());
            let left = Bench::after(point, survivors).unwrap();
            must_be_in_order(&left.pool, &what);
            let found = either.verify(&left.pool, true);
            let found = found.unwrap_or_else(|wrong| panic!("{what}: {wrong}"));
            before += usize::from(found == written.now);
            after += usize::from(found == written.then);
            assert!(
                found == written.now || found == written.then,
                "{what}: {found:?}"
            );
        }
    }
    assert!(
        before > 0 && after > 0,
        "before {before} times, after {after}"
    );
}

#[test]
fn what_is_written_after_disks_went_back_is_kept_by_a_flush() {
    let written = Written::new();
    written.go_back();
    let request = Request::Frames { first: 3, count: 2 };
    for flushed in [false, true] {
        let mut after = written.then.clone();
        for disk in after.values_mut() {
            let writes = request.writes(30).into_iter();
            writes.for_each(|(cell, tag)| disk.write(cell, tag));
        }
        if flushed {
            make(&written.heads, &[Request::Flush], 0);
            after.values_mut().for_each(Expected::flush);
        }
        written.bench.control.record();
        // The second time it changes nothing, and the flush before has kept it.
        make(&written.heads, &[request], 30);
        let points = written.bench.control.recorded();
        let allowed = match flushed {
            true => between(&after, &after),
            false => between(&written.then, &after),
        };
        for (at, point) in points.iter().enumerate() {
            for seed in 0..6 {
                let what = format!("point {at}, seed {seed}, flushed: {flushed}");
                let survivors = Survivors::of_all(Fate::Scattered(Unit::Line, seed));
                let left = Bench::after(point, survivors).unwrap();
                must_be_in_order(&left.pool, &what);
                let found = allowed.verify(&left.pool, true);
                found.unwrap_or_else(|wrong| panic!("{what}: {wrong}"));
            }
        }
    }
}

#[test]
fn disks_go_back_together_wherever_their_process_is_killed() {
    silence_kills();
    let (mut before, mut after) = (0, 0);
    for store in 1.. {
        let written = Written::new();
        let (survivor, _) = written.bench.neighbour();
        written.bench.fuse.kill_at(store);
        let run = catch_unwind(AssertUnwindSafe(|| written.go_back()));
        let killed = written.bench.fuse.is_killed();
        assert_eq!(run.is_err(), killed, "store {store}");
        if !killed {
            written.bench.fuse.spare();
            assert!(store > 10, "only {store} stores");
            break;
        }
        let Written {
            bench,
            heads,
            vm,
            now,
            then,
            ..
        } = written;
        drop((heads, vm, bench));
        let what = format!("killed at store {store}");
        let found = between(&now, &then).verify(&survivor, false);
        let found = found.unwrap_or_else(|wrong| panic!("{what}: {wrong}"));
        before += usize::from(found == now);
        after += usize::from(found == then);
        assert!(found == now || found == then, "{what}: {found:?}");
        must_be_in_order(&survivor, &what);
    }
    assert!(
        before > 0 && after > 0,
        "before {before} times, after {after}"
    );
}
