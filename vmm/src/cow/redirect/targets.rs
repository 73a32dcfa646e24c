//! Which fresh blocks copies go to.

use nvvmm_snapshot::{BlockNo, ChunkNo};

use super::{
    RedirectEngine,
    chunk::{KnownChunk, LiveChunk},
};
use crate::cow::{CowError, engine::is_full};

impl RedirectEngine {
    /// A fresh block for each of `frames`, or, when the pool is nearly full, for `must` alone.
    ///
    /// Preferred is the same index of a pool chunk that is set aside for this guest chunk:
    /// neighbouring frames then lie beside each other and merge into one mapping, whatever
    /// order they were written in.
    pub(super) fn targets(
        &self,
        known: &mut KnownChunk,
        frames: &[u32],
        must: u32,
    ) -> Result<Vec<(u32, BlockNo)>, CowError> {
        if let Some(spare) = known.spare
            && let Some(targets) = self.same_indexes(spare, frames)
        {
            return Ok(targets);
        }
        if !self.may_set_aside()? {
            return self.scattered(known, frames, must);
        }
        match self.holder.lease_chunk() {
            Ok(spare) => {
                if let Some(old) = known.spare.replace(spare) {
                    self.holder.end_set_aside(old);
                }
                match self.same_indexes(spare, frames) {
                    Some(targets) => Ok(targets),
                    None => self.scattered(known, frames, must),
                }
            }
            Err(error) if is_full(&error) => self.scattered(known, frames, must),
            Err(other) => Err(other.into()),
        }
    }

    /// The blocks of `chunk` at the frames' own indexes, if all of them are free.
    fn same_indexes(&self, chunk: ChunkNo, frames: &[u32]) -> Option<Vec<(u32, BlockNo)>> {
        for (count, frame) in frames.iter().enumerate() {
            if !self.holder.alloc_at(chunk, *frame) {
                let taken: Vec<BlockNo> = frames[..count]
                    .iter()
                    .map(|frame| chunk.block(*frame))
                    .collect();
                self.holder.free_blocks(&taken);
                return None;
            }
        }
        Some(
            frames
                .iter()
                .map(|frame| (*frame, chunk.block(*frame)))
                .collect(),
        )
    }

    /// Blocks wherever there are any: no whole chunk is free.
    fn scattered(
        &self,
        known: &mut KnownChunk,
        frames: &[u32],
        must: u32,
    ) -> Result<Vec<(u32, BlockNo)>, CowError> {
        if let Ok(blocks) = self.holder.alloc_blocks(frames.len() as u32) {
            return Ok(frames.iter().copied().zip(blocks).collect());
        }
        let blocks = match self.holder.alloc_blocks(1) {
            Err(error) if is_full(&error) => {
                if let Some(spare) = known.spare.take() {
                    self.holder.end_set_aside(spare);
                }
                self.end_all_set_aside();
                self.holder.alloc_blocks(1)?
            }
            other => other?,
        };
        Ok(blocks.into_iter().map(|block| (must, block)).collect())
    }

    /// Lets anybody use what is set aside for other chunks. One that is locked is being served and
    /// may need its own.
    pub(super) fn end_all_set_aside(&self) {
        for (_, chunk) in self.known_chunks() {
            let Ok(mut live) = chunk.try_lock() else {
                continue;
            };
            if let LiveChunk::Known(known) = &mut *live
                && let Some(spare) = known.spare.take()
            {
                self.holder.end_set_aside(spare);
            }
        }
    }
}
