//! VMs on hugetlbfs, where all is done in whole chunks.

use std::sync::Arc;

use nvvmm_snapshot::{
    ChunkIndex, ChunkMap, CreateOptions, LeafBlocks, NewMap, NewSnapshot, Pool, SnapshotKind,
};

use super::engine_test::Vm;
use crate::{
    cow::{
        mount_test::Mount,
        test_guest::{MIB, PoolFile, assert_clean, pool_of},
        *,
    },
    memory::GuestRam,
};

const FRAMES: u64 = 8 * MIB / FRAME_SIZE_BYTES as u64;

/// A pool of `size_mib` with no huge page to spare beside it, and its mount.
fn pool_on_huge_pages(name: &str, size_mib: u64) -> Option<(Mount, PoolFile, Arc<Pool>)> {
    let mount = Mount::hugetlbfs(name, size_mib)?;
    let place = PoolFile::on(mount.path(), name);
    let pool = pool_of(&place, size_mib * MIB);
    Some((mount, place, pool))
}

#[test]
fn a_write_after_a_snapshot_copies_its_chunk_and_no_other() {
    let Some((_mount, _place, pool)) = pool_on_huge_pages("chunk-copy", 64) else {
        return;
    };
    let mut vm = Vm::start(&pool, 8 * MIB, None);
    vm.fill(0..FRAMES, 1000);
    vm.snapshot("first").unwrap();
    assert_eq!(vm.engine.counters().frames_own, 0);
    vm.write(700, 7);
    let counters = vm.engine.counters();
    assert_eq!((counters.write_faults, counters.frames_copied), (1, 512));
    assert_eq!(counters.frames_own, 512);
    vm.assert_filled((0..FRAMES).filter(|frame| *frame != 700), 1000);
    let copy = Vm::start(&pool, 8 * MIB, Some("first"));
    copy.assert_filled(0..FRAMES, 1000);
    assert_eq!(copy.read(700), 1700);
    copy.write(5, 5);
    assert_eq!((vm.read(5), vm.read(700)), (1005, 7));
    assert_clean(&pool);
}

#[test]
fn a_restored_vm_that_only_reads_takes_no_page() {
    let Some((_mount, _place, pool)) = pool_on_huge_pages("read-only", 32) else {
        return;
    };
    let mut vm = Vm::start(&pool, 8 * MIB, None);
    vm.fill(0..FRAMES, 1);
    vm.snapshot("s").unwrap();
    drop(vm);
    let leased = pool.status().unwrap().leased_blocks;
    let copies: Vec<Vm> = (0..6)
        .map(|_| Vm::start(&pool, 8 * MIB, Some("s")))
        .collect();
    for copy in &copies {
        copy.assert_filled(0..FRAMES, 1);
        assert_eq!(
            copy.engine.counters().mappings,
            copy.mappings_of_the_kernel().max(4)
        );
    }
    assert_eq!(pool.status().unwrap().leased_blocks, leased);
}

#[test]
fn chunks_that_were_given_up_are_used_again_and_zero() {
    let Some((_mount, _place, pool)) = pool_on_huge_pages("promise", 32) else {
        return;
    };
    for round in 0..6 {
        let mut vm = Vm::start(&pool, 8 * MIB, None);
        vm.fill(0..FRAMES, round);
        vm.snapshot("s").unwrap();
        vm.fill(0..FRAMES, round + 1);
        vm.assert_filled(0..FRAMES, round + 1);
        drop(vm);
        pool.remove("s").unwrap();
    }
    let vm = Vm::start(&pool, 8 * MIB, None);
    assert_eq!(vm.read(3), 0, "freed blocks are zeroed");
    assert_clean(&pool);
}

#[test]
fn a_write_that_finds_no_chunk_waits_for_one() {
    let Some((_mount, _place, pool)) = pool_on_huge_pages("chunk-full", 32) else {
        return;
    };
    let mut vm = Vm::start(&pool, 8 * MIB, None);
    vm.fill(0..FRAMES, 1);
    vm.snapshot("s").unwrap();
    let ballast = pool.hold("ballast").unwrap();
    while ballast.alloc_chunk().is_ok() {}
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| vm.fill(0..FRAMES, 2));
        while !vm.faults.is_starved() {
            assert!(!writer.is_finished(), "there is no chunk");
            std::thread::yield_now();
        }
        drop(ballast);
        writer.join().unwrap();
    });
    vm.assert_filled(0..FRAMES, 2);
    assert_clean(&pool);
}

#[test]
fn a_consumed_snapshot_is_written_in_place() {
    let Some((_mount, _place, pool)) = pool_on_huge_pages("chunk-once", 32) else {
        return;
    };
    let mut vm = Vm::start(&pool, 8 * MIB, None);
    vm.fill(0..FRAMES, 1);
    vm.snapshot("s").unwrap();
    drop(vm);
    let mut vm = Vm::start(&pool, 8 * MIB, Some("s"));
    let consumed = vm.holder.consume(vm.last.unwrap()).unwrap();
    vm.last = consumed.rest;
    vm.engine.take_over(consumed).unwrap();
    vm.assert_filled(0..FRAMES, 1);
    vm.fill(0..FRAMES, 2);
    vm.assert_filled(0..FRAMES, 2);
    assert_eq!(vm.engine.counters().frames_copied, 0);
    vm.snapshot("again").unwrap();
    assert_clean(&pool);
}

#[test]
fn a_full_medium_under_an_overcommitted_pool_holds_accesses() {
    let Some(mount) = Mount::hugetlbfs("chunk-medium", 32) else {
        return;
    };
    let place = PoolFile::on(mount.path(), "chunk-medium");
    let options = CreateOptions {
        size_bytes: 128 * MIB,
        overcommit: true,
    };
    let pool = Pool::create(&place.path, &options).unwrap();
    let mut vm = Vm::start(&pool, 8 * MIB, None);
    vm.fill(0..FRAMES, 1);
    vm.snapshot("s").unwrap();
    let other = pool.hold("other").unwrap();
    while other.alloc_chunk().is_ok() {}
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| vm.fill(0..FRAMES, 2));
        while !vm.faults.is_starved() {
            assert!(!writer.is_finished(), "there is no page");
            std::thread::yield_now();
        }
        drop(other);
        writer.join().unwrap();
    });
    vm.assert_filled(0..FRAMES, 2);
    assert_clean(&pool);
}

#[test]
fn memory_in_pieces_is_refused() {
    let Some((_mount, _place, pool)) = pool_on_huge_pages("pieces", 32) else {
        return;
    };
    let holder = Arc::new(pool.hold("test").unwrap());
    let mut leaf = LeafBlocks::new();
    leaf.set(3, Some(holder.alloc_blocks(1).unwrap()[0]));
    let changes = [(ChunkIndex::new(1), ChunkMap::Frames(Arc::new(leaf)))];
    let new = NewSnapshot {
        kind: SnapshotKind::Vm,
        name: "pieces",
        parent: None,
        base: None,
        maps: vec![NewMap::memory(8 * MIB, &changes)],
        state: b"state",
        frames_new: 1,
    };
    holder
        .commit_snapshot(new, holder.reserve(8).unwrap())
        .unwrap();
    let (entry, frames) = holder.pin("pieces").unwrap();
    let origin = RamOrigin::Snapshot {
        frames,
        frames_mapped: entry.frames_mapped,
    };
    let ram = GuestRam::reserve(8 * MIB).unwrap();
    let refused = RedirectEngine::new(
        ram,
        pool,
        holder,
        origin,
        Budget::of_this_process(),
        Techniques::default(),
    );
    assert!(
        matches!(refused, Err(CowError::NotWhole { index }) if index == ChunkIndex::new(1)),
        "{refused:?}"
    );
}

#[test]
fn more_chunks_than_mappings_are_refused() {
    let Some((_mount, _place, pool)) = pool_on_huge_pages("mappings", 32) else {
        return;
    };
    let holder = Arc::new(pool.hold("test").unwrap());
    let ram = GuestRam::reserve(8 * MIB).unwrap();
    let refused = RedirectEngine::new(
        ram,
        pool,
        holder,
        RamOrigin::Empty,
        Budget::with_limit(3),
        Techniques::default(),
    );
    let Err(CowError::TooManyMappings {
        needed: 4,
        limit: 3,
    }) = refused
    else {
        panic!("{refused:?}")
    };
}
