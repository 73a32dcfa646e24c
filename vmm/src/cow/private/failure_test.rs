//! Failures half-way: no write is lost, no block leaks, and no VM sees another's bytes.

use std::sync::{Arc, atomic::Ordering};

use nvvmm_snapshot::{Error as PoolError, Pool};
use vm_memory::GuestAddress;

use super::engine_test::{Vm, place};
use crate::cow::{
    test_guest::{
        FRAME, MIB, PoolFile, assert_clean, ballast, consuming, pool_of,
        untouched_chunks_outlive_their_snapshot,
    },
    *,
};

/// A VM with all frames written and a snapshot `kept` of them, in a pool of `pool_mib`.
fn vm_with_a_snapshot(place: &PoolFile, pool_mib: u64) -> (Arc<Pool>, Vm) {
    let pool = pool_of(place, pool_mib * MIB);
    let mut vm = Vm::start(&pool, 4 * MIB, None);
    vm.fill(0..1024, 1);
    vm.snapshot("kept").unwrap();
    (pool, vm)
}

/// Lets another VM have the free blocks for a while.
fn overwrite_free_blocks(pool: &Arc<Pool>) {
    let other = pool.hold("other").unwrap();
    while let Ok(blocks) = other.alloc_blocks(1) {
        for block in blocks {
            other.write_block(block, &[0xee; 4096]).unwrap();
        }
    }
}

fn assert_holds(pool: &Arc<Pool>, snapshot: &str, seed: u64) {
    let copy = Vm::start(pool, 4 * MIB, Some(snapshot));
    copy.assert_filled(0..1024, seed);
}

#[test]
fn a_full_pool_refuses_before_the_pause_and_takes_nothing() {
    let place = place("full");
    let (pool, mut vm) = vm_with_a_snapshot(&place, 16);
    vm.fill(0..1024, 2);
    let taken = ballast(&pool);
    drop(taken.alloc_blocks(1));
    let free = pool.status().unwrap().free_blocks;
    assert!(matches!(
        vm.snapshot("none"),
        Err(PoolError::PoolFull { .. })
    ));
    assert_eq!(
        pool.status().unwrap().free_blocks,
        free,
        "what was copied is given back"
    );
    assert!(!vm.faults.is_starved(), "the guest needs no block");
    vm.assert_filled(0..1024, 2);
    drop(taken);
    vm.snapshot("after").unwrap();
    assert_holds(&pool, "after", 2);
    assert_holds(&pool, "kept", 1);
    assert_clean(&pool);
}

#[test]
fn a_pool_that_fills_half_way_through_the_copying_gets_all_of_it_back() {
    let place = place("halfway");
    let (pool, mut vm) = vm_with_a_snapshot(&place, 16);
    vm.fill(0..1024, 2);
    let taken = pool.hold("ballast").unwrap();
    // Room for one chunk of the two that are copied.
    while pool.status().unwrap().free_blocks > 700 {
        taken.alloc_blocks(50).unwrap();
    }
    let free = |pool: &Pool| {
        let status = pool.status().unwrap();
        let in_use: u64 = status
            .holders
            .iter()
            .map(|h| u64::from(h.blocks_in_use))
            .sum();
        (status.snapshot_blocks, in_use)
    };
    let before = free(&pool);
    assert!(matches!(
        vm.snapshot("none"),
        Err(PoolError::PoolFull { .. })
    ));
    assert_eq!(free(&pool), before);
    drop(taken);
    vm.snapshot("after").unwrap();
    assert_holds(&pool, "after", 2);
    assert_clean(&pool);
}

#[test]
fn a_pause_that_needs_more_than_there_is_is_given_up() {
    let place = place("pause");
    let (pool, mut vm) = vm_with_a_snapshot(&place, 16);
    let (reservation, room) = vm.prepare().unwrap();
    // All of it after the last look, and more than was set aside.
    vm.fill(0..1024, 2);
    let taken = ballast(&pool);
    assert!(matches!(vm.try_share(room), Err(CowError::NoSpace(_))));
    vm.engine.drop_copies();
    drop(reservation);
    vm.assert_filled(0..1024, 2);
    drop(taken);
    vm.snapshot("after").unwrap();
    assert_holds(&pool, "after", 2);
    assert_clean(&pool);
}

#[test]
fn sharing_before_everything_is_copied_is_refused() {
    let place = place("early");
    let (_pool, vm) = vm_with_a_snapshot(&place, 16);
    vm.write(3, 9);
    vm.engine.learn_writes(&vm.log).unwrap();
    assert!(vm.engine.stand_still().share().is_err());
    assert_eq!(vm.engine.dirty_chunks(), 1, "it is still known to be dirty");
}

#[test]
fn a_log_that_cannot_be_read_fails_the_snapshot_and_loses_nothing() {
    let place = place("log");
    let (pool, mut vm) = vm_with_a_snapshot(&place, 32);
    vm.fill(0..1024, 2);
    let (reservation, room) = vm.prepare().unwrap();
    vm.fill(0..1024, 3);
    vm.log.broken.store(true, Ordering::Relaxed);
    assert!(matches!(vm.try_share(room), Err(CowError::Os { .. })));
    vm.engine.drop_copies();
    drop(reservation);
    vm.snapshot("after").unwrap();
    assert_holds(&pool, "after", 3);
    assert_clean(&pool);
}

#[test]
fn a_commit_that_fails_gives_the_copies_back_and_the_next_snapshot_has_everything() {
    let place = place("commit");
    let (pool, mut vm) = vm_with_a_snapshot(&place, 32);
    let free = pool.status().unwrap().free_blocks;
    vm.fill((0..1024).step_by(2), 2);
    assert!(vm.snapshot("kept").is_err(), "the name is taken");
    assert_eq!(pool.status().unwrap().free_blocks, free);
    let counters = vm.engine.counters_now(&vm.log).unwrap();
    assert_eq!((counters.frames_own, counters.frames_shared), (512, 512));
    vm.fill((1..1024).step_by(2), 2);
    vm.snapshot("after").unwrap();
    drop(vm);
    assert_holds(&pool, "after", 2);
    assert_holds(&pool, "kept", 1);
    assert_clean(&pool);
}

#[test]
fn copies_that_are_kept_after_a_failure_are_written_over() {
    let place = place("kept-copies");
    let (pool, mut vm) = vm_with_a_snapshot(&place, 32);
    vm.fill(0..1024, 2);
    let (reservation, room) = vm.prepare().unwrap();
    let set = vm.share_and_arm(room);
    vm.fill((0..1024).step_by(3), 3);
    vm.engine.roll_back(set);
    drop(reservation);
    let free = pool.status().unwrap().free_blocks;
    vm.fill((0..1024).filter(|frame| frame % 3 != 0), 3);
    let (reservation, room) = vm.prepare().unwrap();
    let set = vm.share_and_arm(room);
    vm.commit("after", set, reservation).unwrap();
    let used = free - pool.status().unwrap().free_blocks;
    assert!(
        used < 512,
        "{used} blocks more: frames that had a copy needed none"
    );
    assert_holds(&pool, "after", 3);
    assert_clean(&pool);
}

#[test]
fn a_consumed_snapshots_blocks_stay_through_a_snapshot_that_fails() {
    let place = place("consumed");
    let (pool, vm) = vm_with_a_snapshot(&place, 32);
    drop(vm);
    let mut vm: Vm = consuming(&pool, 4 * MIB, "kept");
    vm.fill(0..100, 2);
    // A device that said it wrote: the guest still looks at the block.
    vm.write_nothing(200);
    let (reservation, room) = vm.prepare().unwrap();
    let set = vm.share_and_arm(room);
    vm.engine.roll_back(set);
    vm.engine.drop_copies();
    drop(reservation);
    vm.assert_filled(0..100, 2);
    vm.assert_filled(100..1024, 1);
    vm.snapshot("after").unwrap();
    vm.assert_filled(100..1024, 1);
    drop(vm);
    let copy = Vm::start(&pool, 4 * MIB, Some("after"));
    copy.assert_filled(0..100, 2);
    copy.assert_filled(100..1024, 1);
    assert_clean(&pool);
}

#[test]
fn a_device_that_says_it_wrote_where_nobody_has_been_does_no_harm() {
    let place = place("nothing");
    let (pool, vm) = vm_with_a_snapshot(&place, 32);
    drop(vm);
    let mut vm = Vm::start(&pool, 4 * MIB, Some("kept"));
    vm.read(701);
    vm.write_nothing(200);
    vm.write_nothing(700);
    vm.snapshot("again").unwrap();
    assert_eq!(vm.engine.counters().frames_copied, 2);
    // The blocks that frames 200 and 700 had are in no snapshot now.
    pool.remove("kept").unwrap();
    overwrite_free_blocks(&pool);
    vm.assert_filled(0..1024, 1);
    drop(vm);
    assert_holds(&pool, "again", 1);
    assert_clean(&pool);
}

#[test]
fn memory_stays_when_every_snapshot_it_came_from_is_removed() {
    let place = place("removed");
    let (pool, mut vm) = vm_with_a_snapshot(&place, 64);
    vm.fill(0..512, 2);
    vm.snapshot("second").unwrap();
    drop(vm);
    let mut vm = Vm::start(&pool, 4 * MIB, Some("second"));
    vm.fill((0..1024).step_by(5), 3);
    vm.snapshot("third").unwrap();
    for name in ["kept", "second", "third"] {
        pool.remove(name).unwrap();
    }
    overwrite_free_blocks(&pool);
    for frame in 0..1024 {
        let seed = match frame {
            _ if frame % 5 == 0 => 3,
            0..512 => 2,
            _ => 1,
        };
        assert_eq!(vm.read(frame), seed + frame, "frame {frame}");
    }
    vm.snapshot("last").unwrap();
    assert_clean(&pool);
}

#[test]
fn a_lost_write_is_found_by_the_audit() {
    let place = place("stale");
    let (_pool, vm) = vm_with_a_snapshot(&place, 32);
    vm.engine.learn_writes(&vm.log).unwrap();
    assert_eq!(vm.engine.stale_frames(10).unwrap(), [0u64; 0]);
    vm.vcpu_write(77, GuestAddress(6 * FRAME));
    let lost = vm.lose_log();
    assert_eq!(lost, 1);
    vm.engine.learn_writes(&vm.log).unwrap();
    assert_eq!(vm.engine.stale_frames(10).unwrap(), [6]);
}

#[test]
fn chunks_untouched_since_a_restore_outlive_the_snapshot_it_was_made_from() {
    untouched_chunks_outlive_their_snapshot::<PrivateEngine>(&place("outlive"));
}
