//! Every block of a pool is counted once, as what it is.

use std::sync::Arc;

use super::*;
use crate::{
    ChunkIndex, ChunkMap, CreateOptions, Holder, LeafBlocks, NewMap, NewSnapshot, SnapshotId,
    SnapshotKind,
};

fn take(
    vm: &Holder,
    name: &str,
    base: Option<SnapshotId>,
    changes: &[(ChunkIndex, ChunkMap)],
) -> SnapshotId {
    let new = NewSnapshot {
        kind: SnapshotKind::Vm,
        name,
        parent: base,
        base,
        maps: vec![NewMap::memory(64 << 20, changes)],
        state: b"state",
        frames_new: 1,
    };
    vm.commit_snapshot(new, vm.reserve(16).unwrap()).unwrap().id
}

fn frames(vm: &Holder, count: u32) -> ChunkMap {
    let mut leaf = LeafBlocks::new();
    for (frame, block) in vm.alloc_blocks(count).unwrap().into_iter().enumerate() {
        leaf.set(frame as u32, Some(block));
    }
    ChunkMap::Frames(Arc::new(leaf))
}

#[test]
fn blocks_are_counted_by_what_they_hold() {
    let directory = tempfile::tempdir_in("/dev/shm").unwrap();
    let options = CreateOptions {
        size_bytes: 32 << 20,
        overcommit: false,
    };
    let pool = Pool::create(&directory.path().join("pool"), &options).unwrap();
    let empty = pool.map().unwrap();
    assert!(empty.snapshots.is_empty() && empty.holders.is_empty());

    let vm = pool.hold("web").unwrap();
    let whole = vm.alloc_chunk().unwrap();
    let first = take(
        &vm,
        "first",
        None,
        &[
            (ChunkIndex::new(0), ChunkMap::Whole(whole)),
            (ChunkIndex::new(3), frames(&vm, 10)),
        ],
    );
    take(
        &vm,
        "second",
        Some(first),
        &[(ChunkIndex::new(3), frames(&vm, 7))],
    );
    let leased = vm.alloc_chunk().unwrap();

    let map = pool.map().unwrap();
    assert_eq!(map.holders, ["web"]);
    let sum = |of: fn(&ChunkUse) -> u32| map.chunks.iter().map(of).sum::<u32>();
    assert_eq!(map.chunks.len(), 16);
    for (number, chunk) in map.chunks.iter().enumerate() {
        let ChunkUse {
            metadata,
            own,
            shared,
            disks,
            leased,
            free,
            ..
        } = chunk;
        assert_eq!(
            metadata + own + shared + disks + leased + free,
            512,
            "{number}: {chunk:?}"
        );
    }
    assert_eq!((sum(|c| c.shared), sum(|c| c.own)), (512, 17));
    let at = |chunk: ChunkNo| &map.chunks[chunk.get() as usize];
    assert_eq!((at(whole).shared, at(whole).snapshots_max), (512, 2));
    assert_eq!((at(leased).leased, at(leased).holder), (512, Some(0)));
    // What is a snapshot's own is the same wherever it is shown.
    let listed = pool
        .snapshots()
        .unwrap()
        .into_iter()
        .map(|entry| SnapshotSpace {
            name: entry.name,
            own_bytes: entry.own_bytes.unwrap(),
            shared_bytes: entry.shared_bytes.unwrap(),
        });
    assert_eq!(map.snapshots, listed.collect::<Vec<_>>());
    assert!(map.snapshots[0].own_bytes > 10 * 4096);
    assert_eq!(map.snapshots[0].shared_bytes, 2 << 20);

    // It agrees with the sums of the pool's status.
    let status = pool.status().unwrap();
    assert_eq!(u64::from(sum(|c| c.leased)), status.leased_blocks);
    assert_eq!(u64::from(sum(|c| c.free)), status.free_blocks);
}

#[test]
fn blocks_of_disks_are_told_from_memory() {
    let directory = tempfile::tempdir_in("/dev/shm").unwrap();
    let options = CreateOptions {
        size_bytes: 32 << 20,
        overcommit: false,
    };
    let pool = Pool::create(&directory.path().join("pool"), &options).unwrap();
    pool.create_disk("data", 4 << 20).unwrap();
    let holder = pool.hold("vm").unwrap();
    let head = holder.attach_disk("data").unwrap();
    head.write(0, &[1; 20 * 4096]).unwrap();
    let disks = || {
        let chunks = pool.map().unwrap().chunks.into_iter();
        chunks.map(|chunk| chunk.disks).sum::<u32>()
    };
    // They are its writer's until they are committed.
    assert_eq!(disks(), 0);
    head.give_back().unwrap();
    assert_eq!(disks(), 20);
    pool.copy_disk("data", "copy").unwrap();
    assert_eq!(disks(), 20);
}
