//! Writes that are left to the kernel's copy-on-write.

use nvvmm_snapshot::Pool;
use std::sync::Arc;

use super::engine_test::Vm;
use crate::cow::{
    counters::Counters,
    test_guest::{FRAME, MIB, PoolFile, assert_clean, assert_hold_their_own, ballast, pool_of},
    *,
};

const SIZE: u64 = 16 * MIB;
const FRAMES: u64 = SIZE / FRAME;

/// A VM from snapshot `s` of a guest that has filled all of its memory with `seed`. `None` where
/// the environment has the technique switched off.
fn restored(pool: &Arc<Pool>, seed: u64) -> Option<Vm> {
    let mut vm = Vm::start(pool, SIZE, None);
    vm.fill(0..FRAMES, seed);
    vm.snapshot("s").unwrap();
    drop(vm);
    let vm = Vm::start(pool, SIZE, Some("s"));
    vm.engine.unarmed.is_allowed().then_some(vm)
}

fn moved(vm: &Vm) -> u64 {
    Counters::get(&vm.engine.chunks.counters().frames_moved)
}

#[test]
fn a_write_after_a_restore_is_held_for_nothing_and_is_in_the_next_snapshot() {
    let place = PoolFile::new("left");
    let pool = pool_of(&place, 64 * MIB);
    let Some(mut vm) = restored(&pool, 1) else {
        return;
    };
    let written: Vec<u64> = (0..FRAMES).step_by(100).collect();
    vm.fill(written.iter().copied(), 2);
    let counters = vm.engine.counters();
    assert_eq!((counters.write_faults, counters.frames_copied), (0, 0));
    assert!(counters.chunk_faults <= 8, "{counters:?}");
    let ahead = vm.copy_ahead().unwrap();
    assert_eq!(ahead.frames, written.len() as u64, "no neighbour is copied");
    assert_eq!(vm.engine.counters().frames_own, ahead.frames);
    let paused = vm.engine.kernel_calls();
    assert!(vm.engine.chunks.are_reconciled());
    vm.snapshot("t").unwrap();
    let calls = vm.engine.kernel_calls().since(&paused);
    assert_eq!(
        calls.mmap, 0,
        "the pause arms, and moves nothing: {calls:?}"
    );
    for (name, seed) in [("s", 1), ("t", 2)] {
        let copy = Vm::start(&pool, SIZE, Some(name));
        copy.assert_filled(written.iter().copied(), seed);
        copy.assert_filled((0..FRAMES).filter(|frame| frame % 100 != 0), 1);
    }
    assert_clean(&pool);
}

#[test]
fn pages_that_have_rested_are_moved_to_blocks() {
    let place = PoolFile::new("rested");
    let pool = pool_of(&place, 64 * MIB);
    let Some(vm) = restored(&pool, 1) else {
        return;
    };
    let look = || {
        vm.engine.unarmed.look_now();
        while vm.engine.look_at_left().unwrap() {}
    };
    vm.fill(0..10, 2);
    look();
    vm.fill(10..20, 2);
    look();
    assert_eq!(moved(&vm), 0, "the guest still writes");
    look();
    assert_eq!(moved(&vm), 20);
    assert_eq!(vm.engine.counters().frames_own, 20);
    vm.assert_filled(0..20, 2);
    vm.assert_filled(20..FRAMES, 1);
    vm.fill(5..40, 3);
    vm.assert_filled(5..40, 3);
    assert_hold_their_own(&pool, &[&vm]);
    assert_clean(&pool);
}

#[test]
fn a_chunk_that_was_written_nearly_all_moves_to_one_chunk_of_the_pool() {
    let place = PoolFile::new("dense-move");
    let pool = pool_of(&place, 64 * MIB);
    let Some(mut vm) = restored(&pool, 1) else {
        return;
    };
    vm.fill(0..500, 2);
    let before = vm.engine.kernel_calls();
    vm.copy_ahead().unwrap();
    let calls = vm.engine.kernel_calls().since(&before);
    assert_eq!((moved(&vm), calls.mmap), (500, 1), "{calls:?}");
    vm.snapshot("t").unwrap();
    let copy = Vm::start(&pool, SIZE, Some("t"));
    copy.assert_filled(0..500, 2);
    copy.assert_filled(500..FRAMES, 1);
    assert_clean(&pool);
}

#[test]
fn on_a_full_pool_a_restored_guest_is_held_and_a_snapshot_refused() {
    let place = PoolFile::new("left-full");
    let pool = pool_of(&place, 64 * MIB);
    let Some(mut vm) = restored(&pool, 1) else {
        return;
    };
    // Touched while there is room, and written when there is none any more.
    vm.write(3, 7);
    let ballast = ballast(&pool);
    // A count of the pool's chunks is good for a moment.
    while vm.engine.may_leave(1) {
        std::thread::yield_now();
    }
    assert!(vm.snapshot("refused").is_err());
    assert_eq!(vm.read(3), 7);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| vm.fill(1024..1040, 9));
        while !vm.faults.is_starved() {
            assert!(
                !writer.is_finished(),
                "there is no block, so the write must wait"
            );
            std::thread::yield_now();
        }
        drop(ballast);
        writer.join().unwrap();
    });
    vm.snapshot("t").unwrap();
    let copy = Vm::start(&pool, SIZE, Some("t"));
    assert_eq!(copy.read(3), 7);
    copy.assert_filled(1024..1040, 9);
    copy.assert_filled((0..1024).filter(|frame| *frame != 3), 1);
    assert_clean(&pool);
}

#[test]
fn when_the_pool_fills_what_was_left_to_the_kernel_is_armed() {
    let place = PoolFile::new("left-fills");
    let pool = pool_of(&place, 64 * MIB);
    let Some(vm) = restored(&pool, 1) else {
        return;
    };
    vm.fill((0..FRAMES).step_by(512), 2);
    assert!(!vm.engine.chunks.are_reconciled());
    let ballast = ballast(&pool);
    // A count of the pool's chunks is good for a moment.
    let armed = || {
        while vm.engine.look_at_left().unwrap() {}
        (0..SIZE / CHUNK_SIZE_BYTES as u64).all(|chunk| {
            let index = nvvmm_snapshot::ChunkIndex::new(chunk as u32);
            match &*counters::lock(vm.engine.chunks.get(index)) {
                super::chunk::LiveChunk::Known(known) => !known.is_left(),
                super::chunk::LiveChunk::Untouched => true,
            }
        })
    };
    while !armed() {
        std::thread::yield_now();
    }
    vm.assert_filled((0..FRAMES).step_by(512), 2);
    drop(ballast);
    vm.copy_ahead().unwrap();
    assert_eq!(moved(&vm), SIZE / CHUNK_SIZE_BYTES as u64);
    assert_hold_their_own(&pool, &[&vm]);
    assert_clean(&pool);
}

#[test]
fn a_clone_that_writes_a_mebibyte_costs_no_more_than_half_of_one_besides() {
    let place = PoolFile::new("left-clone");
    let pool = pool_of(&place, 64 * MIB);
    let Some(vm) = restored(&pool, 1) else {
        return;
    };
    vm.fill(300..300 + MIB / FRAME, 2);
    vm.copy_ahead().unwrap();
    let own = vm.engine.counters().frames_own;
    assert!(own <= MIB / FRAME * 3 / 2, "{own} frames");
    assert_clean(&pool);
}

#[test]
fn a_write_to_a_chunk_that_is_mapped_during_a_snapshot_that_fails_is_kept() {
    let place = PoolFile::new("left-rollback");
    let pool = pool_of(&place, 64 * MIB);
    let mut vm = Vm::start(&pool, SIZE, None);
    vm.fill(0..FRAMES, 1);
    vm.snapshot("s").unwrap();
    drop(vm);
    let mut vm: Vm = crate::cow::test_guest::consuming(&pool, SIZE, "s");
    let (_, room) = vm.prepare().unwrap();
    let set = vm.share_and_arm(room);
    vm.fill(0..40, 2);
    vm.engine.roll_back(set);
    vm.assert_filled(0..40, 2);
    vm.assert_filled(40..FRAMES, 1);
    vm.fill(20..60, 3);
    vm.snapshot("after").unwrap();
    let copy = Vm::start(&pool, SIZE, Some("after"));
    copy.assert_filled(0..20, 2);
    copy.assert_filled(20..60, 3);
    copy.assert_filled(60..FRAMES, 1);
    assert_clean(&pool);
}

#[test]
fn a_guest_that_writes_here_and_there_after_a_snapshot_is_left_to_the_kernel() {
    let place = PoolFile::new("left-again");
    let pool = pool_of(&place, 512 * MIB);
    let size = 128 * MIB;
    let mut vm = Vm::start(&pool, size, None);
    let frames = size / FRAME;
    vm.fill(0..frames, 1);
    vm.snapshot("s").unwrap();
    if !vm.engine.unarmed.is_allowed() {
        return;
    }
    let written = || (0..frames).step_by(100);
    vm.fill(written(), 2);
    let counters = vm.engine.counters();
    let chunks = frames / 512;
    // The first 16 chunks show what the guest does.
    assert!(counters.frames_copied <= 16 * 6 * 16, "{counters:?}");
    assert!(counters.write_faults <= 16 * 6, "{counters:?}");
    assert!(vm.engine.chunks.unreconciled() as u64 >= chunks - 16);
    vm.assert_filled(written(), 2);
    vm.snapshot("t").unwrap();
    vm.fill(written(), 3);
    for (name, seed) in [("s", 1), ("t", 2)] {
        let copy = Vm::start(&pool, size, Some(name));
        copy.assert_filled(written(), seed);
        copy.assert_filled((0..frames).filter(|frame| frame % 100 != 0), 1);
    }
    vm.assert_filled(written(), 3);
    assert_clean(&pool);
}

#[test]
fn a_guest_that_writes_in_a_row_after_a_snapshot_is_not_left_to_the_kernel() {
    let place = PoolFile::new("left-row");
    let pool = pool_of(&place, 512 * MIB);
    let size = 128 * MIB;
    let mut vm = Vm::start(&pool, size, None);
    let frames = size / FRAME;
    vm.fill(0..frames, 1);
    vm.snapshot("s").unwrap();
    vm.fill(0..frames, 2);
    assert!(vm.engine.chunks.are_reconciled());
    assert_eq!(vm.engine.counters().frames_own, frames);
    assert_clean(&pool);
}
