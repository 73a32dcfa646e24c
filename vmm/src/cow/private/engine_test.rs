//! The engine over pools in files on disk; threads of the test play the guest. What both engines
//! promise alike is in the stress test.

use std::{
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};

use crate::cow::{
    test_guest::{FRAME, MIB, PoolFile, assert_clean, consuming, pool_of},
    *,
};

pub(super) type Vm = crate::cow::test_guest::Vm<PrivateEngine>;

/// On a disk, as far as this machine has one: the engine does the same on any medium.
pub(super) fn place(name: &str) -> PoolFile {
    PoolFile::on(Path::new("/var/tmp"), name)
}

#[test]
fn a_booted_guest_has_plain_memory_and_no_blocks() {
    let place = place("plain");
    let pool = pool_of(&place, 16 * MIB);
    let vm = Vm::start(&pool, 2048 * MIB, None);
    assert_eq!(vm.read(5), 0);
    vm.fill(1000..1010, 1);
    let counters = vm.engine.counters_now(&vm.log).unwrap();
    assert_eq!((counters.chunk_faults, counters.frames_mapped), (0, 0));
    assert_eq!(counters.frames_own, 10, "what vCPUs and devices wrote");
    assert_eq!(
        vm.engine.counters().frames_own,
        0,
        "to look does not take note"
    );
    assert_eq!(vm.mappings_of_the_kernel(), 1);
}

#[test]
fn a_restored_guest_sees_the_instant_and_neither_side_sees_the_other() {
    let place = place("isolate");
    let pool = pool_of(&place, 128 * MIB);
    let frames = 8 * MIB / FRAME;
    let mut original = Vm::start(&pool, 8 * MIB, None);
    original.fill(0..frames, 1000);
    original.snapshot("first").unwrap();
    original.fill((0..frames).step_by(3), 2_000_000);
    let left = Vm::start(&pool, 8 * MIB, Some("first"));
    let right = Vm::start(&pool, 8 * MIB, Some("first"));
    left.assert_filled(0..frames, 1000);
    left.fill((0..frames).step_by(7), 3_000_000);
    right.fill((1..frames).step_by(5), 4_000_000);
    for frame in 0..frames {
        let expected = if frame % 7 == 0 { 3_000_000 } else { 1000 };
        assert_eq!(left.read(frame), expected + frame, "left, frame {frame}");
        let expected = if frame % 5 == 1 { 4_000_000 } else { 1000 };
        assert_eq!(right.read(frame), expected + frame, "right, frame {frame}");
        let expected = if frame % 3 == 0 { 2_000_000 } else { 1000 };
        assert_eq!(
            original.read(frame),
            expected + frame,
            "original, frame {frame}"
        );
    }
    assert_clean(&pool);
}

#[test]
fn a_snapshot_copies_what_was_written_since_the_last_one_and_nothing_else() {
    let place = place("incremental");
    let pool = pool_of(&place, 64 * MIB);
    let mut vm = Vm::start(&pool, 16 * MIB, None);
    vm.fill(0..4096, 10);
    vm.snapshot("one").unwrap();
    let after_one = vm.engine.counters();
    assert_eq!(after_one.frames_copied, 4096);
    assert_eq!((after_one.frames_own, after_one.frames_shared), (0, 4096));
    assert_eq!(vm.engine.dirty_chunks(), 0);
    vm.write(100, 1);
    vm.write(3001, 2);
    let counters = vm.engine.counters_now(&vm.log).unwrap();
    assert_eq!((counters.frames_own, counters.frames_shared), (2, 4094));
    vm.snapshot("two").unwrap();
    assert_eq!(vm.engine.counters().frames_copied, 4098);
    drop(vm);
    let copy = Vm::start(&pool, 16 * MIB, Some("two"));
    assert_eq!((copy.read(100), copy.read(3001)), (1, 2));
    copy.assert_filled((0..4096).filter(|frame| ![100, 3001].contains(frame)), 10);
    let old = Vm::start(&pool, 16 * MIB, Some("one"));
    old.assert_filled(0..4096, 10);
    assert_clean(&pool);
}

#[test]
fn whole_chunks_are_copied_to_whole_chunks() {
    let place = place("whole");
    let pool = pool_of(&place, 32 * MIB);
    let mut vm = Vm::start(&pool, 4 * MIB, None);
    vm.fill(0..1024, 1);
    vm.snapshot("s").unwrap();
    drop(vm);
    let copy = Vm::start(&pool, 4 * MIB, Some("s"));
    copy.assert_filled(0..1024, 1);
    assert_eq!(copy.engine.counters().chunk_faults, 2);
    assert!(
        copy.engine.counters().mappings <= 2,
        "a mapping for each chunk at most"
    );
}

#[test]
fn what_is_written_while_it_is_copied_is_copied_again() {
    let place = place("churn");
    let pool = pool_of(&place, 128 * MIB);
    let mut vm = Vm::start(&pool, 8 * MIB, None);
    vm.fill(0..2048, 1);
    let stop = AtomicBool::new(false);
    let (ahead, last) = std::thread::scope(|scope| {
        let (churned, stopped) = (&vm, &stop);
        let writer = scope.spawn(move || {
            let mut number = 0;
            while !stopped.load(Ordering::Relaxed) {
                churned.write(number % 2048, number);
                number += 1;
            }
            number
        });
        // More than the writer needs to be seen at work.
        while vm.read(1) == 2 {
            std::thread::yield_now();
        }
        let ahead = vm.copy_ahead().unwrap();
        stop.store(true, Ordering::Relaxed);
        (ahead, writer.join().unwrap())
    });
    assert!(ahead.rounds >= 2, "{ahead:?}");
    assert!(ahead.frames >= 2048, "{ahead:?}");
    let mut reservation = vm.holder.reserve(16 + ahead.room_blocks).unwrap();
    let room = reservation.split_off(ahead.room_blocks);
    let set = vm.share_and_arm(room);
    vm.commit("s", set, reservation).unwrap();
    let expected: Vec<u64> = (0..2048).map(|frame| vm.read(frame)).collect();
    drop(vm);
    assert!(last > 0, "the writer wrote");
    let copy = Vm::start(&pool, 8 * MIB, Some("s"));
    for (frame, value) in expected.iter().enumerate() {
        assert_eq!(copy.read(frame as u64), *value, "frame {frame}");
    }
    assert_clean(&pool);
}

#[test]
fn a_chunk_in_many_pieces_is_filled_instead_of_mapped() {
    let place = place("pieces");
    let pool = pool_of(&place, 64 * MIB);
    let mut vm = Vm::start(&pool, 4 * MIB, None);
    // Every other frame is a hole, and neighbours lie apart.
    vm.fill((0..512).step_by(2), 1);
    vm.snapshot("s").unwrap();
    drop(vm);
    let copy = Vm::start(&pool, 4 * MIB, Some("s"));
    std::thread::scope(|scope| {
        for writer in 0..4u64 {
            let copy = &copy;
            scope.spawn(move || copy.fill((writer..512).step_by(8), 9));
        }
    });
    for frame in 0..512 {
        let expected = match frame % 8 {
            0..4 => 9 + frame,
            4 | 6 => 1 + frame,
            _ => 0,
        };
        assert_eq!(copy.read(frame), expected, "frame {frame}");
    }
    assert_eq!(copy.mappings_of_the_kernel(), 1, "nothing was mapped");
    assert_eq!(copy.engine.counters().mappings, 1);
}

#[test]
fn the_budget_of_mappings_holds_and_what_is_past_it_is_filled() {
    let place = place("budget");
    let pool = pool_of(&place, 128 * MIB);
    let mut vm = Vm::start(&pool, 32 * MIB, None);
    // Every other chunk, so that each mapping is one of its own.
    let written = (0..8192u64).filter(|frame| frame / 512 % 2 == 0);
    vm.fill(written.clone(), 3);
    vm.snapshot("s").unwrap();
    drop(vm);
    for limit in [1, 6, 12] {
        let copy = Vm::with_budget(&pool, 32 * MIB, Some("s"), Budget::with_limit(limit));
        copy.assert_filled(written.clone(), 3);
        assert_eq!(copy.read(600), 0);
        let (counted, real) = (
            copy.engine.counters().mappings,
            copy.mappings_of_the_kernel(),
        );
        assert!(real <= counted, "{real} mappings, {counted} counted");
        assert!(counted <= limit.max(1) + 2, "{counted} mappings of {limit}");
    }
}

#[test]
fn a_consumed_snapshot_costs_no_copies_until_it_is_written_to() {
    let place = place("consume");
    let pool = pool_of(&place, 64 * MIB);
    let mut vm = Vm::start(&pool, 4 * MIB, None);
    vm.fill(0..1024, 1);
    vm.snapshot("only").unwrap();
    drop(vm);
    let mut vm: Vm = consuming(&pool, 4 * MIB, "only");
    assert!(pool.snapshots().unwrap().is_empty());
    vm.fill(0..10, 2);
    vm.snapshot("next").unwrap();
    assert_eq!(
        vm.engine.counters().frames_copied,
        10,
        "over the blocks that the guest had"
    );
    vm.assert_filled(10..1024, 1);
    drop(vm);
    let copy = Vm::start(&pool, 4 * MIB, Some("next"));
    copy.assert_filled(0..10, 2);
    copy.assert_filled(10..1024, 1);
    assert_clean(&pool);
}

#[test]
fn prefaulted_memory_is_the_same_and_still_isolated() {
    let place = place("prefault");
    let pool = pool_of(&place, 64 * MIB);
    let mut vm = Vm::start(&pool, 8 * MIB, None);
    vm.fill(0..2048, 5);
    vm.snapshot("s").unwrap();
    let copy = Vm::start(&pool, 8 * MIB, Some("s"));
    copy.engine.prefault().unwrap();
    copy.assert_filled(0..2048, 5);
    assert_eq!(copy.engine.counters().chunk_faults, 0);
    copy.fill(0..2048, 6);
    vm.assert_filled(0..2048, 5);
    let mut once: Vm = consuming_after(vm, &pool);
    once.engine.prefault().unwrap();
    once.assert_filled(0..2048, 7);
    assert_eq!(once.engine.counters().chunk_faults, 0);
    once.snapshot("t").unwrap();
    assert_clean(&pool);
}

/// A VM that consumes a snapshot taken of `vm` with other content.
fn consuming_after(mut vm: Vm, pool: &std::sync::Arc<nvvmm_snapshot::Pool>) -> Vm {
    vm.fill(0..2048, 7);
    vm.snapshot("other").unwrap();
    drop(vm);
    consuming(pool, 8 * MIB, "other")
}
