//! Guests that write much of what is left to the kernel, and those that write little of it.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use nvvmm_snapshot::Pool;

use super::{DENSE_CHUNKS, DENSE_PAGES};
use crate::cow::{
    CHUNK_FRAMES, CowEngine, Techniques,
    redirect::engine_test::Vm,
    test_guest::{FRAME, MIB, PoolFile, assert_clean, assert_hold_their_own, pool_of},
};

const SIZE: u64 = 64 * MIB;
const FRAMES: u64 = SIZE / FRAME;
const CHUNKS: u64 = FRAMES / CHUNK_FRAMES as u64;

/// A VM from a snapshot of a guest that has written all of its memory. `None` where the techniques
/// are off, or the kernel makes no huge page.
fn restored(pool: &Arc<Pool>) -> Option<Vm> {
    let mut vm = Vm::start(pool, SIZE, None);
    vm.fill(0..FRAMES, 1);
    vm.snapshot("s").unwrap();
    drop(vm);
    let vm = Vm::start(pool, SIZE, Some("s"));
    let techniques = Techniques::from_environment().unwrap();
    let on = techniques.dense_chunks && techniques.huge_pages && techniques.leave_unarmed;
    if !on {
        eprintln!("SKIPPED: NVVMM_TEST_WITHOUT");
    }
    on.then_some(vm)
}

/// Frames of the first `chunks` chunks, `pages` of each, in an order that goes from one chunk to
/// the next.
fn here_and_there(chunks: u64, pages: u32) -> impl Iterator<Item = u64> {
    let chunk_frames = u64::from(CHUNK_FRAMES);
    (0..u64::from(pages)).flat_map(move |page| {
        (0..chunks).map(move |chunk| chunk * chunk_frames + (page * 7919 + chunk) % chunk_frames)
    })
}

#[test]
fn who_writes_a_part_of_many_chunks_gets_copies_of_them() {
    let place = PoolFile::new("watched");
    let pool = pool_of(&place, 384 * MIB);
    let Some(mut vm) = restored(&pool) else {
        return;
    };
    let pages = DENSE_PAGES + 8;
    vm.fill(here_and_there(CHUNKS, pages), 2);
    let until = Instant::now() + Duration::from_secs(20);
    while pool.huge_pages_are_likely() && vm.engine.counters().chunks_copied < CHUNKS {
        assert!(Instant::now() < until, "{:?}", vm.engine.counters());
        std::thread::sleep(Duration::from_millis(5));
    }
    vm.assert_filled(here_and_there(CHUNKS, pages), 2);
    vm.snapshot("t").unwrap();
    let others = |frame: &u64| !here_and_there(CHUNKS, pages).any(|written| written == *frame);
    let copy = Vm::start(&pool, SIZE, Some("t"));
    copy.assert_filled(here_and_there(CHUNKS, pages), 2);
    copy.assert_filled((0..FRAMES).step_by(97).filter(others), 1);
    Vm::start(&pool, SIZE, Some("s")).assert_filled(0..FRAMES, 1);
    drop(copy);
    assert_hold_their_own(&pool, &[&vm]);
    assert_clean(&pool);
}

#[test]
fn who_writes_a_part_of_few_chunks_or_little_of_many_does_not() {
    let place = PoolFile::new("unwatched");
    let pool = pool_of(&place, 384 * MIB);
    let Some(vm) = restored(&pool) else {
        return;
    };
    vm.fill(
        here_and_there(u64::from(DENSE_CHUNKS) - 1, DENSE_PAGES + 8),
        2,
    );
    vm.fill(here_and_there(CHUNKS, DENSE_PAGES / 2), 2);
    // The fault thread looks as well: chunks that have rested are moved to blocks after a second.
    for _ in 0..100 {
        while vm.engine.watch_left().unwrap() {}
        std::thread::sleep(Duration::from_millis(2));
    }
    let counters = vm.engine.counters();
    assert_eq!(counters.chunks_copied, 0, "{counters:?}");
    assert_clean(&pool);
}
