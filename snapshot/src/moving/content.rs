//! Reading what a snapshot has in a chunk of memory.

use crate::chunk_map::ChunkMap;
use crate::error::{Error, Result};
use crate::handle::Pool;
use crate::layout::inode::SnapshotKind;
use crate::number::{BLOCK_SIZE_BYTES, BlockNo, CHUNK_SIZE_BYTES, FrameIndex, FrameSet};
use crate::scrub::digest_of;
use crate::stream::ChunkDigest;

pub(super) const FRAME_BYTES: usize = BLOCK_SIZE_BYTES as usize;
static ZEROS: [u8; FRAME_BYTES] = [0; FRAME_BYTES];

/// The bytes of a chunk's frames.
pub(super) struct Content(Vec<u8>);

impl Content {
    pub(super) fn new() -> Content {
        Content(vec![0; CHUNK_SIZE_BYTES as usize])
    }

    pub(super) fn frame(&self, frame: FrameIndex) -> &[u8] {
        &self.0[frame.as_usize() * FRAME_BYTES..][..FRAME_BYTES]
    }

    pub(super) fn frame_mut(&mut self, frame: FrameIndex) -> &mut [u8] {
        &mut self.0[frame.as_usize() * FRAME_BYTES..][..FRAME_BYTES]
    }

    pub(super) fn all(&self) -> &[u8] {
        &self.0
    }

    pub(super) fn clear(&mut self) {
        self.0.fill(0);
    }

    /// Reads those frames of a chunk that have a block, neighbours at once. The others stay what
    /// they were.
    ///
    /// # Errors
    /// [`Error::Damaged`] when a block does not hold what its digest was made of; [`Error::Io`].
    pub(super) fn read(&mut self, pool: &Pool, map: &ChunkMap, frames: &FrameSet) -> Result<()> {
        let blocks = frames
            .places()
            .filter_map(|frame| Some((frame, map.block(frame)?)));
        let blocks: Vec<(FrameIndex, BlockNo)> = blocks.collect();
        let neighbours = |left: &(FrameIndex, BlockNo), right: &(FrameIndex, BlockNo)| {
            left.0.get() + 1 == right.0.get() && left.1.get().checked_add(1) == Some(right.1.get())
        };
        for run in blocks.chunk_by(neighbours) {
            let bytes = &mut self.0[run[0].0.as_usize() * FRAME_BYTES..][..run.len() * FRAME_BYTES];
            pool.store
                .region
                .read_unfilled(run[0].1.byte_offset(), bytes)?;
            for ((_, block), bytes) in run.iter().zip(bytes.chunks_exact(FRAME_BYTES)) {
                let digest = pool.store.digest(*block)?;
                if digest != 0 && digest != digest_of(bytes) {
                    return Err(Error::damaged(format!(
                        "{block} has changed since its digest was made: 'nvvmm pool scrub' names \
                         its frames"
                    )));
                }
            }
        }
        Ok(())
    }

    /// Those of the frames that count as being there. In a snapshot of a VM frames of zeros do not.
    pub(super) fn counted(&self, kind: SnapshotKind, frames: &FrameSet) -> FrameSet {
        let mut counted = *frames;
        for frame in frames.places().filter(|_| kind == SnapshotKind::Vm) {
            if is_zero(self.frame(frame)) {
                counted.remove(frame);
            }
        }
        counted
    }

    /// The digest of what a map has in a chunk, which is read for it.
    ///
    /// # Errors
    /// As [`Content::read`].
    pub(super) fn digest(
        &mut self,
        pool: &Pool,
        kind: SnapshotKind,
        map: &ChunkMap,
    ) -> Result<Option<ChunkDigest>> {
        let there = map.present();
        self.read(pool, map, &there)?;
        Ok(ChunkDigest::of(kind, &there, &self.0))
    }
}

pub(super) fn is_zero(frame: &[u8]) -> bool {
    frame == ZEROS
}
