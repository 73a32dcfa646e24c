//! Taking blocks and giving them back.

use std::collections::HashSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use nvvmm_snapshot::*;

use crate::fixture::*;

#[test]
fn freed_blocks_read_as_zero_and_give_their_memory_back() {
    let bench = pool_of(16 << 20);
    let pool = &bench.pool;
    let empty = pool.status().unwrap().medium_bytes;
    let vm = pool.hold("vm").unwrap();
    let blocks = vm.alloc_blocks(1000).unwrap();
    blocks.iter().for_each(|block| fill(&vm, *block, 0xaa));
    let filled = pool.status().unwrap().medium_bytes;
    vm.free_blocks(&blocks);
    if bench.place.takes_back_blocks {
        assert!(filled >= empty + 1000 * BLOCK_SIZE_BYTES);
        assert!(pool.status().unwrap().medium_bytes < empty + 10 * BLOCK_SIZE_BYTES);
    }
    let again = vm.alloc_blocks(2000).unwrap();
    assert!(again.iter().all(|block| content(pool, *block) == 0));
    assert_eq!(pool.status().unwrap().holders[0].blocks_in_use, 2000);
}

#[test]
fn a_full_pool_says_so_and_takes_nothing() {
    let bench = pool_of(8 << 20);
    let vm = bench.pool.hold("vm").unwrap();
    let chunks: Vec<ChunkNo> = (0..3).map(|_| vm.alloc_chunk().unwrap()).collect();
    assert!(matches!(
        vm.alloc_chunk(),
        Err(Error::PoolFull {
            needed: 512,
            free: 0
        })
    ));
    vm.free_blocks(&[chunks[1].block(5), chunks[1].block(6)]);
    assert!(matches!(
        vm.alloc_blocks(3),
        Err(Error::PoolFull { needed: 3, free: 2 })
    ));
    let mut got = vm.alloc_blocks(2).unwrap();
    got.sort();
    assert_eq!(got, [chunks[1].block(5), chunks[1].block(6)]);
    // A removal needs metadata, also in a pool without a free block.
    vm.free_blocks(&chunks[2].blocks().collect::<Vec<_>>());
    let changes = [(ChunkIndex::new(0), leaf(&[(1, got[0])]))];
    vm.commit_snapshot(new("full", 1, &changes), vm.reserve(0).unwrap())
        .unwrap();
    while vm.alloc_blocks(1).is_ok() {}
    assert!(bench.pool.remove("full").unwrap().deferred);
    assert_clean(&bench.pool);
    drop(vm);
    assert_clean(&bench.pool);
    assert_eq!(bench.pool.status().unwrap().free_blocks, 3 * 512);
}

#[test]
fn threads_may_share_what_they_must() {
    fn shared_by_threads<T: Send + Sync>() {}
    shared_by_threads::<Pool>();
    shared_by_threads::<Holder>();
    shared_by_threads::<FrameMap>();
    shared_by_threads::<Reservation>();
}

#[test]
fn a_reservation_is_split_and_taken_from_and_the_rest_goes_back() {
    let place = pool_of(8 << 20);
    let vm = place.pool.hold("vm").unwrap();
    let free = place.pool.status().unwrap().free_blocks;
    let mut metadata = vm.reserve(10).unwrap();
    let mut room = metadata.split_off(6);
    assert_eq!((metadata.blocks(), room.blocks()), (4, 6));
    let taken = room.take(4);
    assert_eq!((taken.len(), room.blocks()), (4, 2));
    taken.iter().for_each(|block| fill(&vm, *block, 7));
    assert_eq!(room.take(9).len(), 2, "no more than there are");
    let mut none = metadata.split_off(100);
    assert_eq!((metadata.blocks(), none.take(1).len()), (0, 1));
    drop((metadata, none));
    let changes = [(ChunkIndex::new(0), leaf(&[(3, taken[0])]))];
    vm.commit_snapshot(new("s", 1, &changes), vm.reserve(0).unwrap())
        .unwrap();
    assert_clean(&place.pool);
    place.pool.remove("s").unwrap();
    drop(vm);
    assert_eq!(place.pool.status().unwrap().free_blocks, free);
}

#[test]
fn what_was_promised_is_there_when_nothing_else_is() {
    let place = pool_of(16 << 20);
    let pool = &place.pool;
    let free = pool.status().unwrap().free_blocks;
    let vm = pool.hold("vm").unwrap();
    let take_the_rest = |holder: &Holder| {
        for count in [64, 1] {
            while holder.alloc_blocks(count).is_ok() {}
        }
    };
    let frames = vm.alloc_blocks(4).unwrap();
    frames.iter().for_each(|block| fill(&vm, *block, 7));
    let changes: Vec<_> = (0..)
        .zip(&frames)
        .map(|(index, block)| (ChunkIndex::new(index), leaf(&[(9, *block)])))
        .collect();
    let needed = vm.commit_blocks_needed(4 * CHUNK, u32::MAX, 100);
    assert_eq!(
        needed,
        4 + 1 + 1 + 3,
        "leaves, a node above them, the state, the catalog"
    );

    drop(vm.reserve_up_to(2, needed).unwrap());
    let reservation = vm.reserve_up_to(2, needed).unwrap();
    assert_eq!(reservation.blocks(), 2);
    let other = pool.hold("other").unwrap();
    take_the_rest(&vm);
    take_the_rest(&other);
    assert!(matches!(vm.reserve(1), Err(Error::PoolFull { .. })));
    assert_clean(pool);
    vm.commit_snapshot(new("s", 4, &changes), reservation)
        .unwrap();
    assert_clean(pool);

    drop((vm, other));
    assert!(frames.iter().all(|block| content(pool, *block) == 7));
    pool.remove("s").unwrap();
    assert_clean(pool);
    assert_eq!(pool.status().unwrap().free_blocks, free);
}

#[test]
fn a_commit_that_fails_gives_back_what_was_promised() {
    let place = pool_of(8 << 20);
    let pool = &place.pool;
    let vm = pool.hold("vm").unwrap();
    vm.commit_snapshot(new("s", 1, &[]), vm.reserve(0).unwrap())
        .unwrap();
    let free = pool.status().unwrap().free_blocks;
    let refused = vm.commit_snapshot(new("s", 1, &[]), vm.reserve_up_to(1, 20).unwrap());
    assert!(
        matches!(refused, Err(Error::NameTaken { .. })),
        "{refused:?}"
    );
    assert_eq!(pool.status().unwrap().free_blocks, free);
    assert_clean(pool);
}

/// Ends a thread also when a test fails.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A chunk that is taken as a whole is no place for others' blocks, not for a moment.
#[test]
fn threads_of_a_holder_never_have_the_same_block() {
    const ROUNDS: u32 = 1000;
    let bench = pool_of(64 << 20);
    let vm = bench.pool.hold("vm").unwrap();
    let taken = Mutex::new(HashSet::new());
    let take = |blocks: &[BlockNo]| {
        let mut taken = taken.lock().unwrap();
        for block in blocks {
            assert!(taken.insert(*block), "{block} was given out twice");
        }
    };
    let give_back = |blocks: &[BlockNo]| {
        let mut taken = taken.lock().unwrap();
        blocks.iter().for_each(|block| assert!(taken.remove(block)));
        vm.free_blocks(blocks);
    };
    // A chunk behind others, so that blocks are rather taken of those.
    for _ in 0..20 {
        vm.free_blocks(&vm.alloc_chunk().unwrap().blocks().collect::<Vec<_>>());
    }
    let kept = vm.alloc_blocks(1).unwrap();
    take(&kept);
    let done = AtomicBool::new(false);
    std::thread::scope(|threads| {
        threads.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let blocks = vm.alloc_blocks(1).unwrap();
                take(&blocks);
                give_back(&blocks);
            }
        });
        let _ends = Ends(&done);
        for round in 0..ROUNDS {
            let (chunk, count) = match round % 2 {
                0 => (vm.alloc_chunk().unwrap(), CHUNK_BLOCKS),
                _ => (vm.lease_chunk().unwrap(), 9),
            };
            let taken = |index: &u32| count == CHUNK_BLOCKS || vm.alloc_at(chunk, *index);
            let blocks: Vec<BlockNo> = (0..count)
                .filter(taken)
                .map(|index| chunk.block(index))
                .collect();
            take(&blocks);
            assert_eq!(blocks.len() as u32, count, "{chunk} was not whole");
            vm.end_set_aside(chunk);
            give_back(&blocks);
        }
    });
    give_back(&kept);
    assert_eq!(bench.pool.status().unwrap().leased_blocks, 0);
    assert_clean(&bench.pool);
}
