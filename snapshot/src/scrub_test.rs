//! Damage is found and named, and nothing that is no damage is taken for it.

use std::fs::File;
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::layout::Layout;
use crate::region::Medium;
use crate::region::sim::{Fate, Fuse, Image, SimControl, SimRegion, Survivors, Unit, region_with};
use crate::test_snapshot::pool;
use crate::{Holder, LeafBlocks, NewMap, NewSnapshot, SnapshotKind};

const MEMORY: u64 = 600 * (2 << 20);
const SIM_SIZE: u64 = 8 << 20;
const DATA_CHUNK: u32 = 2;

fn scrub(pool: &Arc<Pool>) -> ScrubReport {
    pool.scrub(&mut |_| ControlFlow::Continue(())).unwrap()
}

/// A snapshot of frames of which each is filled with its own byte.
fn take(vm: &Holder, name: &str, frames: &[(u32, u8)], base: Option<SnapshotId>) -> SnapshotId {
    let blocks = vm.alloc_blocks(frames.len() as u32).unwrap();
    take_in(vm, name, frames, base, blocks)
}

fn take_in(
    vm: &Holder,
    name: &str,
    frames: &[(u32, u8)],
    base: Option<SnapshotId>,
    blocks: Vec<BlockNo>,
) -> SnapshotId {
    let mut leaf = match base {
        Some(base) => vm.frame_map(base).unwrap().chunk(300).unwrap().to_leaf(),
        None => LeafBlocks::new(),
    };
    for ((frame, with), block) in frames.iter().zip(blocks) {
        vm.write_block(block, &[*with; 4096]).unwrap();
        leaf.set(*frame, Some(block));
    }
    let changes = [(ChunkIndex::new(300), ChunkMap::Frames(Arc::new(leaf)))];
    let new = NewSnapshot {
        kind: SnapshotKind::Vm,
        name,
        parent: base,
        base,
        maps: vec![NewMap::memory(MEMORY, &changes)],
        state: b"state",
        frames_new: frames.len() as u64,
    };
    vm.commit_snapshot(new, vm.reserve(8).unwrap()).unwrap().id
}

fn flip(pool: &Pool, block: BlockNo, at: u64) {
    let file = File::options()
        .read(true)
        .write(true)
        .open(pool.path())
        .unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, block.byte_offset() + at)
        .unwrap();
    byte[0] ^= 4;
    file.write_all_at(&byte, block.byte_offset() + at).unwrap();
}

#[test]
fn a_flipped_bit_is_named_in_every_snapshot_that_has_it() {
    let (_directory, pool) = pool();
    let vm = pool.hold("vm").unwrap();
    let first = take(&vm, "first", &[(0, 1), (1, 2), (511, 3)], None);
    let made = pool
        .make_digests(first, &mut |_| ControlFlow::Continue(()))
        .unwrap();
    assert_eq!((made.digests_made, made.blocks_verified), (3, 0));
    let second = take(&vm, "second", &[(1, 4)], Some(first));
    let clean = scrub(&pool);
    assert_eq!(
        (
            clean.digests_made,
            clean.blocks_verified,
            clean.snapshots_done
        ),
        (1, 3, 2)
    );
    let map = vm.frame_map(second).unwrap();
    let shared = map.chunk(300).unwrap().block(511).unwrap();
    let own = map.chunk(300).unwrap().block(1).unwrap();
    flip(&pool, shared, 4095);
    flip(&pool, own, 0);
    let report = scrub(&pool);
    assert!(!report.is_clean());
    let mut found: Vec<(&str, u64, BlockNo)> = report
        .damaged
        .iter()
        .map(|damaged| (damaged.snapshot.as_str(), damaged.frame, damaged.block))
        .collect();
    found.sort_unstable();
    let (at_511, at_1) = (300 * 512 + 511, 300 * 512 + 1);
    assert_eq!(
        found,
        [
            ("first", at_511, shared),
            ("second", at_1, own),
            ("second", at_511, shared)
        ]
    );
    assert_eq!(
        (
            report.blocks_damaged,
            report.frames_damaged,
            report.blocks_verified
        ),
        (2, 3, 2)
    );
    assert!(
        pool.check().unwrap().is_clean(),
        "blocks' content is the scrub's"
    );
    flip(&pool, shared, 4095);
    flip(&pool, own, 0);
    assert!(scrub(&pool).is_clean());
}

#[test]
fn damaged_maps_and_states_are_found_and_the_rest_is_read() {
    let (_directory, pool) = pool();
    let vm = pool.hold("vm").unwrap();
    let first = take(&vm, "first", &[(0, 1)], None);
    take(&vm, "second", &[(0, 2), (1, 2)], None);
    let mut lock = CatalogLock::take(&pool).unwrap();
    let listing = lock.listing().unwrap();
    let inode = Arc::clone(&listing.by_id(first).unwrap().inode);
    drop(lock);
    flip(&pool, inode.state_blocks[0], 2);
    let report = scrub(&pool);
    assert_eq!((report.findings.len(), report.digests_made), (1, 3));
    assert!(report.findings[0].contains("first") && report.findings[0].contains("state"));
    let crate::layout::node::Entry::Node { block, .. } = inode.maps[0].root else {
        panic!("a map of 600 chunks has a root node")
    };
    flip(&pool, block, 2000);
    let report = scrub(&pool);
    assert_eq!((report.findings.len(), report.blocks_verified), (1, 2));
    assert!(
        report.findings[0].contains(&block.to_string()),
        "{}",
        report.findings[0]
    );
}

#[test]
fn a_snapshot_that_is_consumed_meanwhile_does_not_count() {
    let (_directory, pool) = pool();
    let vm = pool.hold("vm").unwrap();
    let chunks = BATCH_CHUNKS as u32 * 2;
    let blocks = vm.alloc_blocks(chunks).unwrap();
    let mut changes = Vec::new();
    for (chunk, block) in (0..).zip(&blocks) {
        vm.write_block(*block, &[7; 4096]).unwrap();
        let mut leaf = LeafBlocks::new();
        leaf.set(0, Some(*block));
        changes.push((ChunkIndex::new(chunk), ChunkMap::Frames(Arc::new(leaf))));
    }
    let commit = |name, base, changes: &[(ChunkIndex, ChunkMap)]| {
        let new = NewSnapshot {
            kind: SnapshotKind::Vm,
            name,
            parent: base,
            base,
            maps: vec![NewMap::memory(MEMORY, changes)],
            state: b"state",
            frames_new: 0,
        };
        vm.commit_snapshot(new, vm.reserve(8).unwrap()).unwrap().id
    };
    let first = commit("first", None, &changes);
    // It shares the last frame, so that something of the first stays under its id.
    let holes = changes[..changes.len() - 1].iter();
    let holes: Vec<_> = holes
        .map(|(chunk, _)| (*chunk, ChunkMap::Frames(Arc::new(LeafBlocks::new()))))
        .collect();
    let second = commit("second", Some(first), &holes);
    let mut consumed = false;
    let report = pool
        .make_digests(first, &mut |_| {
            if !std::mem::replace(&mut consumed, true) {
                assert_eq!(vm.consume(first).unwrap().rest, Some(first));
            }
            ControlFlow::Continue(())
        })
        .unwrap();
    assert!(consumed && report.is_clean(), "{report:?}");
    assert_eq!((report.snapshots_gone, report.snapshots_done), (1, 0));
    vm.unpin(second).unwrap();
    assert_no_stale_digest(&pool, "once it was consumed");
}

#[test]
fn what_is_freed_has_no_digest_and_an_interruption_keeps_what_was_made() {
    let (_directory, pool) = pool();
    let vm = pool.hold("vm").unwrap();
    let first = take(&vm, "first", &[(0, 1), (1, 2)], None);
    let second = take(&vm, "second", &[(0, 3)], Some(first));
    let mut calls = 0;
    let report = pool
        .scrub(&mut |progress| {
            calls += 1;
            assert_eq!((progress.frames_done, progress.frames_total), (2, 4));
            ControlFlow::Break(())
        })
        .unwrap();
    assert_eq!(
        (calls, report.interrupted, report.digests_made),
        (1, true, 2)
    );
    vm.unpin(first).unwrap();
    pool.remove("first").unwrap();
    assert!(pool.check().unwrap().is_clean());
    // Frame 1's block is the second's now, with the digest that was made for the first.
    let report = scrub(&pool);
    assert_eq!((report.blocks_verified, report.digests_made), (1, 1));
    vm.consume(second).unwrap();
    let report = pool.check().unwrap();
    assert!(report.is_clean(), "{:#?}", report.findings);
    assert!(matches!(
        pool.make_digests(second, &mut |_| ControlFlow::Continue(())),
        Err(Error::NotFound { .. })
    ));
}

fn open(region: SimRegion, locks: &tempfile::NamedTempFile) -> Arc<Pool> {
    let file = File::options()
        .read(true)
        .write(true)
        .open(locks.path())
        .unwrap();
    Pool::open_on(Box::new(region), file, Path::new("simulated"), Medium::File).unwrap()
}

struct Digested {
    vm: Holder,
    pool: Arc<Pool>,
    fuse: Fuse,
    control: SimControl,
    locks: tempfile::NamedTempFile,
}

/// A pool in which all blocks of a snapshot have a digest.
fn digested() -> Digested {
    let control = region_with(Image::zeros(SIM_SIZE));
    let (region, fuse) = control.handle();
    crate::pool::format(
        &region,
        &Layout::for_size(SIM_SIZE).unwrap(),
        [7; 16],
        false,
    )
    .unwrap();
    let locks = tempfile::NamedTempFile::new().unwrap();
    let pool = open(region, &locks);
    let vm = pool.hold("vm").unwrap();
    let frames: Vec<(u32, u8)> = (0..40).map(|frame| (frame, 0x11)).collect();
    let first = take_in(&vm, "first", &frames, None, blocks_at(&vm, DATA_CHUNK));
    vm.unpin(first).unwrap();
    assert_eq!(scrub(&pool).digests_made, 40);
    Digested {
        vm,
        pool,
        fuse,
        control,
        locks,
    }
}

/// The blocks of one snapshot become those of another, and get new digests.
fn reuse(pool: &Arc<Pool>, vm: &Holder) {
    pool.remove("first").unwrap();
    let frames: Vec<(u32, u8)> = (0..40).map(|frame| (frame + 7, 0x22)).collect();
    take_in(vm, "second", &frames, None, blocks_at(vm, DATA_CHUNK));
    assert_eq!(scrub(pool).digests_made, 40);
}

/// The first blocks of a chunk in which there is nothing yet.
fn blocks_at(vm: &Holder, chunk: u32) -> Vec<BlockNo> {
    let leased: Vec<ChunkNo> = (0..3).map_while(|_| vm.lease_chunk().ok()).collect();
    let chunk = leased.iter().find(|leased| leased.get() == chunk).unwrap();
    assert!((0..40).all(|index| vm.alloc_at(*chunk, index)));
    leased.iter().for_each(|chunk| vm.end_set_aside(*chunk));
    (0..40).map(|index| chunk.block(index)).collect()
}

fn assert_no_stale_digest(pool: &Arc<Pool>, what: &str) {
    let report = scrub(pool);
    assert!(report.is_clean(), "{what}: {report:?}");
    let checked = pool.check().unwrap();
    assert!(checked.is_clean(), "{what}: {:#?}", checked.findings);
}

#[test]
fn no_digest_is_stale_wherever_the_power_fails() {
    let fixture = digested();
    fixture.control.record();
    reuse(&fixture.pool, &fixture.vm);
    let points = fixture.control.recorded();
    for (at, point) in points.iter().enumerate() {
        let scattered = Survivors::of_all(Fate::Scattered(Unit::Line, at as u64 + 1));
        for survivors in [Survivors::NONE, Survivors::ALL, scattered] {
            let locks = tempfile::NamedTempFile::new().unwrap();
            let pool = open(region_with(point.image(survivors)).handle().0, &locks);
            assert_no_stale_digest(
                &pool,
                &format!("point {at} of {}, {survivors:?}", points.len()),
            );
        }
    }
}

#[test]
fn no_digest_is_left_on_metadata_wherever_the_power_fails() {
    let fixture = digested();
    fixture.control.record();
    fixture.pool.remove("first").unwrap();
    // The only blocks that are left for a commit are those that had digests.
    let free = fixture.pool.status().unwrap().free_blocks as u32;
    let all = fixture.vm.alloc_blocks(free).unwrap();
    let had = all
        .iter()
        .copied()
        .filter(|block| block.chunk().get() == DATA_CHUNK && block.index_in_chunk().get() < 40);
    fixture.vm.free_blocks(&had.collect::<Vec<_>>());
    let state = vec![7; 30 * BLOCK_SIZE_BYTES as usize];
    let new = NewSnapshot {
        kind: SnapshotKind::Vm,
        name: "second",
        parent: None,
        base: None,
        maps: vec![NewMap::memory(MEMORY, &[])],
        state: &state,
        frames_new: 0,
    };
    let reservation = fixture.vm.reserve(0).unwrap();
    fixture.vm.commit_snapshot(new, reservation).unwrap();
    let points = fixture.control.recorded();
    for (at, point) in points
        .iter()
        .enumerate()
        .skip(points.len().saturating_sub(30))
    {
        for survivors in [Survivors::NONE, Survivors::ALL] {
            let locks = tempfile::NamedTempFile::new().unwrap();
            let pool = open(region_with(point.image(survivors)).handle().0, &locks);
            assert_no_stale_digest(
                &pool,
                &format!("point {at} of {}, {survivors:?}", points.len()),
            );
        }
    }
}

#[test]
fn no_digest_is_stale_wherever_a_process_is_killed() {
    for store in (1..).step_by(7) {
        let Digested {
            vm,
            pool,
            fuse,
            control,
            locks,
        } = digested();
        let survivor = open(control.handle().0, &locks);
        fuse.kill_at(store);
        let run = catch_unwind(AssertUnwindSafe(|| reuse(&pool, &vm)));
        if !fuse.is_killed() {
            fuse.spare();
            run.unwrap();
            assert!(store > 100, "only {store} stores");
            break;
        }
        drop((vm, pool));
        assert_no_stale_digest(&survivor, &format!("killed at store {store}"));
    }
}

fn taken_blocks(chunk: &crate::ConsumedChunk) -> impl Iterator<Item = BlockNo> + '_ {
    let present = chunk.map.iter_present();
    present
        .filter(|(frame, _)| chunk.taken.contains(*frame))
        .map(|(_, block)| block)
}

#[test]
fn snapshots_that_come_and_go_are_no_damage() {
    let (_directory, pool) = pool();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for thread in 0..2u8 {
            let (done, path) = (&done, pool.path().to_owned());
            scope.spawn(move || {
                let pool = Pool::open(&path).unwrap();
                let vm = pool.hold("churn").unwrap();
                let mut base = None;
                for turn in 0u32.. {
                    if done.load(Ordering::Relaxed) {
                        return;
                    }
                    let name = format!("{thread}-{turn}");
                    let with = (turn % 251) as u8 + 1;
                    let frames: Vec<(u32, u8)> =
                        (0..30).map(|frame| (frame * 5 + turn % 5, with)).collect();
                    let id = take(&vm, &name, &frames, base);
                    if let Some(before) = base.replace(id) {
                        vm.unpin(before).unwrap();
                        pool.remove(&format!("{thread}-{}", turn - 1)).unwrap();
                    }
                    if turn % 7 == 6 {
                        // Its blocks become writable: they are nobody's to verify any more.
                        let consumed = vm.consume(id).unwrap();
                        if let Some(rest) = consumed.rest {
                            vm.unpin(rest).unwrap();
                        }
                        let own: Vec<BlockNo> =
                            consumed.memory().iter().flat_map(taken_blocks).collect();
                        for block in &own {
                            vm.write_block(*block, &[0xee; 4096]).unwrap();
                        }
                        vm.free_blocks(&own);
                        base = None;
                    }
                }
            });
        }
        let (mut scrubs, mut verified) = (0, 0);
        // However late the other threads come to run.
        while scrubs < 300 || verified < 1000 {
            scrubs += 1;
            let report = scrub(&pool);
            if !report.is_clean() {
                done.store(true, Ordering::Relaxed);
                panic!("{report:#?}");
            }
            verified += report.blocks_verified + report.digests_made;
        }
        done.store(true, Ordering::Relaxed);
    });
    assert_no_stale_digest(&pool, "at the end");
}
