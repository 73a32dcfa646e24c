//! Decoded structures of a pool are those that are there.

use std::sync::Arc;

use super::*;
use crate::{ChunkIndex, ChunkMap, CreateOptions, LeafBlocks, NewMap, NewSnapshot, SnapshotKind};

#[test]
fn superblocks_segments_inodes_and_maps_are_told() {
    let directory = tempfile::tempdir_in("/dev/shm").unwrap();
    let options = CreateOptions {
        size_bytes: 32 << 20,
        overcommit: false,
    };
    let pool = Pool::create(&directory.path().join("pool"), &options).unwrap();
    let vm = pool.hold("web").unwrap();
    let mut leaf = LeafBlocks::new();
    for (frame, block) in vm.alloc_blocks(3).unwrap().into_iter().enumerate() {
        leaf.set(frame as u32 * 7, Some(block));
    }
    let whole = vm.alloc_chunk().unwrap();
    let changes = [
        (ChunkIndex::new(0), ChunkMap::Whole(whole)),
        (ChunkIndex::new(5), ChunkMap::Frames(Arc::new(leaf))),
    ];
    let new = NewSnapshot {
        kind: SnapshotKind::Vm,
        name: "base",
        parent: None,
        base: None,
        maps: vec![NewMap::memory(64 << 20, &changes)],
        state: &[9; 5000],
        frames_new: 515,
    };
    vm.commit_snapshot(new, vm.reserve(16).unwrap()).unwrap();

    let inside = pool.inside().unwrap();
    let newest = inside.superblocks.iter().filter_map(|slot| match slot {
        SuperblockInside::Usable {
            generation,
            snapshots,
            size_bytes,
            ..
        } => Some((*generation, *snapshots, *size_bytes)),
        SuperblockInside::Unusable { .. } => None,
    });
    let status = pool.status().unwrap();
    assert_eq!(newest.max(), Some((status.generation, 1, 32 << 20)));
    assert_eq!(inside.superblocks.len(), 2);
    assert_eq!((inside.segments.len(), inside.segments[0].chunks), (1, 16));
    assert_eq!(
        (inside.inodes.len(), &inside.inodes[0].name[..]),
        (1, "base")
    );

    let snapshot = pool.inside_snapshot("base").unwrap();
    let MapInside {
        nodes,
        whole_chunks,
        leaves,
        frames,
        ..
    } = snapshot.maps[0];
    assert_eq!((nodes, whole_chunks, leaves, frames), (2, 1, 1, 515));
    assert_eq!(
        (snapshot.state_blocks.len(), &snapshot.inode),
        (2, &inside.inodes[0])
    );
    assert_eq!(snapshot.state_checksum, crc32fast::hash(&[9; 5000]));

    // What removing leaves as long as somebody pins it.
    pool.remove("base").unwrap();
    assert!(pool.inside().unwrap().inodes[0].orphan);
    assert!(matches!(
        pool.inside_snapshot("base"),
        Err(crate::Error::NotFound { .. })
    ));
}
