//! Small snapshots, for tests.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;

use crate::{
    ChunkIndex, ChunkMap, CreateOptions, Holder, LeafBlocks, NewMap, NewSnapshot, Pool, SnapshotId,
    SnapshotKind,
};

const CHUNK: u64 = 2 << 20;

/// A pool of 32 MiB.
pub(crate) fn pool() -> (tempfile::TempDir, Arc<Pool>) {
    let directory = tempfile::tempdir_in("/dev/shm").unwrap();
    let options = CreateOptions {
        size_bytes: 32 << 20,
        overcommit: false,
    };
    let pool = Pool::create(&directory.path().join("pool"), &options).unwrap();
    (directory, pool)
}

/// A snapshot to be taken.
pub(crate) struct Taken<'t> {
    pub(crate) name: &'t str,
    pub(crate) memory_chunks: u64,
    pub(crate) base: Option<SnapshotId>,
    /// Chunk, frame in it, and what it is filled with.
    pub(crate) frames: &'t [(u32, u32, u8)],
}

impl Taken<'_> {
    pub(crate) fn by(self, vm: &Holder) -> SnapshotId {
        let mut changes: Vec<(u32, LeafBlocks)> = Vec::new();
        for (chunk, frame, with) in self.frames {
            let block = vm.alloc_blocks(1).unwrap()[0];
            vm.write_block(block, &[*with; 4096]).unwrap();
            if changes.last().is_none_or(|(last, _)| last != chunk) {
                let before = self
                    .base
                    .map(|base| vm.frame_map(base).unwrap().chunk(*chunk).unwrap().to_leaf());
                changes.push((*chunk, before.unwrap_or_default()));
            }
            changes.last_mut().unwrap().1.set(*frame, Some(block));
        }
        let changes: Vec<(ChunkIndex, ChunkMap)> = changes
            .into_iter()
            .map(|(chunk, leaf)| (ChunkIndex::new(chunk), ChunkMap::Frames(Arc::new(leaf))))
            .collect();
        let new = NewSnapshot {
            kind: SnapshotKind::Vm,
            name: self.name,
            parent: self.base,
            base: self.base,
            maps: vec![NewMap::memory(self.memory_chunks * CHUNK, &changes)],
            state: b"state",
            frames_new: self.frames.len() as u64,
        };
        vm.commit_snapshot(new, vm.reserve(16).unwrap()).unwrap().id
    }
}

/// Of a VM with 16 MiB.
pub(crate) fn of_vm<'t>(
    name: &'t str,
    base: Option<SnapshotId>,
    frames: &'t [(u32, u32, u8)],
) -> Taken<'t> {
    Taken {
        name,
        memory_chunks: 8,
        base,
        frames,
    }
}
