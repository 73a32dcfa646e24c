//! Guests that write most of their memory, and those that do not.

use std::{ops::Range, sync::Arc};

use nvvmm_snapshot::Pool;

use super::engine_test::Vm;
use crate::cow::{
    CowEngine, Techniques,
    test_guest::{FRAME, MIB, PoolFile, assert_clean, assert_hold_their_own, ballast, pool_of},
};

const CHUNK: u64 = 512;
const VM_MIB: u64 = 64;
const FRAMES: u64 = VM_MIB * MIB / FRAME;

/// True if the techniques of dense writers are on.
fn are_on() -> bool {
    let techniques = Techniques::from_environment().unwrap();
    let on = techniques.dense_chunks && techniques.next_chunks && techniques.huge_pages;
    if !on {
        eprintln!("SKIPPED: NVVMM_TEST_WITHOUT");
    }
    on
}

/// A VM that has written all of its memory, with a snapshot of that.
fn full_vm(pool: &Arc<Pool>) -> Vm {
    let mut vm = Vm::start(pool, VM_MIB * MIB, None);
    vm.fill(0..FRAMES, 1000);
    vm.snapshot("base").unwrap();
    vm
}

/// Waits until the fault thread has nothing left to copy ahead.
fn settle(vm: &Vm) {
    let copied = || vm.engine.counters().chunks_copied_next;
    let mut before = copied();
    loop {
        std::thread::sleep(std::time::Duration::from_millis(20));
        let now = copied();
        if now == before {
            return;
        }
        before = now;
    }
}

#[test]
fn who_rewrites_all_of_memory_is_held_for_few_chunks() {
    let place = PoolFile::new("dense");
    let pool = pool_of(&place, 512 * MIB);
    let mut vm = full_vm(&pool);
    for round in 1..4 {
        let before = vm.engine.counters();
        vm.fill(0..FRAMES, round * 100_000);
        settle(&vm);
        let after = vm.engine.counters();
        if are_on() {
            let faults = after.write_faults - before.write_faults;
            assert!(faults <= 40, "{faults} faults for 32 chunks");
            let copied = after.chunks_copied - before.chunks_copied;
            assert!(copied >= 28, "{copied} chunks of 32 copied whole");
            let copied = after.frames_copied - before.frames_copied;
            assert!(copied <= FRAMES + 2 * CHUNK, "{copied} frames copied");
            assert!(after.mappings <= before.mappings + 1);
        }
        vm.snapshot(&format!("s{round}")).unwrap();
        vm.assert_filled(0..FRAMES, round * 100_000);
    }
    for (name, seed) in [("base", 1000), ("s1", 100_000), ("s3", 300_000)] {
        Vm::start(&pool, VM_MIB * MIB, Some(name)).assert_filled(0..FRAMES, seed);
    }
    assert_hold_their_own(&pool, &[&vm]);
    assert_clean(&pool);
}

#[test]
fn who_writes_here_and_there_has_no_chunk_copied() {
    let place = PoolFile::new("sparse");
    let pool = pool_of(&place, 256 * MIB);
    let vm = full_vm(&pool);
    let written: Vec<u64> = (0..FRAMES / 100).map(|at| at * 7919 % FRAMES).collect();
    vm.fill(written.iter().copied(), 5000);
    let counters = vm.engine.counters();
    assert_eq!(
        (counters.chunks_copied, counters.chunks_copied_next),
        (0, 0)
    );
    assert!(counters.frames_own <= 16 * written.len() as u64);
    vm.assert_filled(written.into_iter(), 5000);
    assert_clean(&pool);
}

#[test]
fn a_copy_that_writes_a_mebibyte_takes_no_more_than_half_of_it_besides() {
    let place = PoolFile::new("mebibyte");
    let pool = pool_of(&place, 256 * MIB);
    drop(full_vm(&pool));
    for start in [0, 256, 1024, 3328] {
        let copy = Vm::start(&pool, VM_MIB * MIB, Some("base"));
        copy.fill(start..start + 256, 5000);
        settle(&copy);
        let own = copy.engine.counters().frames_own;
        assert!(own <= 384, "{own} frames for 256, from {start} on");
    }
    assert_clean(&pool);
}

#[test]
fn a_chunk_that_is_written_in_part_at_random_is_copied_whole() {
    let place = PoolFile::new("half");
    let pool = pool_of(&place, 256 * MIB);
    let vm = full_vm(&pool);
    // 16 frames around each of these. A quarter of the chunk is enough for a huge page.
    let before = if pool.huge_pages_are_likely() { 8 } else { 16 };
    let places = |of: Range<u64>| of.map(|at| (at * 7 % 32) * 16 + 5);
    vm.fill(places(0..before), 5000);
    assert_eq!(vm.engine.counters().chunks_copied, 0);
    vm.fill(places(before..before + 1), 5000);
    let counters = vm.engine.counters();
    if are_on() {
        assert_eq!((counters.chunks_copied, counters.frames_own), (1, CHUNK));
        assert_eq!(counters.write_faults, before + 1);
    }
    vm.fill(places(before + 1..32), 5000);
    vm.assert_filled((0..32).map(|at| at * 16 + 5), 5000);
    vm.assert_filled((0..32).map(|at| at * 16 + 6), 1000);
    if are_on() {
        assert_eq!(vm.engine.counters().write_faults, counters.write_faults);
    }
    assert_hold_their_own(&pool, &[&vm]);
    assert_clean(&pool);
}

#[test]
fn a_pool_that_fills_ends_copies_of_whole_chunks_and_nothing_else() {
    let place = PoolFile::new("dense-full");
    let pool = pool_of(&place, (2 * VM_MIB + 20) * MIB);
    let mut vm = full_vm(&pool);
    vm.fill(0..FRAMES, 5000);
    vm.assert_filled(0..FRAMES, 5000);
    pool.remove("base").unwrap();
    let kept = ballast(&pool);
    drop(kept);
    vm.snapshot("next").unwrap();
    vm.assert_filled(0..FRAMES, 5000);
    assert_clean(&pool);
}

#[test]
fn a_copy_that_writes_all_of_its_memory_differs_from_its_snapshot_and_nothing_else_does() {
    let place = PoolFile::new("dense-copy");
    let pool = pool_of(&place, 512 * MIB);
    drop(full_vm(&pool));
    let copies = ["one", "two"].map(|_| Vm::start(&pool, VM_MIB * MIB, Some("base")));
    std::thread::scope(|scope| {
        for (copy, seed) in copies.iter().zip([50_000, 90_000]) {
            scope.spawn(move || copy.fill(0..FRAMES, seed));
        }
    });
    for (copy, seed) in copies.iter().zip([50_000, 90_000]) {
        copy.assert_filled(0..FRAMES, seed);
    }
    Vm::start(&pool, VM_MIB * MIB, Some("base")).assert_filled(0..FRAMES, 1000);
    assert_hold_their_own(&pool, &[&copies[0], &copies[1]]);
    assert_clean(&pool);
}
