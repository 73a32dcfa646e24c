//! What a pool promises its users, one call at a time.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use nvvmm_snapshot::{
    BLOCK_SIZE_BYTES, BlockNo, CHUNK_BLOCKS, ChunkMap, ChunkNo, CreateOptions, Error, Holder, LeafBlocks,
    NewSnapshot, Pool,
};

const CHUNK: u64 = 2 << 20;

struct Place {
    _directory: tempfile::TempDir,
    pool: Arc<Pool>,
}

fn pool_of(size_bytes: u64) -> Place {
    let directory = tempfile::tempdir_in("/dev/shm").unwrap();
    let pool = Pool::create(
        &directory.path().join("pool"),
        &CreateOptions {
            size_bytes,
            overcommit: false,
        },
    )
    .unwrap();
    Place {
        _directory: directory,
        pool,
    }
}

fn fill(holder: &Holder, block: BlockNo, with: u8) {
    holder
        .write_block(block, &[with; BLOCK_SIZE_BYTES as usize])
        .unwrap();
}

fn content(pool: &Pool, block: BlockNo) -> u8 {
    let mut bytes = [0; BLOCK_SIZE_BYTES as usize];
    pool.read_block(block, &mut bytes).unwrap();
    assert!(bytes.iter().all(|byte| *byte == bytes[0]), "{block} is torn");
    bytes[0]
}

fn assert_clean(pool: &Pool) {
    let report = pool.check().unwrap();
    assert!(report.is_clean(), "{:#?}", report.findings);
}

fn new<'a>(name: &'a str, chunks: u64, changes: &'a [(u32, ChunkMap)]) -> NewSnapshot<'a> {
    NewSnapshot {
        name,
        parent: None,
        memory_bytes: chunks * CHUNK,
        base: None,
        changes,
        state: b"the machine's state",
        frames_new: 0,
    }
}

fn leaf(entries: &[(u32, BlockNo)]) -> ChunkMap {
    let mut blocks = LeafBlocks::new();
    for (index, block) in entries {
        blocks.set(*index, Some(*block));
    }
    ChunkMap::Frames(Arc::new(blocks))
}

#[test]
fn a_snapshot_is_shared_copied_on_write_and_removed() {
    let place = pool_of(64 << 20);
    let pool = &place.pool;
    let free_at_start = pool.status().unwrap().free_blocks;
    let vm = pool.hold("vm").unwrap();
    let chunk = vm.alloc_chunk().unwrap();
    for (index, block) in chunk.blocks().enumerate() {
        fill(&vm, block, index as u8 | 1);
    }
    let changes = [(3, ChunkMap::Whole(chunk))];
    let needed = vm.commit_blocks_needed(16 * CHUNK, 1, 100);
    let first = vm
        .commit_snapshot(new("first", 16, &changes), vm.reserve(needed).unwrap())
        .unwrap();
    assert_clean(pool);
    assert!(!vm.alloc_at(chunk, 7), "a committed block cannot be taken");

    let fresh = vm.alloc_blocks(2).unwrap();
    fresh.iter().for_each(|block| fill(&vm, *block, 0xee));
    let mut blocks = LeafBlocks::of_chunk(chunk);
    blocks.set(10, Some(fresh[0]));
    blocks.set(11, Some(fresh[1]));
    let changes = [(3, ChunkMap::Frames(Arc::new(blocks)))];
    let second = NewSnapshot {
        base: Some(first),
        parent: Some(first),
        frames_new: 2,
        ..new("second", 16, &changes)
    };
    let second = vm.commit_snapshot(second, vm.reserve(needed).unwrap()).unwrap();
    vm.unpin(first).unwrap();
    assert_clean(pool);

    let (entry, map) = pool.hold("other").unwrap().pin("first").unwrap();
    assert_eq!(
        (entry.id, entry.frames_mapped, entry.memory_bytes),
        (first, 512, 16 * CHUNK)
    );
    assert_eq!(map.chunk(3).unwrap(), ChunkMap::Whole(chunk));
    assert_eq!(map.chunk(4).unwrap(), ChunkMap::Hole);
    assert_eq!(pool.read_state(first).unwrap(), b"the machine's state");

    let listed = pool.snapshots().unwrap();
    assert_eq!(
        listed.iter().map(|entry| entry.name.as_str()).collect::<Vec<_>>(),
        ["first", "second"]
    );
    // First: its inode, its state, a level of the map, two blocks that only it has. Second: a leaf more.
    assert_eq!(listed[0].own_bytes, Some((3 + 2) * BLOCK_SIZE_BYTES));
    assert_eq!(listed[1].own_bytes, Some((4 + 2) * BLOCK_SIZE_BYTES));
    assert_eq!(listed[0].shared_bytes, Some(510 * BLOCK_SIZE_BYTES));

    assert!(!pool.remove("first").unwrap().deferred);
    assert_clean(pool);
    let map = vm.frame_map(second).unwrap();
    let blocks = map.chunk(3).unwrap();
    for index in 0..CHUNK_BLOCKS {
        let expected = if index == 10 || index == 11 {
            0xee
        } else {
            index as u8 | 1
        };
        assert_eq!(content(pool, blocks.block(index).unwrap()), expected);
    }
    assert!(pool.remove("second").unwrap().deferred);
    assert_clean(pool);
    assert!(pool.snapshots().unwrap().is_empty());
    assert_eq!(
        content(pool, blocks.block(10).unwrap()),
        0xee,
        "pinned blocks stay"
    );
    drop(vm);
    assert_clean(pool);
    assert_eq!(pool.status().unwrap().free_blocks, free_at_start);
}

#[test]
fn freed_blocks_read_as_zero_and_give_their_memory_back() {
    let place = pool_of(16 << 20);
    let pool = &place.pool;
    let empty = pool.status().unwrap().medium_bytes;
    let vm = pool.hold("vm").unwrap();
    let blocks = vm.alloc_blocks(1000).unwrap();
    blocks.iter().for_each(|block| fill(&vm, *block, 0xaa));
    assert!(pool.status().unwrap().medium_bytes >= empty + 1000 * BLOCK_SIZE_BYTES);
    vm.free_blocks(&blocks);
    assert!(pool.status().unwrap().medium_bytes < empty + 10 * BLOCK_SIZE_BYTES);
    let again = vm.alloc_blocks(2000).unwrap();
    assert!(again.iter().all(|block| content(pool, *block) == 0));
    assert_eq!(pool.status().unwrap().holders[0].blocks_in_use, 2000);
}

#[test]
fn a_full_pool_says_so_and_takes_nothing() {
    let place = pool_of(8 << 20);
    let vm = place.pool.hold("vm").unwrap();
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
    assert!(place.pool.remove("full").unwrap().deferred);
    assert_clean(&place.pool);
    drop(vm);
    assert_clean(&place.pool);
    assert_eq!(place.pool.status().unwrap().free_blocks, 3 * 512);
}
