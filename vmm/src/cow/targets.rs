//! Which fresh blocks copies go to.

use nvvmm_snapshot::{BlockNo, Error as PoolError, FrameSet};

use super::{
    chunk::{KnownChunk, LiveChunk, Spare},
    engine::{CowEngine, CowError},
};

impl CowEngine {
    /// A fresh block for each of `frames`, or, when the pool is nearly full, for `must` alone.
    ///
    /// Preferred is the same index of a pool chunk that this guest chunk has to itself: neighbouring frames then
    /// lie beside each other and merge into one mapping, whatever order they were written in.
    pub(super) fn targets(
        &self,
        known: &mut KnownChunk,
        frames: &[u32],
        must: u32,
    ) -> Result<Vec<(u32, BlockNo)>, CowError> {
        if let Some(spare) = &mut known.spare
            && self.complete(spare, frames)
        {
            return Ok(take(spare, frames));
        }
        match self.holder.alloc_chunk() {
            Ok(chunk) => {
                let mut spare = Spare { chunk, free: FrameSet::FULL };
                let targets = take(&mut spare, frames);
                if let Some(old) = known.spare.replace(spare) {
                    self.give_back(&old);
                }
                Ok(targets)
            }
            Err(PoolError::PoolFull { .. }) => self.scattered_targets(known, frames, must),
            Err(other) => Err(other.into()),
        }
    }

    /// Makes every index of `frames` free in the spare chunk, as far as blocks that left a snapshot allow.
    fn complete(&self, spare: &mut Spare, frames: &[u32]) -> bool {
        frames.iter().all(|frame| {
            if !spare.free.contains(*frame) && self.holder.alloc_at(spare.chunk, *frame) {
                spare.free.insert(*frame);
            }
            spare.free.contains(*frame)
        })
    }

    fn scattered_targets(
        &self,
        known: &mut KnownChunk,
        frames: &[u32],
        must: u32,
    ) -> Result<Vec<(u32, BlockNo)>, CowError> {
        if let Ok(blocks) = self.holder.alloc_blocks(frames.len() as u32) {
            return Ok(frames.iter().copied().zip(blocks).collect());
        }
        if let Some(spare) = &mut known.spare
            && self.complete(spare, &[must])
        {
            return Ok(take(spare, &[must]));
        }
        let block = match self.holder.alloc_blocks(1) {
            Err(PoolError::PoolFull { .. }) => {
                self.give_back_spares();
                self.holder.alloc_blocks(1)?
            }
            other => other?,
        };
        Ok(block.into_iter().map(|block| (must, block)).collect())
    }

    fn give_back(&self, spare: &Spare) {
        let unused: Vec<BlockNo> =
            spare.free.iter().map(|frame| spare.chunk.block(frame)).collect();
        self.holder.free_blocks(&unused);
    }

    /// Returns what other chunks keep for later. A chunk that is locked is being served: it may need its own.
    fn give_back_spares(&self) {
        for (_, chunk) in self.known_chunks() {
            let Ok(mut live) = chunk.try_lock() else { continue };
            if let LiveChunk::Known(known) = &mut *live
                && let Some(spare) = known.spare.take()
            {
                self.give_back(&spare);
            }
        }
    }
}

fn take(spare: &mut Spare, frames: &[u32]) -> Vec<(u32, BlockNo)> {
    frames
        .iter()
        .map(|frame| {
            spare.free.remove(*frame);
            (*frame, spare.chunk.block(*frame))
        })
        .collect()
}
