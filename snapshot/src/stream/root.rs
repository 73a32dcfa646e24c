//! The root of a snapshot's content: a hash tree over its memory, its disks, its saved state, its
//! kind and the size of its memory (docs/formats/stream.md#content-root).

use blake3::Hasher;

use super::disks::StreamDisk;
use crate::identity::ContentRoot;
use crate::layout::inode::SnapshotKind;
use crate::number::{BLOCK_SIZE_BYTES, CHUNK_SIZE_BYTES, ChunkIndex, FrameSet};

/// Contexts of the hashes: of a chunk, and of the root.
pub(crate) const CHUNK_CONTEXT: &str = "nvvmm 2026-11-29 chunk of a snapshot's memory";
pub(crate) const ROOT_CONTEXT: &str = "nvvmm 2026-11-29 root of a snapshot's content";

const FRAME_BYTES: usize = BLOCK_SIZE_BYTES as usize;
static ZEROS: [u8; FRAME_BYTES] = [0; FRAME_BYTES];

/// The digest of what a snapshot has in a chunk of its memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkDigest([u8; 32]);

impl ChunkDigest {
    /// The digest of the frames of a chunk that are there; `content` is all 2 MiB of it. None when
    /// it counts as a hole: no frame is there, or in a VM nothing but frames of zeros.
    pub fn of(kind: SnapshotKind, there: &FrameSet, content: &[u8]) -> Option<ChunkDigest> {
        debug_assert_eq!(content.len() as u64, CHUNK_SIZE_BYTES);
        let mut counted = *there;
        if kind == SnapshotKind::Vm {
            for frame in there.places() {
                if frame_of(content, frame.as_usize()) == ZEROS {
                    counted.remove(frame);
                }
            }
        }
        if counted.is_empty() {
            return None;
        }
        let mut hasher = Hasher::new_derive_key(CHUNK_CONTEXT);
        for word in counted.words() {
            hasher.update(&word.to_le_bytes());
        }
        // Neighbours at once: the hash is faster on long input.
        let mut run = 0..0;
        for frame in counted.places().map(|frame| frame.as_usize()) {
            if frame != run.end {
                hasher.update(&content[run.start * FRAME_BYTES..run.end * FRAME_BYTES]);
                run.start = frame;
            }
            run.end = frame + 1;
        }
        hasher.update(&content[run.start * FRAME_BYTES..run.end * FRAME_BYTES]);
        Some(ChunkDigest(*hasher.finalize().as_bytes()))
    }
}

fn frame_of(content: &[u8], frame: usize) -> &[u8] {
    &content[frame * FRAME_BYTES..][..FRAME_BYTES]
}

/// Computes the root of a snapshot's content, chunk by chunk.
#[derive(Debug, Clone)]
pub struct RootHasher(Hasher);

impl RootHasher {
    /// Begins with all but the memory.
    pub fn begin(kind: SnapshotKind, memory_bytes: u64, state: &[u8]) -> RootHasher {
        let mut hasher = Hasher::new_derive_key(ROOT_CONTEXT);
        hasher.update(&(kind as u64).to_le_bytes());
        hasher.update(&memory_bytes.to_le_bytes());
        hasher.update(&(state.len() as u64).to_le_bytes());
        hasher.update(blake3::hash(state).as_bytes());
        RootHasher(hasher)
    }

    /// Adds a chunk. Chunks come in the order of their indices; holes need not come.
    pub fn add(&mut self, index: ChunkIndex, digest: Option<ChunkDigest>) {
        if let Some(digest) = digest {
            self.0.update(&u64::from(index.get()).to_le_bytes());
            self.0.update(&digest.0);
        }
    }

    /// Begins a disk, behind all chunks of memory and of the disks before; its chunks follow.
    pub fn disk(&mut self, disk: &StreamDisk) {
        let name = disk.name.as_str();
        // No chunk has this index.
        self.0.update(&u64::MAX.to_le_bytes());
        self.0.update(&disk.size_bytes.to_le_bytes());
        self.0.update(&(name.len() as u64).to_le_bytes());
        self.0.update(name.as_bytes());
    }

    /// The root, once all chunks were added.
    pub fn finish(&self) -> ContentRoot {
        ContentRoot::of_hash(*self.0.finalize().as_bytes())
    }
}

#[cfg(test)]
#[path = "root_test.rs"]
mod root_test;
