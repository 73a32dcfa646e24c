//! A process is killed at every single store: those that live find the pool in order.

use std::panic::{AssertUnwindSafe, catch_unwind};

use nvvmm_test_profile::sized;

use super::contents::frame_with;
use super::fixture::{
    Bench, Fixture, commit_third, fill, frames, must_be_in_order, snapshots_of, use_a_disk,
};
use super::silence_kills;
use crate::{Holder, SnapshotId};

/// Kills one of two users of a pool at every single store of `act`; the other one finds everything
/// in order.
fn kill_everywhere(what: &str, act: impl Fn(&Bench, Holder, SnapshotId, SnapshotId)) {
    silence_kills();
    let fixture = Fixture::new();
    let old = snapshots_of(&fixture.bench.pool);
    act(&fixture.bench, fixture.vm, fixture.first, fixture.second);
    let new = snapshots_of(&fixture.bench.pool);
    drop(fixture.bench);
    let (mut seen_old, mut seen_new) = (0, 0);
    for store in 1.. {
        let fixture = Fixture::new();
        let (survivor, _) = fixture.bench.neighbour();
        let neighbour = survivor.hold("neighbour").unwrap();
        // Of an empty chunk: those that snapshots are in are to be leased by the one that is
        // killed.
        let blocks: Vec<_> = neighbour.alloc_chunk().unwrap().blocks().take(3).collect();
        blocks
            .iter()
            .for_each(|block| fill(&neighbour, *block, 0x99));
        fixture.bench.fuse.kill_at(store);
        let (vm, first, second) = (fixture.vm, fixture.first, fixture.second);
        let run = catch_unwind(AssertUnwindSafe(|| act(&fixture.bench, vm, first, second)));
        let killed = fixture.bench.fuse.is_killed();
        assert_eq!(run.is_err(), killed, "{what}: store {store}");
        if !killed {
            fixture.bench.fuse.spare();
            assert!(store > 10, "{what}: only {store} stores");
            break;
        }
        drop(fixture.bench);
        let what = format!("{what}: killed at store {store}");
        let found = snapshots_of(&survivor);
        assert!(found == old || found == new, "{what}: {:?}", found.keys());
        seen_old += usize::from(found == old);
        seen_new += usize::from(found == new);
        let report = survivor.check().unwrap();
        assert!(report.is_clean(), "{what}: {:#?}", report.findings);
        for block in &blocks {
            let mut bytes = [0; 4096];
            survivor.read_block(*block, &mut bytes).unwrap();
            assert_eq!(
                bytes,
                frame_with(0x99),
                "{what}: a neighbour's block was touched"
            );
        }
        drop(neighbour);
        must_be_in_order(&survivor, &what);
    }
    assert!(
        seen_old > 0 && seen_new > 0,
        "{what}: old seen {seen_old} times, new {seen_new}"
    );
}

#[test]
fn a_commit_that_is_killed_anywhere_leaves_the_pool_in_order() {
    kill_everywhere("commit", |_, vm, _, second| commit_third(&vm, second));
}

#[test]
fn the_use_of_a_disk_that_is_killed_anywhere_leaves_the_pool_in_order() {
    kill_everywhere("disk", |bench, vm, _, _| use_a_disk(bench, &vm));
}

#[test]
fn a_removal_that_is_killed_anywhere_leaves_the_pool_in_order() {
    kill_everywhere("remove", |bench, vm, first, _| {
        assert!(bench.pool.remove("first").unwrap().deferred);
        vm.unpin(first).unwrap();
    });
}

#[test]
fn consuming_that_is_killed_anywhere_leaves_the_pool_in_order() {
    kill_everywhere("consume", |_, vm, _, second| {
        let consumed = vm.consume(second).unwrap();
        assert!(
            consumed
                .memory()
                .iter()
                .any(|chunk| !chunk.taken.is_empty())
        );
    });
}

#[test]
fn an_adoption_that_is_killed_anywhere_leaves_the_pool_in_order() {
    kill_everywhere("adopt", |bench, _vm, _, _| {
        assert!(bench.pool.adopt("second").unwrap());
    });
}

#[test]
fn freeing_that_is_killed_anywhere_leaves_no_bytes() {
    kill_everywhere("free", |_, vm, _, _| {
        let blocks = vm.alloc_blocks(3).unwrap();
        blocks.iter().for_each(|block| fill(&vm, *block, 0x41));
        vm.free_blocks(&blocks);
    });
}

/// The blocks wait when the first process is killed: what it cleaned is done by the next one.
#[test]
fn a_cleaning_that_is_killed_anywhere_is_done_by_the_next() {
    kill_everywhere("clean", |bench, vm, first, second| {
        frames(&vm, &[3, 4, 5], 0x42);
        vm.unpin(first).unwrap();
        vm.unpin(second).unwrap();
        bench.pool.remove_only("second").unwrap();
        bench.pool.clean_all().unwrap();
    });
}

#[test]
fn an_end_that_is_killed_anywhere_leaves_neither_bytes_nor_orphans() {
    kill_everywhere("end", |bench, vm, _, _| {
        frames(&vm, &[3, 4, 5], 0x42);
        assert!(bench.pool.remove("first").unwrap().deferred);
        drop(vm);
    });
}

/// A process dies and leaves leases with bytes in them, an orphan and perhaps half a commit; the
/// next one is killed at every single store while it takes back what the first one had.
#[test]
fn a_death_upon_a_death_leaves_the_pool_in_order() {
    silence_kills();
    let act = |fixture: &Fixture| {
        fixture.bench.pool.remove("first").unwrap();
        commit_third(&fixture.vm, fixture.second);
    };
    let fixture = Fixture::new();
    let mut allowed = vec![snapshots_of(&fixture.bench.pool)];
    for gone in ["first", ""] {
        let mut next = allowed[0].clone();
        next.remove(gone);
        allowed.push(next);
    }
    act(&fixture);
    allowed.push(snapshots_of(&fixture.bench.pool));
    let (mut ran_to_its_end, mut looks) = (false, 0);
    for death in (5..).step_by(sized(15, 6)) {
        for store in 1.. {
            let fixture = Fixture::new();
            let (survivor, _) = fixture.bench.neighbour();
            let (looker, fuse) = fixture.bench.neighbour();
            fixture.bench.fuse.kill_at(death);
            ran_to_its_end = catch_unwind(AssertUnwindSafe(|| act(&fixture))).is_ok();
            frames_of_no_snapshot(&fixture, ran_to_its_end);
            fixture.bench.fuse.kill();
            drop(fixture);
            fuse.kill_at(store);
            let look = catch_unwind(AssertUnwindSafe(|| looker.check().unwrap()));
            let what = format!("killed at store {death}, and the next one at {store}");
            if let Ok(report) = look {
                fuse.spare();
                assert!(report.is_clean(), "{what}: {:?}", report.findings);
                break;
            }
            drop(looker);
            looks += 1;
            must_be_in_order(&survivor, &what);
            assert!(allowed.contains(&snapshots_of(&survivor)), "{what}");
        }
        if ran_to_its_end {
            break;
        }
    }
    assert!(
        ran_to_its_end && looks > 100,
        "only {looks} deaths upon a death"
    );
}

/// One that lives yet has blocks of its own when it dies.
fn frames_of_no_snapshot(fixture: &Fixture, lives: bool) {
    if lives {
        fixture.bench.fuse.spare();
        frames(&fixture.vm, &[3, 4, 5], 0x42);
    }
}
