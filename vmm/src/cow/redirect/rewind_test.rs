//! Costs of a rewind in place, and the blocks that it leaves. The tests of both engines hold that
//! memory is exact (`cow/rewind_test.rs`, the stress test).

use nvvmm_snapshot::{BlockNo, ChunkIndex, FrameIndex};

use super::engine_test::Vm;
use crate::cow::{
    test_guest::{MIB, PoolFile, assert_clean, assert_hold_their_own, pool_of},
    *,
};

#[test]
fn only_what_was_written_is_mapped_anew() {
    let place = PoolFile::new("rewind-cost");
    let pool = pool_of(&place, 128 * MIB);
    let mut vm = Vm::start(&pool, 32 * MIB, None);
    vm.fill(0..8192, 10);
    vm.snapshot("one").unwrap();
    // A cluster in one chunk, two in another.
    for frame in [100, 5000, 5100] {
        vm.write(frame, 1);
    }
    assert_eq!(vm.engine.counters().frames_own, 48);
    let before = vm.engine.kernel_calls();
    vm.rewind("one").unwrap();
    let calls = vm.engine.kernel_calls().since(&before);
    assert_eq!(
        (calls.mmap, calls.register, calls.protect),
        (3, 3, 3),
        "{calls:?}"
    );
    let counters = vm.engine.counters();
    assert_eq!((counters.frames_own, counters.frames_mapped), (0, 8192));
    assert_eq!(vm.engine.dirty_chunks(), 0);
    vm.assert_filled(0..8192, 10);
    assert_eq!(vm.engine.counters().chunk_faults, 0, "all stayed mapped");
    vm.engine.free_replaced();
    assert_hold_their_own(&pool, &[&vm]);
    assert_clean(&pool);
}

#[test]
fn a_chunk_in_many_pieces_is_left_to_its_first_touch() {
    let place = PoolFile::new("rewind-pieces");
    // Too small for huge pages.
    let pool = pool_of(&place, 96 * MIB);
    let mut vm = Vm::start(&pool, 32 * MIB, None);
    vm.fill(0..8192, 10);
    vm.snapshot("one").unwrap();
    (0..16).for_each(|cluster| vm.write(32 * cluster, 1));
    let mappings = vm.engine.counters().mappings;
    let before = vm.engine.kernel_calls();
    vm.rewind("one").unwrap();
    let calls = vm.engine.kernel_calls().since(&before);
    assert_eq!((calls.mmap, calls.register, calls.protect), (1, 1, 0));
    assert!(vm.engine.counters().mappings < mappings);
    assert!(vm.engine.counters().mappings >= vm.mappings_of_the_kernel());
    vm.assert_filled(0..8192, 10);
    assert_eq!(vm.engine.counters().chunk_faults, 1);
    vm.write(5, 5);
    assert_eq!(vm.read(5), 5);
    vm.rewind("one").unwrap();
    vm.assert_filled(0..8192, 10);
    vm.engine.free_replaced();
    assert_hold_their_own(&pool, &[&vm]);
    assert_clean(&pool);
}

#[test]
fn blocks_of_others_that_were_placed_are_gone_and_not_freed() {
    let place = PoolFile::new("rewind-placed");
    let pool = pool_of(&place, 128 * MIB);
    let mut other = Vm::start(&pool, 32 * MIB, None);
    other.fill(0..512, 70);
    other.snapshot("other").unwrap();
    let mut vm = Vm::start(&pool, 32 * MIB, None);
    vm.fill(0..1024, 10);
    vm.snapshot("one").unwrap();
    let (_, frames) = vm.holder.pin("other").unwrap();
    let map = frames.chunk(0).unwrap();
    let placed: Vec<(FrameIndex, BlockNo)> = map.iter_present().skip(3).take(20).collect();
    assert!(vm.engine.adopt(ChunkIndex::new(1), &placed).unwrap());
    // Written before it is armed: a page of this process.
    vm.write(512 + 4, 1);
    vm.rewind("one").unwrap();
    vm.assert_filled(0..1024, 10);
    vm.engine.free_replaced();
    other.assert_filled(0..512, 70);
    assert_hold_their_own(&pool, &[&vm, &other]);
    drop((vm, other));
    Vm::start(&pool, 32 * MIB, Some("other")).assert_filled(0..512, 70);
    assert_clean(&pool);
}
