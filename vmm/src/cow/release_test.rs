//! Memory that a guest does not use leaves the pool, and the snapshots that follow.

use std::path::Path;

use super::{
    test_guest::{
        FRAME, MIB, Playable, PoolFile, Vm, assert_clean, assert_hold_their_own, pool_of,
    },
    *,
};
use nvvmm_snapshot::ChunkIndex;

const FRAMES: u64 = 16 * MIB / FRAME;
const CHUNK: u64 = CHUNK_FRAMES as u64;

/// Chunks 1 to 3 of eight are released: by a VM that has written them, and by a copy of it.
fn released_memory_is_in_no_later_snapshot<E: Playable>(place: &PoolFile) {
    let pool = pool_of(place, 128 * MIB);
    let mut vm = Vm::<E>::start(&pool, 16 * MIB, None);
    vm.fill(0..FRAMES, 7);
    vm.snapshot("all").unwrap();
    vm.fill(0..2 * CHUNK, 8);
    for chunk in 1..4 {
        let released = vm.engine.release(ChunkIndex::new(chunk)).unwrap();
        assert_eq!(u64::from(released), CHUNK, "chunk {chunk}");
        assert_eq!(vm.engine.release(ChunkIndex::new(chunk)).unwrap(), 0);
    }
    let released = CHUNK..4 * CHUNK;
    assert!(released.clone().all(|frame| vm.read(frame) == 0));
    vm.snapshot("fewer").unwrap();
    let mapped = |name: &str| pool.find(name).unwrap().frames_mapped;
    assert_eq!(mapped("all"), FRAMES);
    // Reads of nothing may have taken clusters of zeroes, and no more than that.
    assert!(mapped("fewer") <= FRAMES);
    assert_eq!(vm.engine.counters().frames_mapped, mapped("fewer"));

    let mut copy = Vm::<E>::start(&pool, 16 * MIB, Some("all"));
    copy.assert_filled([0, 5 * CHUNK].into_iter(), 7);
    for chunk in 1..4 {
        assert_eq!(
            u64::from(copy.engine.release(ChunkIndex::new(chunk)).unwrap()),
            CHUNK
        );
    }
    copy.snapshot("least").unwrap();
    assert_eq!(mapped("least"), FRAMES - 3 * CHUNK);
    // It is memory like any other when it is used again.
    copy.fill(released.clone(), 9);
    copy.assert_filled(released.clone(), 9);
    copy.rewind("all").unwrap();
    copy.assert_filled(0..FRAMES, 7);
    let later = Vm::<E>::start(&pool, 16 * MIB, Some("least"));
    assert!(released.clone().all(|frame| later.read(frame) == 0));
    later.assert_filled(0..CHUNK, 7);
    later.assert_filled(4 * CHUNK..FRAMES, 7);
    assert_hold_their_own(&pool, &[&vm, &copy, &later]);
    assert_clean(&pool);
}

#[test]
fn of_blocks_that_are_the_ram() {
    let place = PoolFile::new("release");
    released_memory_is_in_no_later_snapshot::<RedirectEngine>(&place);
}

#[test]
fn of_private_memory() {
    let place = PoolFile::on(Path::new("/var/tmp"), "release-private");
    released_memory_is_in_no_later_snapshot::<PrivateEngine>(&place);
}
