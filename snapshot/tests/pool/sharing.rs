//! Snapshots share what did not change, and cost what did.

use std::sync::Arc;

use nvvmm_snapshot::*;

use crate::fixture::*;

/// Checks what the pool tells of `first`, all of one chunk, and of `second`, which has two blocks
/// of its own and shares the others.
fn assert_told_as_shared(pool: &Arc<Pool>, first: SnapshotId, chunk: ChunkNo) {
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
        listed
            .iter()
            .map(|entry| entry.name.as_str())
            .collect::<Vec<_>>(),
        ["first", "second"]
    );
    // First: its inode, its state, a level of the map, two blocks that only it has. Second: a leaf
    // more.
    assert_eq!(listed[0].own_bytes, Some((3 + 2) * BLOCK_SIZE_BYTES));
    assert_eq!(listed[1].own_bytes, Some((4 + 2) * BLOCK_SIZE_BYTES));
    assert_eq!(listed[0].shared_bytes, Some(510 * BLOCK_SIZE_BYTES));
}

#[test]
fn a_snapshot_is_shared_copied_on_write_and_removed() {
    let bench = pool_of(64 << 20);
    let pool = &bench.pool;
    let free_at_start = pool.status().unwrap().free_blocks;
    let vm = pool.hold("vm").unwrap();
    let chunk = vm.alloc_chunk().unwrap();
    for (index, block) in chunk.blocks().enumerate() {
        fill(&vm, block, index as u8 | 1);
    }
    let changes = [(ChunkIndex::new(3), ChunkMap::Whole(chunk))];
    let needed = vm.commit_blocks_needed(16 * CHUNK, 1, 100);
    let first = vm
        .commit_snapshot(new("first", 16, &changes), vm.reserve(needed).unwrap())
        .unwrap()
        .id;
    assert_clean(pool);
    assert!(!vm.alloc_at(chunk, 7), "a committed block cannot be taken");

    let fresh = vm.alloc_blocks(2).unwrap();
    fresh.iter().for_each(|block| fill(&vm, *block, 0xee));
    let mut blocks = LeafBlocks::of_chunk(chunk);
    blocks.set(10, Some(fresh[0]));
    blocks.set(11, Some(fresh[1]));
    let changes = [(ChunkIndex::new(3), ChunkMap::Frames(Arc::new(blocks)))];
    let second = NewSnapshot {
        base: Some(first),
        parent: Some(first),
        frames_new: 2,
        ..new("second", 16, &changes)
    };
    let second = vm
        .commit_snapshot(second, vm.reserve(needed).unwrap())
        .unwrap()
        .id;
    vm.unpin(first).unwrap();
    assert_clean(pool);

    assert_told_as_shared(pool, first, chunk);
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

/// Takes a snapshot that names chunks as changed which have the same blocks as in `base`. It costs
/// an inode and its state.
fn assert_same_blocks_cost_nothing(pool: &Pool, vm: &Holder, base: SnapshotId, chunks: u64) {
    let used = || pool.status().unwrap().snapshot_blocks;
    let same = vm.frame_map(base).unwrap();
    let changes: Vec<(ChunkIndex, ChunkMap)> = [0, 51, 256]
        .map(ChunkIndex::new)
        .map(|index| {
            (
                index,
                ChunkMap::Frames(Arc::new(same.chunk(index).unwrap().to_leaf())),
            )
        })
        .into();
    let before = used();
    let again = NewSnapshot {
        base: Some(base),
        ..new("again", chunks, &changes)
    };
    vm.commit_snapshot(again, vm.reserve(0).unwrap()).unwrap();
    assert_eq!(used() - before, 2);
}

#[test]
fn a_snapshot_costs_what_changed() {
    let directory = tempfile::tempdir_in("/dev/shm").unwrap();
    // Nothing of it is touched: only the bookkeeping is of interest.
    let options = CreateOptions {
        size_bytes: 3 << 29,
        overcommit: false,
    };
    let pool = Pool::create(&directory.path().join("pool"), &options).unwrap();
    let vm = pool.hold("vm").unwrap();
    let (chunks, inner_nodes) = (512, 2);
    let all: Vec<(ChunkIndex, ChunkMap)> = (0..chunks)
        .map(|index| {
            (
                ChunkIndex::new(index),
                ChunkMap::Whole(vm.alloc_chunk().unwrap()),
            )
        })
        .collect();
    let used = || pool.status().unwrap().snapshot_blocks;
    let base = vm
        .commit_snapshot(new("base", u64::from(chunks), &all), vm.reserve(0).unwrap())
        .unwrap()
        .id;
    // Nodes of level 1, a root, the inode, its state, the catalog's leaf and root.
    assert_eq!(
        used(),
        u64::from(chunks) * 512 + inner_nodes + 1 + 1 + 1 + 2
    );

    let mut base = base;
    for (turn, changed) in [0u32, 1, 3, 40].into_iter().enumerate() {
        let changes: Vec<(ChunkIndex, ChunkMap)> = (0..changed)
            .map(|at| at * (chunks / changed.max(1)))
            .map(|index| {
                let mut leaf = all[index as usize].1.to_leaf();
                leaf.set(9, Some(vm.alloc_blocks(1).unwrap()[0]));
                (ChunkIndex::new(index), ChunkMap::Frames(Arc::new(leaf)))
            })
            .collect();
        let before = used();
        let needed = vm.commit_blocks_needed(u64::from(chunks) * CHUNK, changed, 1);
        let name = format!("turn-{turn}");
        let reservation = vm.reserve(needed).unwrap();
        let next = NewSnapshot {
            base: Some(base),
            ..new(&name, u64::from(chunks), &changes)
        };
        let next = vm.commit_snapshot(next, reservation).unwrap().id;
        vm.unpin(base).unwrap();
        base = next;
        let inner = if changed == 0 {
            0
        } else {
            u64::from(changed).min(inner_nodes) + 1
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
    assert_same_blocks_cost_nothing(&pool, &vm, base, u64::from(chunks));
    assert_clean(&pool);
}

#[test]
fn an_ordinary_file_is_a_medium_too() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = directory.path().join("pool");
    let pool = Pool::create(
        &path,
        &CreateOptions {
            size_bytes: 16 << 20,
            overcommit: true,
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
        new("kept", 1, &[(ChunkIndex::new(0), leaf(&[(1, blocks[7])]))]),
        vm.reserve(0).unwrap(),
    )
    .unwrap();
    drop((vm, pool));
    let pool = Pool::open(&path).unwrap();
    assert_clean(&pool);
    let vm = pool.hold("vm").unwrap();
    let (_, map) = vm.pin("kept").unwrap();
    assert_eq!(
        content(&pool, map.chunk(0).unwrap().block(1).unwrap()),
        0x5a
    );
    drop(vm);
    pool.remove("kept").unwrap();
    assert_clean(&pool);
    let status = pool.status().unwrap();
    assert_eq!(
        status.free_blocks,
        status.total_blocks - status.metadata_blocks
    );
    assert!(
        status.durability.strongest == Durability::Power && status.medium_bytes < 3 << 20,
        "{status:?}"
    );
}

#[test]
fn a_snapshot_replaces_others_in_one_commit() {
    let bench = pool_of(64 << 20);
    let pool = &bench.pool;
    let vm = pool.hold("vm").unwrap();
    let generation = || pool.status().unwrap().generation;
    let mut base = None;
    let mut kept: Vec<SnapshotId> = Vec::new();
    for number in 1..=6u8 {
        let block = vm.alloc_blocks(1).unwrap()[0];
        fill(&vm, block, number);
        let changes = [(ChunkIndex::new(u32::from(number) % 2), leaf(&[(9, block)]))];
        let name = format!("vm@{number}");
        let snapshot = NewSnapshot {
            base,
            parent: base,
            ..new(&name, 2, &changes)
        };
        let oldest = kept.len().saturating_sub(2);
        let before = generation();
        let committed = vm
            .commit_replacing(snapshot, &kept[..oldest], vm.reserve(0).unwrap())
            .unwrap();
        assert_eq!(generation(), before + 1, "one switch for both");
        kept.drain(..oldest);
        kept.push(committed.id);
        base = Some(committed.id);
        vm.unpin_others(committed.id).unwrap();
        let listed: Vec<SnapshotId> = pool
            .entries()
            .unwrap()
            .iter()
            .map(|entry| entry.id)
            .collect();
        assert_eq!(listed, kept);
        assert_clean(pool);
    }
    for (entry, number) in pool.entries().unwrap().iter().zip(4u8..) {
        assert_eq!(entry.name, format!("vm@{number}"));
        let (_, map) = pool.hold("reader").unwrap().pin(&entry.name).unwrap();
        let of = |index: u32| content(pool, map.chunk(index).unwrap().block(9).unwrap());
        let (newest, before) = (u32::from(number) % 2, u32::from(number + 1) % 2);
        assert_eq!((of(newest), of(before)), (number, number - 1));
    }
}

#[test]
fn a_replaced_snapshot_that_is_pinned_keeps_its_blocks() {
    let bench = pool_of(64 << 20);
    let pool = &bench.pool;
    let (vm, clone) = (pool.hold("vm").unwrap(), pool.hold("clone").unwrap());
    let block = vm.alloc_blocks(1).unwrap()[0];
    fill(&vm, block, 7);
    let changes = [(ChunkIndex::new(0), leaf(&[(1, block)]))];
    let first = vm
        .commit_snapshot(new("vm@1", 1, &changes), vm.reserve(0).unwrap())
        .unwrap()
        .id;
    let (_, map) = clone.pin("vm@1").unwrap();
    let changes = [(ChunkIndex::new(0), ChunkMap::Hole)];
    let second = NewSnapshot {
        base: Some(first),
        ..new("vm@2", 1, &changes)
    };
    let second = vm
        .commit_replacing(second, &[first], vm.reserve(0).unwrap())
        .unwrap()
        .id;
    vm.unpin_others(second).unwrap();
    assert_clean(pool);
    let names: Vec<String> = pool
        .entries()
        .unwrap()
        .into_iter()
        .map(|entry| entry.name)
        .collect();
    assert_eq!(names, ["vm@2"]);
    assert_eq!(content(pool, map.chunk(0).unwrap().block(1).unwrap()), 7);
    assert_eq!(pool.status().unwrap().orphans, 1);

    // Nothing is replaced by a commit that is refused, nor what is gone already.
    let taken = vm.commit_replacing(new("vm@2", 1, &[]), &[second], vm.reserve(0).unwrap());
    assert!(matches!(taken, Err(Error::NameTaken { .. })), "{taken:?}");
    assert_eq!(pool.entries().unwrap().len(), 1);
    vm.commit_replacing(new("vm@3", 1, &[]), &[first], vm.reserve(0).unwrap())
        .unwrap();
    drop(clone);
    assert_eq!(pool.status().unwrap().orphans, 0);
    assert_clean(pool);
}

#[test]
fn a_commit_writes_the_way_to_what_changed_and_says_how_much() {
    let bench = pool_of(64 << 20);
    let pool = &bench.pool;
    let vm = pool.hold("vm").unwrap();
    let state = b"the machine's state".len() as u64;
    // A hold writes no metadata: slots, leases and counts are not in a catalog.
    assert_eq!(pool.writes(), PoolWrites::default());
    let taken = |name: &str, base, changes: &[(ChunkIndex, ChunkMap)]| {
        let before = pool.writes();
        let snapshot = NewSnapshot {
            base,
            ..new(name, 2000, changes)
        };
        let reservation = vm.reserve(32).unwrap();
        let committed = vm.commit_snapshot(snapshot, reservation).unwrap();
        let after = pool.writes();
        assert_eq!(after.commits - before.commits, 1);
        let bytes = after.metadata_bytes - before.metadata_bytes;
        // All but the state fills its blocks, and the superblock is none of them.
        assert_eq!(
            bytes - state,
            u64::from(committed.metadata_blocks) * BLOCK_SIZE_BYTES
        );
        (committed.id, (bytes - state) / BLOCK_SIZE_BYTES)
    };
    // Inode, leaf and root of the catalog, superblock.
    let always = 4;
    let (first, blocks) = taken("empty", None, &[]);
    assert_eq!(blocks, always);
    // 2000 chunks are under two levels of inner nodes.
    let scattered: Vec<(ChunkIndex, ChunkMap)> = [3, 4, 1900]
        .into_iter()
        .zip(vm.alloc_blocks(3).unwrap())
        .map(|(index, block)| (ChunkIndex::new(index), leaf(&[(7, block)])))
        .collect();
    let (second, blocks) = taken("scattered", Some(first), &scattered);
    assert_eq!(blocks, always + 3 + 2 + 1);
    let whole = [(
        ChunkIndex::new(3),
        ChunkMap::Whole(vm.alloc_chunk().unwrap()),
    )];
    let (third, blocks) = taken("whole", Some(second), &whole);
    assert_eq!(
        blocks,
        always + 2,
        "a whole chunk is in the entry of an inner node"
    );
    assert_eq!(taken("same", Some(third), &[]).1, always);

    let before = pool.writes();
    pool.remove("empty").unwrap();
    let after = pool.writes();
    assert_eq!(after.commits - before.commits, 1);
    assert!(after.metadata_bytes > before.metadata_bytes);
    assert!(
        vm.commit_snapshot(new("same", 2000, &[]), vm.reserve(32).unwrap())
            .is_err()
    );
    assert_eq!(pool.writes(), after, "a refusal");
}
