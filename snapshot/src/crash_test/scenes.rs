//! Commits are cut off at every flush and at every store: the pool is as before or as after, and in order.

use std::collections::BTreeMap;
use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use crate::layout::Layout;
use crate::region::Medium;
use crate::region::sim::{
    CrashPoint, Fate, Fuse, Image, SimControl, SimRegion, Survivors, Unit, region_with,
};
use crate::{BlockNo, ChunkMap, Holder, LeafBlocks, NewSnapshot, Pool, SnapshotId};

const SIZE: u64 = 12 << 20;
const MEMORY: u64 = 600 * (2 << 20);

/// A pool on a simulated region, with a file for its locks.
struct Bench {
    locks: tempfile::NamedTempFile,
    control: SimControl,
    fuse: Fuse,
    pool: Arc<Pool>,
}

/// What the snapshots of a pool are: by name, the bytes that their frames are filled with, and their state.
type Snapshots = BTreeMap<String, (BTreeMap<(u32, u32), u8>, Vec<u8>)>;

fn open(region: SimRegion, locks: &tempfile::NamedTempFile) -> crate::Result<Arc<Pool>> {
    let file = File::options().read(true).write(true).open(locks.path()).unwrap();
    Pool::open_on(Box::new(region), file, Path::new("simulated"), Medium::File)
}

fn bench() -> Bench {
    let control = region_with(Image::zeros(SIZE));
    let (region, fuse) = control.handle();
    crate::pool::format(&region, &Layout::for_size(SIZE).unwrap(), [7; 16], false).unwrap();
    let locks = tempfile::NamedTempFile::new().unwrap();
    let pool = open(region, &locks).unwrap();
    Bench {
        locks,
        control,
        fuse,
        pool,
    }
}

fn scattered(seed: u64) -> Survivors {
    Survivors::of_all(Fate::Scattered(Unit::Line, seed))
}

fn fill(holder: &Holder, block: BlockNo, with: u8) {
    holder.write_block(block, &[with; 4096]).unwrap();
}

fn frames(holder: &Holder, places: &[u32], with: u8) -> ChunkMap {
    let blocks = holder.alloc_blocks(places.len() as u32).unwrap();
    let mut leaf = LeafBlocks::new();
    for (place, block) in places.iter().zip(blocks) {
        fill(holder, block, with);
        leaf.set(*place, Some(block));
    }
    ChunkMap::Frames(Arc::new(leaf))
}

fn snapshot(
    holder: &Holder,
    name: &str,
    base: Option<SnapshotId>,
    changes: &[(u32, ChunkMap)],
) -> SnapshotId {
    let state = name.repeat(1000);
    let new = NewSnapshot {
        name,
        parent: base,
        memory_bytes: MEMORY,
        base,
        changes,
        state: state.as_bytes(),
        frames_new: 0,
    };
    holder
        .commit_snapshot(new, holder.reserve(4).unwrap())
        .unwrap()
        .id
}

fn snapshots_of(pool: &Arc<Pool>) -> Snapshots {
    let reader = pool.hold("reader").unwrap();
    let mut all = Snapshots::new();
    for entry in pool.snapshots().unwrap() {
        let (_, map) = reader.pin(&entry.name).unwrap();
        let mut frames = BTreeMap::new();
        for chunk in map.iter_present() {
            let (index, chunk) = chunk.unwrap();
            for (frame, block) in chunk.iter_present() {
                let mut bytes = [0; 4096];
                pool.read_block(block, &mut bytes).unwrap();
                assert_eq!(
                    bytes, [bytes[0]; 4096],
                    "{} chunk {index} frame {frame} is torn",
                    entry.name
                );
                frames.insert((index, frame), bytes[0]);
            }
        }
        all.insert(entry.name, (frames, pool.read_state(entry.id).unwrap()));
        reader.unpin(entry.id).unwrap();
    }
    all
}

fn assert_in_order(pool: &Pool, what: &str) {
    let status = pool.status().unwrap();
    assert_eq!(
        (status.leased_blocks, status.orphans, status.holders.len()),
        (0, 0, 0),
        "{what}: leaked"
    );
    let report = pool.check().unwrap();
    assert!(report.is_clean(), "{what}: {:#?}", report.findings);
}

/// Two snapshots that share frames, the second pinned with its holder's next changes under way.
struct Scene {
    bench: Bench,
    vm: Holder,
    first: SnapshotId,
    second: SnapshotId,
}

fn scene() -> Scene {
    let bench = bench();
    let vm = bench.pool.hold("vm").unwrap();
    let near = frames(&vm, &[0, 1, 2, 3], 0x11);
    let far = frames(&vm, &[500], 0x12);
    let first = snapshot(&vm, "first", None, &[(0, near.clone()), (300, far)]);
    let mut changed = near.to_leaf();
    changed.set(1, frames(&vm, &[1], 0x21).block(1));
    let second = snapshot(
        &vm,
        "second",
        Some(first),
        &[(0, ChunkMap::Frames(Arc::new(changed)))],
    );
    Scene {
        bench,
        vm,
        first,
        second,
    }
}

fn check_points(points: &[CrashPoint], old: &Snapshots, new: &Snapshots, what: &str) {
    let (mut seen_old, mut seen_new) = (0, 0);
    for (at, point) in points.iter().enumerate() {
        let random = (0..4).map(|seed| scattered(at as u64 * 4 + seed + 1));
        for survivors in [Survivors::NONE, Survivors::ALL].into_iter().chain(random) {
            let what = format!("{what}, point {at} of {}, {survivors:?}", points.len());
            let locks = tempfile::NamedTempFile::new().unwrap();
            let control = region_with(point.image(survivors));
            let pool = open(control.handle().0, &locks).unwrap_or_else(|error| panic!("{what}: {error}"));
            assert_in_order(&pool, &what);
            let found = snapshots_of(&pool);
            assert!(
                found == *old || found == *new,
                "{what}: neither old nor new: {:?}",
                found.keys()
            );
            seen_old += usize::from(found == *old);
            seen_new += usize::from(found == *new);
            drop(pool);
            // Closed in order: the next one finds it so without deriving anything.
            let pool = open(control.handle().0, &locks).unwrap();
            assert_in_order(&pool, &what);
        }
    }
    assert!(
        seen_old > 0 && seen_new > 0,
        "{what}: old seen {seen_old} times, new {seen_new}"
    );
}

/// Runs `act` on the scene, with the power failing at every flush and fence on the way.
fn cut_everywhere(what: &str, act: impl FnOnce(&Bench, &Holder, SnapshotId, SnapshotId)) {
    let Scene {
        bench,
        vm,
        first,
        second,
    } = scene();
    let old = snapshots_of(&bench.pool);
    bench.control.record();
    act(&bench, &vm, first, second);
    let points = bench.control.recorded();
    let new = snapshots_of(&bench.pool);
    assert_ne!(old, new);
    assert!(points.len() >= 5, "{what}: only {} points", points.len());
    check_points(&points, &old, &new, what);
}

fn commit_third(vm: &Holder, second: SnapshotId) {
    let base = vm.frame_map(second).unwrap();
    let mut near = base.chunk(0).unwrap().to_leaf();
    near.set(7, frames(vm, &[7], 0x31).block(7));
    let far = frames(vm, &[9], 0x32);
    snapshot(
        vm,
        "third",
        Some(second),
        &[(0, ChunkMap::Frames(Arc::new(near))), (299, far)],
    );
}

#[test]
fn a_commit_is_whole_or_nothing_wherever_the_power_fails() {
    cut_everywhere("commit", |_, vm, _, second| commit_third(vm, second));
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
        assert_eq!(consumed.rest, Some(second), "it shares frames with the first");
    });
}

#[test]
fn two_commits_in_a_row_never_fall_back_two() {
    let Scene {
        bench, vm, second, ..
    } = scene();
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
            let locks = tempfile::NamedTempFile::new().unwrap();
            let pool = open(region_with(point.image(survivors)).handle().0, &locks).unwrap();
            assert_in_order(&pool, &format!("point {at} {survivors:?}"));
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
    let Scene {
        bench, vm, second, ..
    } = scene();
    let old = snapshots_of(&bench.pool);
    bench.control.record();
    commit_third(&vm, second);
    let points = bench.control.recorded();
    let new = snapshots_of(&bench.pool);
    for (at, point) in points.iter().enumerate().step_by(3) {
        let locks = tempfile::NamedTempFile::new().unwrap();
        let control = region_with(point.image(scattered(at as u64)));
        control.record();
        let pool = open(control.handle().0, &locks).unwrap();
        let again = control.recorded();
        let found = snapshots_of(&pool);
        assert!(found == old || found == new);
        for (cut, point) in again.iter().enumerate() {
            let locks = tempfile::NamedTempFile::new().unwrap();
            let image = point.image(scattered(cut as u64 + 5));
            let pool = open(region_with(image).handle().0, &locks).unwrap();
            assert_in_order(&pool, &format!("point {at}, cut {cut}"));
            assert_eq!(snapshots_of(&pool), found);
        }
    }
}

/// Kills one of two users of a pool at every single store of `act`; the other one finds everything in order.
fn kill_everywhere(what: &str, act: impl Fn(&Bench, &Holder, SnapshotId, SnapshotId)) {
    super::silence_kills();
    let Scene {
        bench,
        vm,
        first,
        second,
    } = scene();
    let old = snapshots_of(&bench.pool);
    act(&bench, &vm, first, second);
    let new = snapshots_of(&bench.pool);
    drop((vm, bench));
    let (mut seen_old, mut seen_new) = (0, 0);
    for store in 1.. {
        let Scene {
            bench,
            vm,
            first,
            second,
        } = scene();
        let survivor = open(bench.control.handle().0, &bench.locks).unwrap();
        let neighbour = survivor.hold("neighbour").unwrap();
        let blocks = neighbour.alloc_blocks(3).unwrap();
        blocks.iter().for_each(|block| fill(&neighbour, *block, 0x99));
        bench.fuse.kill_at(store);
        let run = catch_unwind(AssertUnwindSafe(|| act(&bench, &vm, first, second)));
        let killed = bench.fuse.is_killed();
        assert_eq!(run.is_err(), killed, "{what}: store {store}");
        if !killed {
            bench.fuse.spare();
            assert!(store > 10, "{what}: only {store} stores");
            break;
        }
        drop((vm, bench));
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
            assert_eq!(bytes, [0x99; 4096], "{what}: a neighbour's block was touched");
        }
        drop(neighbour);
        assert_in_order(&survivor, &what);
    }
    assert!(
        seen_old > 0 && seen_new > 0,
        "{what}: old seen {seen_old} times, new {seen_new}"
    );
}

#[test]
fn a_commit_that_is_killed_anywhere_leaves_the_pool_in_order() {
    kill_everywhere("commit", |_, vm, _, second| commit_third(vm, second));
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
        vm.consume(second).unwrap();
    });
}
