//! No VM keeps much of the pool from others without using it.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use nvvmm_snapshot::{CHUNK_BLOCKS, ChunkIndex, Pool};

use super::{
    engine_test::Vm,
    placement::{SHARE_OF_EMPTY, UNUSED_MIN_BLOCKS},
};
use crate::cow::{
    counters::lock,
    test_guest::{MIB, PoolFile, assert_clean, ballast, pool_of},
    *,
};

/// Takes a whole chunk of the pool for every chunk of the guest.
fn take_whole_chunks(vm: &Vm) {
    let chunks = vm.engine.mapping.chunks();
    for index in ChunkIndex::range(0..chunks) {
        let mut live = lock(vm.engine.chunks.get(index));
        let known = vm.engine.chunks.know(index, &mut live).unwrap();
        let taken = vm.engine.mapping.counted(known, |known| {
            vm.engine.map_chunk(index, known)?;
            vm.engine.back_whole(index, known)
        });
        taken.unwrap();
    }
}

/// A VM of which every chunk has been written and is in a snapshot.
fn snapshotted(pool: &Arc<Pool>, size_mib: u64, name: &str) -> Vm {
    let mut vm = Vm::start(pool, size_mib * MIB, None);
    take_whole_chunks(&vm);
    (0..size_mib / 2).for_each(|chunk| vm.write(chunk * u64::from(CHUNK_FRAMES), chunk + 1));
    vm.snapshot(name).unwrap();
    vm
}

/// One frame of every chunk, the worst that a guest can do to a pool.
fn write_one_of_each_chunk(vm: &Vm, frame: u64, value: u64) {
    let chunks = vm.engine.ram().size_bytes() / CHUNK_SIZE_BYTES as u64;
    (0..chunks).for_each(|chunk| vm.write(chunk * u64::from(CHUNK_FRAMES) + frame, value + chunk));
}

fn bound(pool: &Pool) -> u64 {
    UNUSED_MIN_BLOCKS
        + u64::from(pool.empty_chunks().unwrap()) * u64::from(CHUNK_BLOCKS) / SHARE_OF_EMPTY
}

#[test]
fn one_write_to_each_chunk_sets_no_more_aside_than_the_bound() {
    let place = PoolFile::new("bound");
    let pool = pool_of(&place, 512 * MIB);
    let vm = snapshotted(&pool, 200, "s");
    let before = bound(&pool);
    for round in 0..3 {
        write_one_of_each_chunk(&vm, 64 * round, 1000 * round);
        let unused = vm.holder.unused_blocks().unwrap();
        assert!(unused <= before, "{unused} unused, {before} allowed");
        while vm.engine.tidy().unwrap() {}
        let (unused, now) = (vm.holder.unused_blocks().unwrap(), bound(&pool));
        assert!(unused <= now, "{unused} unused, {now} allowed");
    }
    for round in 0..3 {
        for chunk in 0..100 {
            assert_eq!(vm.read(chunk * 512 + 64 * round), 1000 * round + chunk);
        }
    }
    assert_clean(&pool);
}

#[test]
fn a_vm_gives_back_what_it_does_not_use_when_the_pool_fills() {
    let place = PoolFile::new("give-back");
    let pool = pool_of(&place, 256 * MIB);
    let vm = snapshotted(&pool, 64, "s");
    write_one_of_each_chunk(&vm, 100, 5000);
    let held = vm.holder.unused_blocks().unwrap();
    assert!(held > 2 * UNUSED_MIN_BLOCKS, "{held} blocks are set aside");
    let ballast = ballast(&pool);
    while vm.engine.tidy().unwrap() {}
    let left = vm.holder.unused_blocks().unwrap();
    assert!(
        left <= bound(&pool),
        "{left} of {held} are left, {} allowed",
        bound(&pool)
    );
    let mut found = 0;
    while ballast.take_blocks(1).is_ok() {
        found += 1;
    }
    assert!(
        found >= held - left,
        "{found} of {} came to others",
        held - left
    );
    for chunk in 0..32 {
        assert_eq!(vm.read(chunk * 512 + 100), 5000 + chunk);
        assert_eq!(vm.read(chunk * 512), chunk + 1);
    }
    // What was moved is still the VM's own, and in its next snapshot.
    write_one_of_each_chunk(&vm, 100, 6000);
    drop(ballast);
    let mut vm = vm;
    vm.snapshot("t").unwrap();
    let copy = Vm::start(&pool, 64 * MIB, Some("t"));
    (0..32).for_each(|chunk| assert_eq!(copy.read(chunk * 512 + 100), 6000 + chunk));
    assert_clean(&pool);
}

#[test]
fn vms_on_a_nearly_full_pool_go_on_until_its_blocks_are_used() {
    let place = PoolFile::new("nearly");
    let pool = pool_of(&place, 512 * MIB);
    let vms: Vec<Vm> = (0..4)
        .map(|n| snapshotted(&pool, 48, &format!("s{n}")))
        .collect();
    let idle = snapshotted(&pool, 48, "idle");
    write_one_of_each_chunk(&vms[0], 8, 1);
    write_one_of_each_chunk(&idle, 8, 7);
    let held = idle.holder.unused_blocks().unwrap();
    assert!(held > 2 * UNUSED_MIN_BLOCKS, "{held} blocks are set aside");
    // What is set aside is all that is left.
    let ballast = ballast(&pool);
    let (starved, unused, kept, free) = std::thread::scope(|scope| {
        let writers: Vec<_> = vms
            .iter()
            .map(|vm| {
                scope
                    .spawn(move || (0..32).for_each(|n| write_one_of_each_chunk(vm, 16 * n + 9, n)))
            })
            .collect();
        let at_rest = || {
            let mut each = vms.iter().zip(&writers);
            each.all(|(vm, writer)| vm.faults.is_starved() || writer.is_finished())
        };
        // Until nobody has had anything for two rounds of tidying.
        let mut since = Instant::now();
        while since.elapsed() < Duration::from_millis(2500) {
            std::thread::sleep(Duration::from_millis(5));
            if !at_rest() {
                since = Instant::now();
            }
        }
        let starved = vms.iter().filter(|vm| vm.faults.is_starved()).count();
        let unused: u64 = vms
            .iter()
            .map(|vm| vm.holder.unused_blocks().unwrap())
            .sum();
        let kept = idle.holder.unused_blocks().unwrap();
        let free = pool.status().unwrap().free_blocks;
        drop(ballast);
        writers
            .into_iter()
            .for_each(|writer| writer.join().unwrap());
        (starved as u64, unused, kept, free)
    });
    assert!(starved > 0, "there is not enough for all of it");
    assert_eq!(free, 0, "somebody waits");
    let allowed = UNUSED_MIN_BLOCKS * (vms.len() as u64 - starved);
    assert!(
        unused <= allowed,
        "{unused} unused, {allowed} allowed to those that do not wait"
    );
    assert!(
        kept <= UNUSED_MIN_BLOCKS,
        "{kept} of {held} kept from those who wait"
    );
    (0..24).for_each(|chunk| assert_eq!(idle.read(chunk * 512 + 8), 7 + chunk));
    for vm in &vms {
        for n in 0..32 {
            (0..24).for_each(|chunk| assert_eq!(vm.read(chunk * 512 + 16 * n + 9), n + chunk));
        }
    }
    assert_clean(&pool);
}
