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

#[test]
fn a_snapshot_costs_what_changed() {
    let directory = tempfile::tempdir_in("/dev/shm").unwrap();
    // Nothing of it is touched: only the bookkeeping is of interest.
    let options = CreateOptions {
        size_bytes: 6 << 30,
        overcommit: true,
    };
    let pool = Pool::create(&directory.path().join("pool"), &options).unwrap();
    let vm = pool.hold("vm").unwrap();
    let chunks = 2048;
    let all: Vec<(u32, ChunkMap)> = (0..chunks)
        .map(|index| (index, ChunkMap::Whole(vm.alloc_chunk().unwrap())))
        .collect();
    let used = || pool.status().unwrap().snapshot_blocks;
    let base = vm
        .commit_snapshot(new("base", 2048, &all), vm.reserve(0).unwrap())
        .unwrap();
    // Eight nodes of level 1, a root, the inode, its state, the catalog's leaf and root.
    assert_eq!(used(), 2048 * 512 + 8 + 1 + 1 + 1 + 2);

    let mut base = base;
    for (turn, changed) in [0u32, 1, 3, 40].into_iter().enumerate() {
        let changes: Vec<(u32, ChunkMap)> = (0..changed)
            .map(|at| at * (chunks / changed.max(1)))
            .map(|index| {
                let mut leaf = all[index as usize].1.to_leaf();
                leaf.set(9, Some(vm.alloc_blocks(1).unwrap()[0]));
                (index, ChunkMap::Frames(Arc::new(leaf)))
            })
            .collect();
        let before = used();
        let needed = vm.commit_blocks_needed(2048 * CHUNK, changed, 1);
        let name = format!("turn-{turn}");
        let reservation = vm.reserve(needed).unwrap();
        let next = NewSnapshot {
            base: Some(base),
            ..new(&name, 2048, &changes)
        };
        let next = vm.commit_snapshot(next, reservation).unwrap();
        vm.unpin(base).unwrap();
        base = next;
        let inner = if changed == 0 {
            0
        } else {
            u64::from(changed.min(8)) + 1
        };
        // For each change its block and its leaf; nodes above them; the inode and its state.
        assert_eq!(
            used() - before,
            2 * u64::from(changed) + inner + 2,
            "{changed} changes"
        );
        assert!(
            inner + u64::from(changed) + 2 + 2 <= u64::from(needed),
            "the bound is one"
        );
    }
    assert_clean(&pool);
}

#[test]
fn consuming_takes_what_is_not_shared_and_not_leased_to_others() {
    let place = pool_of(32 << 20);
    let pool = &place.pool;
    let vm = pool.hold("vm").unwrap();
    let blocks = vm.alloc_blocks(4).unwrap();
    blocks.iter().for_each(|block| fill(&vm, *block, 0x10));
    let map = leaf(&[(0, blocks[0]), (1, blocks[1]), (2, blocks[2]), (3, blocks[3])]);
    let old = vm
        .commit_snapshot(new("old", 4, &[(1, map)]), vm.reserve(0).unwrap())
        .unwrap();
    // Frame 0 stays shared; the others are written again.
    let fresh = vm.alloc_blocks(3).unwrap();
    let map = leaf(&[(0, blocks[0]), (1, fresh[0]), (2, fresh[1]), (3, fresh[2])]);
    let changes = [(1, map)];
    let next = NewSnapshot {
        base: Some(old),
        ..new("next", 4, &changes)
    };
    vm.commit_snapshot(next, vm.reserve(0).unwrap()).unwrap();

    let clone = pool.hold("clone").unwrap();
    clone.pin("old").unwrap();
    assert!(matches!(clone.consume(old), Err(Error::Busy { holder, .. }) if holder.contains("'vm'")));
    vm.unpin(old).unwrap();
    // The VM goes on in the same chunk: its lease keeps the clone from taking blocks there.
    let going_on = vm.alloc_blocks(5).unwrap();
    assert_eq!(going_on[0].chunk(), blocks[1].chunk());
    going_on.iter().for_each(|block| fill(&vm, *block, 0x20));
    let consumed = clone.consume(old).unwrap();
    assert_eq!((consumed.chunks.len(), consumed.rest), (1, Some(old)));
    assert_eq!(consumed.chunks[0].map.count(), 4);
    assert!(
        consumed.chunks[0].taken.is_empty(),
        "{:?}",
        consumed.chunks[0].taken
    );
    assert!(pool.snapshots().unwrap().iter().all(|entry| entry.name != "old"));
    assert_clean(pool);
    assert_eq!(
        content(pool, consumed.chunks[0].map.block(1).unwrap()),
        0x10,
        "the rest stays readable"
    );
    drop(clone);
    assert_clean(pool);
    assert_eq!(content(pool, going_on[4]), 0x20);
    assert!(
        vm.write_block(going_on[4], &[1]).is_ok(),
        "the lease is still the VM's"
    );

    // The same once more with nobody in the chunk: all but the shared frame are taken.
    drop(vm);
    let vm = pool.hold("vm").unwrap();
    let (entry, _) = vm.pin("next").unwrap();
    let mut map = vm.frame_map(entry.id).unwrap().chunk(1).unwrap().to_leaf();
    let only = vm.alloc_blocks(1).unwrap()[0];
    fill(&vm, only, 0x30);
    map.set(2, Some(only));
    let changes = [(1, ChunkMap::Frames(Arc::new(map)))];
    let last = NewSnapshot {
        base: Some(entry.id),
        ..new("last", 4, &changes)
    };
    let last = vm.commit_snapshot(last, vm.reserve(0).unwrap()).unwrap();
    vm.unpin(entry.id).unwrap();
    let consumed = vm.consume(last).unwrap();
    assert_eq!(consumed.chunks[0].taken.iter().collect::<Vec<_>>(), [2]);
    fill(&vm, only, 0x31);
    assert!(matches!(
        vm.write_block(blocks[0], &[1]),
        Err(Error::InvalidSnapshot { .. })
    ));
    // What was left becomes the base of the next snapshot.
    assert_eq!(consumed.rest, Some(last));
    let rest = vm.frame_map(last).unwrap().chunk(1).unwrap();
    assert_eq!(rest.present().iter().collect::<Vec<_>>(), [0, 1, 3]);
    let after = NewSnapshot {
        base: consumed.rest,
        ..new("after", 4, &changes)
    };
    vm.commit_snapshot(after, vm.reserve(0).unwrap()).unwrap();
    vm.unpin(last).unwrap();
    assert_eq!(pool.find("after").unwrap().frames_mapped, 4);
    assert_clean(pool);
}

#[test]
fn a_commit_that_fails_changes_nothing() {
    let place = pool_of(16 << 20);
    let pool = &place.pool;
    let vm = pool.hold("vm").unwrap();
    let other = pool.hold("other").unwrap();
    let block = vm.alloc_blocks(1).unwrap()[0];
    fill(&vm, block, 0x42);
    let map = [(0, leaf(&[(0, block)]))];
    let id = vm
        .commit_snapshot(new("taken", 2, &map), vm.reserve(0).unwrap())
        .unwrap();
    let mine = vm.alloc_blocks(1).unwrap()[0];
    let not_mine = other.alloc_blocks(1).unwrap()[0];
    let mine_map = [(0, leaf(&[(0, mine)]))];
    let not_mine_map = [(0, leaf(&[(0, not_mine)]))];
    let moved_map = [(1, leaf(&[(0, block)]))];
    let beyond = [(2, leaf(&[(0, mine)]))];
    let twice = [mine_map[0].clone(), mine_map[0].clone()];
    let too_much = vec![1; (2 << 20) + 1];
    let before = pool.status().unwrap();
    let attempt = |attempt: NewSnapshot<'_>| vm.commit_snapshot(attempt, vm.reserve(3).unwrap()).unwrap_err();

    assert!(matches!(
        attempt(new("taken", 2, &mine_map)),
        Error::NameTaken { .. }
    ));
    for name in ["", ".x", "-x", "a b", "a/b", "é", &"x".repeat(129)] {
        assert!(
            matches!(attempt(new(name, 2, &mine_map)), Error::InvalidName { .. }),
            "{name}"
        );
    }
    assert!(matches!(
        attempt(new("x", 2, &not_mine_map)),
        Error::InvalidSnapshot { .. }
    ));
    assert!(
        matches!(attempt(new("x", 2, &map)), Error::InvalidSnapshot { .. }),
        "no base has it"
    );
    let based = |changes| NewSnapshot {
        base: Some(id),
        ..new("x", 2, changes)
    };
    assert!(
        matches!(attempt(based(&moved_map)), Error::InvalidSnapshot { .. }),
        "the base has it elsewhere"
    );
    assert!(matches!(
        attempt(new("x", 2, &beyond)),
        Error::InvalidSnapshot { .. }
    ));
    assert!(matches!(
        attempt(new("x", 2, &twice)),
        Error::InvalidSnapshot { .. }
    ));
    assert!(matches!(attempt(new("x", 0, &[])), Error::InvalidSnapshot { .. }));
    let grown = NewSnapshot {
        base: Some(id),
        ..new("x", 3, &mine_map)
    };
    assert!(matches!(attempt(grown), Error::InvalidSnapshot { .. }));
    let fat = NewSnapshot {
        state: &too_much,
        ..new("x", 2, &mine_map)
    };
    assert!(matches!(attempt(fat), Error::InvalidSnapshot { .. }));
    let foreign_base = NewSnapshot {
        base: Some(id),
        ..new("x", 2, &[])
    };
    let reserved = other.reserve(9).unwrap();
    assert!(matches!(
        other.commit_snapshot(foreign_base, reserved),
        Err(Error::NotPinned { .. })
    ));

    assert_clean(pool);
    let after = pool.status().unwrap();
    assert_eq!(
        (after.snapshot_blocks, after.generation),
        (before.snapshot_blocks, before.generation)
    );
    assert_eq!(after.holders[0].blocks_in_use, 1, "only what was mine before");
    vm.commit_snapshot(based(&mine_map), vm.reserve(0).unwrap())
        .unwrap();
    assert_eq!(content(pool, block), 0x42);
}

#[test]
fn names_and_limits_are_told() {
    let place = pool_of(16 << 20);
    let pool = &place.pool;
    let vm = pool.hold("vm").unwrap();
    for name in ["nightly-1", "nightly-2", "before-upgrade", "x", "y"] {
        let id = vm
            .commit_snapshot(new(name, 1, &[]), vm.reserve(0).unwrap())
            .unwrap();
        vm.unpin(id).unwrap();
    }
    let error = pool.find("nighly-1").unwrap_err().to_string();
    assert!(
        error.contains("'nighly-1'") && error.contains("'nightly-1'") && !error.contains("upgrade"),
        "{error}"
    );
    assert!(error.contains(&pool.path().display().to_string()), "{error}");
    for name in ["nightly-1", "nightly-2", "before-upgrade", "x"] {
        vm.pin(name).unwrap();
        vm.pin(name).unwrap();
    }
    assert!(matches!(vm.pin("y"), Err(Error::TooManyPins { count: 4 })));
    let id = pool.find("x").unwrap().id;
    vm.unpin(id).unwrap();
    assert!(matches!(vm.unpin(id), Err(Error::NotPinned { .. })));
    vm.pin("y").unwrap();

    let holders: Vec<Holder> = (0..255)
        .map(|at| pool.hold(&format!("holder-{at}")).unwrap())
        .collect();
    assert!(matches!(
        pool.hold("one-more"),
        Err(Error::TooManyHolders { count: 256 })
    ));
    assert_eq!(pool.status().unwrap().holders.len(), 256);
    drop(holders);
    assert_eq!(pool.status().unwrap().holders.len(), 1);
    assert!(matches!(pool.hold("no good"), Err(Error::InvalidName { .. })));
}

#[test]
fn creating_refuses_what_cannot_be() {
    let directory = tempfile::tempdir_in("/dev/shm").unwrap();
    let path = directory.path().join("pool");
    let create = |size_bytes, overcommit| {
        Pool::create(
            &path,
            &CreateOptions {
                size_bytes,
                overcommit,
            },
        )
    };
    for size in [0, 4 << 20, (8 << 20) + 4096, 1 << 45] {
        assert!(
            matches!(create(size, true), Err(Error::InvalidSize { .. })),
            "{size}"
        );
    }
    assert!(matches!(
        create(8 << 40, false),
        Err(Error::NoSpaceOnMedium { .. })
    ));
    assert_eq!(
        std::fs::read_dir(directory.path()).unwrap().count(),
        0,
        "nothing is left behind"
    );
    let pool = create(8 << 20, false).unwrap();
    assert!(matches!(create(8 << 20, false), Err(Error::Exists { .. })));
    assert_eq!(
        (
            pool.status().unwrap().free_blocks,
            pool.status().unwrap().overcommit
        ),
        (3 * 512, false)
    );
    drop(pool);
    std::fs::remove_file(&path).unwrap();

    // Sixteen TiB of promises cost next to nothing.
    let pool = create(16 << 40, true).unwrap();
    let vm = pool.hold("vm").unwrap();
    let block = vm.alloc_blocks(1).unwrap()[0];
    fill(&vm, block, 1);
    vm.commit_snapshot(
        new("small", 1, &[(0, leaf(&[(5, block)]))]),
        vm.reserve(0).unwrap(),
    )
    .unwrap();
    assert_clean(&pool);
    let status = pool.status().unwrap();
    assert_eq!((status.total_blocks, status.overcommit), (1 << 32, true));
    // The chunk table is the one thing that is there from the start.
    assert!(status.medium_bytes < 70 << 20, "{status:?}");
}

#[test]
fn an_ordinary_file_is_a_medium_too() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = directory.path().join("pool");
    let pool = Pool::create(
        &path,
        &CreateOptions {
            size_bytes: 16 << 20,
            overcommit: false,
        },
    )
    .unwrap();
    if pool.medium() != nvvmm_snapshot::Medium::File {
        eprintln!(
            "the target directory is on {:?}: not what this test is about",
            pool.medium()
        );
        return;
    }
    let vm = pool.hold("vm").unwrap();
    let blocks = vm.alloc_blocks(100).unwrap();
    blocks.iter().for_each(|block| fill(&vm, *block, 0x5a));
    vm.commit_snapshot(
        new("kept", 1, &[(0, leaf(&[(1, blocks[7])]))]),
        vm.reserve(0).unwrap(),
    )
    .unwrap();
    drop((vm, pool));
    let pool = Pool::open(&path).unwrap();
    assert_clean(&pool);
    let vm = pool.hold("vm").unwrap();
    let (_, map) = vm.pin("kept").unwrap();
    assert_eq!(content(&pool, map.chunk(0).unwrap().block(1).unwrap()), 0x5a);
    drop(vm);
    pool.remove("kept").unwrap();
    assert_clean(&pool);
    let status = pool.status().unwrap();
    assert_eq!(status.free_blocks, status.total_blocks - status.metadata_blocks);
    assert!(
        status.outlives_the_host && status.medium_bytes < 3 << 20,
        "{status:?}"
    );
}
