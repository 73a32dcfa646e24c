//! Memory of snapshots, for tests.

use std::sync::Arc;

use nvvmm_snapshot::{
    ChunkIndex, ChunkMap, CreateOptions, LeafBlocks, NewMap, NewSnapshot, Pool, SnapshotKind,
};

use super::{InspectError, Memory};

/// The memory of a snapshot named `taken`, in the file `pool` of a directory. Each frame is given
/// by chunk and number and filled with a byte; chunks come in order.
pub fn taken(
    kind: SnapshotKind,
    memory_bytes: u64,
    frames: &[(u32, u32, u8)],
) -> (tempfile::TempDir, Result<Memory, InspectError>) {
    let frames: Vec<_> = frames
        .iter()
        .map(|&(chunk, frame, with)| (chunk, frame, [with; 4096]))
        .collect();
    taken_with(kind, memory_bytes, &frames)
}

/// Does the same, with the bytes of each frame.
pub fn taken_with(
    kind: SnapshotKind,
    memory_bytes: u64,
    frames: &[(u32, u32, [u8; 4096])],
) -> (tempfile::TempDir, Result<Memory, InspectError>) {
    let directory = tempfile::tempdir_in("/dev/shm").unwrap();
    let options = CreateOptions {
        size_bytes: 16 << 20,
        overcommit: false,
    };
    let pool = Pool::create(&directory.path().join("pool"), &options).unwrap();
    let holder = pool.hold("vm").unwrap();
    let blocks = holder.alloc_blocks(frames.len() as u32).unwrap();
    let mut leaves: Vec<(u32, LeafBlocks)> = Vec::new();
    for ((chunk, frame, bytes), block) in frames.iter().zip(blocks) {
        holder.write_block(block, bytes).unwrap();
        if leaves.last().is_none_or(|(last, _)| last != chunk) {
            leaves.push((*chunk, LeafBlocks::new()));
        }
        leaves.last_mut().unwrap().1.set(*frame, Some(block));
    }
    let changes: Vec<(ChunkIndex, ChunkMap)> = leaves
        .into_iter()
        .map(|(chunk, leaf)| (ChunkIndex::new(chunk), ChunkMap::Frames(Arc::new(leaf))))
        .collect();
    let new = NewSnapshot {
        kind,
        name: "taken",
        parent: None,
        base: None,
        maps: vec![NewMap::memory(memory_bytes, &changes)],
        state: b"state",
        frames_new: frames.len() as u64,
    };
    holder
        .commit_snapshot(new, holder.reserve(16).unwrap())
        .unwrap();
    let memory = Memory::of(pool.reader("taken").unwrap());
    (directory, memory)
}
