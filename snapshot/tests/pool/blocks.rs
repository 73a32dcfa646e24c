//! Taking blocks and giving them back.

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
        Err(Error::PoolFull { needed: 512, free: 0 })
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
    let changes = [(0, leaf(&[(1, got[0])]))];
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
    let changes = [(0, leaf(&[(3, taken[0])]))];
    vm.commit_snapshot(new("s", 1, &changes), vm.reserve(0).unwrap())
        .unwrap();
    assert_clean(&place.pool);
    place.pool.remove("s").unwrap();
    drop(vm);
    assert_eq!(place.pool.status().unwrap().free_blocks, free);
}
