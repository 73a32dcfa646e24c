//! The engine over a real pool on tmpfs; threads of the test play the guest.

use crate::cow::{
    test_guest::{FRAME, MIB, PoolFile, assert_clean, assert_hold_their_own, pool_of},
    *,
};

pub(super) type Vm = crate::cow::test_guest::Vm<RedirectEngine>;

#[test]
fn memory_that_was_never_written_is_zero_and_costs_nothing() {
    let place = PoolFile::new("zero");
    let pool = pool_of(&place, 64 * MIB);
    let vm = Vm::start(&pool, 4096 * MIB, None);
    assert_eq!(vm.read(5), 0);
    assert_eq!(vm.engine.counters().chunk_faults, 1);
    assert_eq!(vm.engine.counters().frames_mapped, 16, "a cluster");
}

#[test]
fn a_restored_guest_sees_the_instant_and_neither_side_sees_the_other() {
    let place = PoolFile::new("isolate");
    let pool = pool_of(&place, 256 * MIB);
    let frames = 16 * MIB / FRAME;
    let mut original = Vm::start(&pool, 16 * MIB, None);
    original.fill(0..frames, 1000);
    original.snapshot("first").unwrap();
    original.fill((0..frames).step_by(3), 2_000_000);
    let left = Vm::start(&pool, 16 * MIB, Some("first"));
    let right = Vm::start(&pool, 16 * MIB, Some("first"));
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
fn sharing_copies_nothing_and_only_what_changed_is_shared_again() {
    let place = PoolFile::new("incremental");
    let pool = pool_of(&place, 128 * MIB);
    let mut vm = Vm::start(&pool, 32 * MIB, None);
    vm.fill(0..8192, 10);
    vm.snapshot("one").unwrap();
    assert_eq!(vm.engine.counters().frames_copied, 0);
    assert_eq!(vm.engine.counters().frames_own, 0);
    assert_eq!(vm.engine.dirty_chunks(), 0);
    vm.write(100, 1);
    vm.write(5000, 2);
    let counters = vm.engine.counters();
    assert_eq!(counters.write_faults, 2);
    assert_eq!(counters.frames_copied, 32, "two clusters of 16 frames");
    assert_eq!(counters.frames_own, 32);
    assert_eq!(vm.engine.dirty_chunks(), 2);
    vm.snapshot("two").unwrap();
    assert_clean(&pool);
}

#[test]
fn a_copy_takes_one_mapping_and_an_unchanged_snapshot_no_call() {
    let place = PoolFile::new("calls");
    let pool = pool_of(&place, 128 * MIB);
    let mut vm = Vm::start(&pool, 32 * MIB, None);
    vm.fill(0..8192, 10);
    let filled = vm.engine.kernel_calls();
    assert_eq!(
        (filled.mmap, filled.protect),
        (26, 0),
        "10 for the first chunk, 2 for the second, and one for each of the others: {filled:?}"
    );
    vm.snapshot("one").unwrap();
    let armed = vm.engine.kernel_calls().since(&filled);
    assert_eq!(
        (armed.ioctls(), armed.protect, armed.mmap),
        (1, 1, 0),
        "one for all of memory: {armed:?}"
    );
    let before = vm.engine.kernel_calls();
    vm.write(100, 1);
    vm.write(5000, 2);
    let copied = vm.engine.kernel_calls().since(&before);
    assert_eq!(
        (copied.mmap, copied.register, copied.wake),
        (2, 2, 2),
        "{copied:?}"
    );
    assert_eq!(copied.protect, 0, "the copies are the VM's own");
    let before = vm.engine.kernel_calls();
    vm.snapshot("two").unwrap();
    let armed = vm.engine.kernel_calls().since(&before);
    assert_eq!(
        (armed.ioctls(), armed.protect, armed.mmap),
        (2, 2, 0),
        "{armed:?}"
    );
    let before = vm.engine.kernel_calls();
    vm.snapshot("three").unwrap();
    assert_eq!(vm.engine.kernel_calls(), before);
}

#[test]
fn an_uncommitted_snapshot_leaves_the_vm_as_it_was() {
    let place = PoolFile::new("rollback");
    let pool = pool_of(&place, 64 * MIB);
    let mut vm = Vm::start(&pool, 4 * MIB, None);
    vm.fill(0..1024, 1);
    vm.snapshot("taken").unwrap();
    vm.fill(0..1024, 2);
    let own = vm.engine.counters().frames_own;
    assert!(vm.snapshot("taken").is_err(), "the name is taken");
    assert_eq!(vm.engine.counters().frames_own, own);
    let copied = vm.engine.counters().frames_copied;
    vm.fill(0..1024, 3);
    assert_eq!(
        vm.engine.counters().frames_copied,
        copied,
        "own frames need no copy"
    );
    vm.assert_filled(0..1024, 3);
    vm.snapshot("again").unwrap();
    assert_clean(&pool);
}

#[test]
fn a_sequential_writer_faults_far_less_than_once_a_cluster() {
    let place = PoolFile::new("sequential");
    let pool = pool_of(&place, 64 * MIB);
    let mut vm = Vm::start(&pool, 2 * MIB, None);
    vm.fill(0..512, 1);
    vm.snapshot("s").unwrap();
    vm.fill(0..512, 2);
    assert_eq!(
        vm.engine.counters().write_faults,
        6,
        "16, 32, 64, 128, 256, 512"
    );
    vm.assert_filled(0..512, 2);
}

#[test]
fn the_budget_of_mappings_holds_under_the_worst_pattern() {
    let place = PoolFile::new("budget");
    let pool = pool_of(&place, 256 * MIB);
    let limit = 100;
    let mut vm = Vm::with_budget(&pool, 32 * MIB, None, Budget::with_limit(limit));
    vm.fill(0..8192, 0);
    for epoch in 1..12u64 {
        vm.snapshot(&format!("e{epoch}")).unwrap();
        let pages: Vec<u64> = (0..8192)
            .filter(|page| page % 64 == epoch * 5 % 64)
            .collect();
        pages
            .iter()
            .for_each(|page| vm.write(*page, epoch * 100_000));
        pages
            .iter()
            .for_each(|page| assert_eq!(vm.read(*page), epoch * 100_000));
        let mappings = vm.engine.counters().mappings;
        assert!(mappings <= limit, "{mappings} mappings in epoch {epoch}");
        let real = vm.mappings_of_the_kernel();
        assert!(
            real <= mappings,
            "{real} mappings in epoch {epoch}, {mappings} counted"
        );
        if epoch > 1 {
            pool.remove(&format!("e{}", epoch - 1)).unwrap();
        }
        assert_hold_their_own(&pool, &[&vm]);
    }
    assert_clean(&pool);
}

#[test]
fn the_budget_holds_when_every_other_frame_is_written_in_turn() {
    let place = PoolFile::new("turn");
    let pool = pool_of(&place, 64 * MIB);
    let (frames, limit) = (8 * MIB / FRAME, 400);
    let policy = CopyPolicy {
        mappings_max: Some(limit),
        ..CopyPolicy::fixed(1)
    };
    let mut vm = Vm::with_budget(&pool, 8 * MIB, None, Budget::of(policy));
    vm.fill(0..frames, 0);
    let (mut most, epochs) = (0, 40);
    for epoch in 1..=epochs {
        vm.snapshot(&format!("e{epoch}")).unwrap();
        let before = vm.engine.counters();
        let written: Vec<u64> = (0..frames).filter(|frame| frame % 2 == epoch % 2).collect();
        for frame in &written {
            vm.write(*frame, epoch * 100_000 + frame);
            most = most.max(vm.engine.counters().mappings);
        }
        let after = vm.engine.counters();
        let real = vm.mappings_of_the_kernel();
        assert!(
            real <= after.mappings,
            "{real}, counted {} in epoch {epoch}",
            after.mappings
        );
        // Each frame is copied once in an epoch, and once more where its chunk becomes one mapping.
        let copied = after.frames_copied - before.frames_copied;
        assert!(
            (written.len() as u64..=2 * frames).contains(&copied),
            "{copied} frames copied in epoch {epoch}"
        );
        for frame in written {
            assert_eq!(vm.read(frame), epoch * 100_000 + frame);
        }
        if epoch > 1 {
            pool.remove(&format!("e{}", epoch - 1)).unwrap();
        }
    }
    assert!(
        (limit / 2..=limit).contains(&most),
        "{most} mappings of {limit}"
    );
    assert_hold_their_own(&pool, &[&vm]);
    assert_clean(&pool);
}

#[test]
fn a_chunk_that_is_copied_whole_gives_back_the_copies_it_had() {
    let place = PoolFile::new("whole");
    let pool = pool_of(&place, 64 * MIB);
    let mut vm = Vm::with_budget(&pool, 4 * MIB, None, Budget::with_limit(100));
    vm.fill(0..1024, 0);
    vm.snapshot("s").unwrap();
    vm.write(0, 1);
    let few = vm.engine.counters().frames_own;
    // As if other chunks had used the budget up.
    vm.engine.mapping.budget().changed(0, 100);
    vm.write(256, 2);
    assert!(few < 512 && vm.engine.counters().frames_own == 512);
    assert_eq!((vm.read(0), vm.read(256)), (1, 2));
    assert_hold_their_own(&pool, &[&vm]);
    assert_clean(&pool);
}

#[test]
fn concurrent_writers_lose_nothing() {
    let place = PoolFile::new("concurrent");
    let pool = pool_of(&place, 256 * MIB);
    let frames = 8 * MIB / FRAME;
    let mut first = Vm::start(&pool, 8 * MIB, None);
    first.fill(0..frames, 7);
    first.snapshot("s").unwrap();
    drop(first);
    let vm = Vm::start(&pool, 8 * MIB, Some("s"));
    // Neighbouring frames belong to different writers, so that first touches, unarmed writes and
    // copies all meet.
    std::thread::scope(|scope| {
        for writer in 0..4u64 {
            let vm = &vm;
            scope.spawn(move || vm.fill((writer..frames).step_by(4), 1 << 40));
        }
    });
    vm.assert_filled(0..frames, 1 << 40);
    vm.copy_ahead().unwrap();
    assert_eq!(vm.engine.counters().frames_own, frames);
    vm.assert_filled(0..frames, 1 << 40);
    let again = Vm::start(&pool, 8 * MIB, Some("s"));
    again.assert_filled(0..frames, 7);
    assert_clean(&pool);
}

#[test]
fn a_write_to_a_full_pool_waits_until_there_is_space() {
    let place = PoolFile::new("full");
    let pool = pool_of(&place, 16 * MIB);
    let mut vm = Vm::start(&pool, 8 * MIB, None);
    vm.fill(0..1024, 1);
    vm.snapshot("kept").unwrap();
    let ballast = pool.hold("ballast").unwrap();
    while ballast.take_blocks(1).is_ok() {}
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            vm.fill(0..1024, 2);
        });
        while !vm.faults.is_starved() {
            assert!(
                !writer.is_finished(),
                "the pool has no block, so the writer must wait"
            );
            std::thread::yield_now();
        }
        drop(ballast);
        writer.join().unwrap();
    });
    vm.assert_filled(0..1024, 2);
    assert_clean(&pool);
}

#[test]
fn prefaulted_memory_is_the_same_and_still_isolated() {
    let place = PoolFile::new("prefault");
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
    assert_clean(&pool);
}

#[test]
fn untouched_stretches_between_chunks_are_counted_too() {
    let place = PoolFile::new("stretches");
    let pool = pool_of(&place, 64 * MIB);
    let vm = Vm::start(&pool, 64 * MIB, None);
    for chunk in [3, 9, 4, 20, 31, 0, 8] {
        vm.write(chunk * 512, 1);
        let counted = vm.engine.counters().mappings;
        assert!(
            vm.mappings_of_the_kernel() <= counted,
            "after chunk {chunk}: {counted} counted"
        );
    }
    // Of 0, 3, 4, 8, 9, 20 and 31 a cluster and the rest; 1-2, 5-7, 10-19 and 21-30.
    assert_eq!(vm.engine.counters().mappings, 7 * 2 + 4);
}
