//! Tests of what a first touch maps and copies.

use std::sync::Arc;

use nvvmm_snapshot::Pool;

use super::engine_test::Vm;
use crate::cow::{
    counters::Counters,
    test_guest::{FRAME, MIB, PoolFile, assert_clean, assert_hold_their_own, pool_of},
    *,
};

const SIZE: u64 = 64 * MIB;
const FRAMES: u64 = SIZE / FRAME;
const CHUNKS: u64 = SIZE / CHUNK_SIZE_BYTES as u64;

fn restored(pool: &Arc<Pool>) -> Option<Vm> {
    let mut vm = Vm::start(pool, SIZE, None);
    vm.fill(0..FRAMES, 1);
    vm.snapshot("s").unwrap();
    drop(vm);
    let vm = Vm::start(pool, SIZE, Some("s"));
    vm.engine.unarmed.is_allowed().then_some(vm)
}

fn prepared(vm: &Vm) -> u64 {
    Counters::get(&vm.engine.chunks.counters().chunks_prepared)
}

#[test]
fn a_guest_that_writes_all_gets_copies_of_whole_chunks() {
    let place = PoolFile::new("first-dense");
    let pool = pool_of(&place, 256 * MIB);
    let Some(mut vm) = restored(&pool) else {
        return;
    };
    vm.fill(0..FRAMES, 2);
    let counters = vm.engine.counters();
    assert_eq!((counters.write_faults, counters.chunk_faults), (0, CHUNKS));
    if Techniques::from_environment().unwrap().prepare_whole {
        // The first chunk shows what the guest does, and the 2nd, 4th, 8th and 16th behind it
        // whether it still does.
        assert_eq!(prepared(&vm), CHUNKS - 5, "{counters:?}");
    }
    vm.assert_filled(0..FRAMES, 2);
    vm.snapshot("t").unwrap();
    for (name, seed) in [("s", 1), ("t", 2)] {
        Vm::start(&pool, SIZE, Some(name)).assert_filled(0..FRAMES, seed);
    }
    assert_clean(&pool);
}

#[test]
fn a_guest_that_stops_writing_all_gets_few_copies_more() {
    let place = PoolFile::new("first-stops");
    let pool = pool_of(&place, 256 * MIB);
    let Some(mut vm) = restored(&pool) else {
        return;
    };
    vm.fill(0..8 * 512, 2);
    vm.fill((8 * 512..FRAMES).step_by(512), 3);
    let before = prepared(&vm);
    assert!(before <= 7, "no more than were written: {before}");
    // What was prepared and not touched goes back.
    vm.snapshot("t").unwrap();
    assert_hold_their_own(&pool, &[&vm]);
    let copy = Vm::start(&pool, SIZE, Some("t"));
    copy.assert_filled(0..8 * 512, 2);
    copy.assert_filled((8 * 512..FRAMES).step_by(512), 3);
    copy.assert_filled((8 * 512..FRAMES).filter(|frame| frame % 512 != 0), 1);
    assert_clean(&pool);
}

#[test]
fn copies_that_nobody_touched_go_back_before_a_snapshot() {
    let place = PoolFile::new("first-untouched");
    let pool = pool_of(&place, 256 * MIB);
    let Some(mut vm) = restored(&pool) else {
        return;
    };
    vm.fill(0..16 * 512, 2);
    while vm.engine.prepare_next().unwrap() {}
    vm.snapshot("t").unwrap();
    assert!(
        pool.snapshots()
            .unwrap()
            .iter()
            .all(|s| s.frames_new <= FRAMES),
        "an entry counts what is new"
    );
    let copied = vm.engine.counters().frames_own;
    assert_eq!(copied, 0, "all of it is in the snapshot");
    let copy = Vm::start(&pool, SIZE, Some("t"));
    copy.assert_filled(0..16 * 512, 2);
    copy.assert_filled(16 * 512..FRAMES, 1);
    vm.fill(0..FRAMES, 4);
    vm.assert_filled(0..FRAMES, 4);
    copy.assert_filled(16 * 512..FRAMES, 1);
    assert_hold_their_own(&pool, &[&vm, &copy]);
    assert_clean(&pool);
}

#[test]
fn a_guest_that_touches_little_is_held_less_and_less() {
    let place = PoolFile::new("first-along");
    let pool = pool_of(&place, 256 * MIB);
    let Some(vm) = restored(&pool) else {
        return;
    };
    let before = vm.engine.kernel_calls();
    vm.fill((0..FRAMES).step_by(512), 2);
    let counters = vm.engine.counters();
    let calls = vm.engine.kernel_calls().since(&before);
    assert!(
        counters.chunk_faults <= 6,
        "1, 2, 4, 8, 16, 32 chunks: {counters:?}"
    );
    assert_eq!(
        (calls.mmap, calls.register, calls.protect),
        (counters.chunk_faults, 0, 0)
    );
    vm.assert_filled((0..FRAMES).step_by(512), 2);
    vm.assert_filled((0..FRAMES).filter(|frame| frame % 512 != 0), 1);
    assert_clean(&pool);
}

#[test]
fn a_guest_that_reads_all_meets_page_tables_that_are_filled() {
    let place = PoolFile::new("first-reads");
    let pool = pool_of(&place, 256 * MIB);
    let Some(vm) = restored(&pool) else {
        return;
    };
    vm.assert_filled(0..3 * 512, 1);
    // One access to the next chunk fills all of it.
    assert_eq!(vm.read(3 * 512), 1 + 3 * 512);
    let present = vm
        .engine
        .mapping
        .present_pages(nvvmm_snapshot::ChunkIndex::new(3));
    assert_eq!(present.unwrap(), CHUNK_FRAMES);
    assert_eq!(vm.engine.counters().frames_copied, 0);
    assert_clean(&pool);
}
