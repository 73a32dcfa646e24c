//! How much a VM may hold of the pool without using it, and how it gives back what is too much.
//!
//! A chunk that is set aside for the copies of a guest chunk keeps mappings few, but nobody else
//! can have its blocks. So a VM holds at most [`UNUSED_MIN_BLOCKS`] unused, and [`SHARE_OF_EMPTY`]
//! of what is wholly free in the pool. Nobody has to ask for space: as the pool fills, every VM
//! sees its own bound shrink, takes no more whole chunks, and moves what it has in its emptiest
//! ones into the gaps of the others.

use std::{
    collections::HashSet,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use nvvmm_snapshot::{BlockNo, CHUNK_BLOCKS, ChunkNo};

use super::{
    RedirectEngine,
    chunk::{KnownChunk, LiveChunk},
};
use crate::cow::{
    CHUNK_FRAMES, CowError, FRAME_SIZE_BYTES,
    engine::{lock, os},
    frames::set_of,
};

/// What a VM may hold unused of a full pool: two chunks, one that is being filled and the gaps in
/// others.
pub(super) const UNUSED_MIN_BLOCKS: u64 = 2 * CHUNK_BLOCKS as u64;
/// One part in so many of the wholly free chunks may be set aside besides.
pub(super) const SHARE_OF_EMPTY: u64 = 8;
/// A count of the pool's free chunks is good for so long.
const COUNT_LASTS: Duration = Duration::from_millis(50);
/// Chunks emptied in one go: accesses wait meanwhile.
const VACATE_MAX: usize = 64;

/// Blocks that may still be set aside, and when that was found out: counting takes time in a large
/// pool.
#[derive(Debug, Default)]
pub(super) struct Allowance(Mutex<Option<(Instant, u64)>>);

impl RedirectEngine {
    /// Frees some of the blocks that are behind no frame any more; whether there were any.
    pub(super) fn free_unneeded(&self) -> bool {
        let mut unneeded = lock(&self.unneeded);
        let left = unneeded.len().saturating_sub(CHUNK_FRAMES as usize);
        let blocks = unneeded.split_off(left);
        self.holder.free_blocks(&blocks);
        !blocks.is_empty()
    }

    /// Blocks that this VM may hold unused now.
    pub(super) fn unused_bound(&self) -> Result<u64, CowError> {
        let empty = u64::from(self.pool.empty_chunks()?) * u64::from(CHUNK_BLOCKS);
        Ok(UNUSED_MIN_BLOCKS + empty / SHARE_OF_EMPTY)
    }

    /// Whether one more chunk may be set aside; if so, it counts as that.
    pub(super) fn may_set_aside(&self) -> Result<bool, CowError> {
        let more = u64::from(CHUNK_BLOCKS);
        if self.holder.unused_blocks_at_most() + more <= UNUSED_MIN_BLOCKS {
            return Ok(true);
        }
        let mut allowance = lock(&self.allowance.0);
        let (when, mut left) = match *allowance {
            Some((when, left)) if when.elapsed() < COUNT_LASTS => (when, left),
            _ => {
                let unused = self.holder.unused_blocks()?;
                (Instant::now(), self.unused_bound()?.saturating_sub(unused))
            }
        };
        let may = left >= more;
        if may {
            left -= more;
        }
        *allowance = Some((when, left));
        Ok(may)
    }

    /// Gives back some of what is held beyond the bound. Whether there is more that can be.
    pub(super) fn keep_bound(&self) -> Result<bool, CowError> {
        // Where a chunk is one page it is taken and given back as a whole.
        let whole = self.unit_frames == CHUNK_FRAMES;
        if whole || self.holder.unused_blocks_at_most() <= UNUSED_MIN_BLOCKS {
            return Ok(false);
        }
        let (unused, bound) = (self.holder.unused_blocks()?, self.unused_bound()?);
        if unused <= bound {
            return Ok(false);
        }
        self.end_all_set_aside();
        self.give_back(bound)?;
        let left = self.holder.unused_blocks()?;
        Ok(bound < left && left < unused)
    }

    /// Empties leased chunks until no more than `bound` blocks are unused, as far as that can be in
    /// one go.
    pub(in crate::cow) fn give_back(&self, bound: u64) -> Result<(), CowError> {
        let surplus = self.holder.unused_blocks()?.saturating_sub(bound);
        if surplus == 0 {
            return Ok(());
        }
        let vacating = self.holder.vacate(surplus, VACATE_MAX)?;
        let chunks: HashSet<ChunkNo> = vacating.chunks().iter().copied().collect();
        for (index, chunk) in self.known_chunks() {
            let _not_sharing = self.sharing.read().unwrap_or_else(PoisonError::into_inner);
            // One that is locked is being served.
            let Ok(mut live) = chunk.try_lock() else {
                continue;
            };
            let LiveChunk::Known(known) = &mut *live else {
                continue;
            };
            let before = known.mappings_now();
            let moved = self.move_out(index, known, &chunks);
            self.budget.changed(before, known.mappings_now());
            match moved {
                Ok(()) => {}
                Err(CowError::NoSpace) => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Moves the guest chunk's own frames out of `chunks`, into gaps of other leases.
    fn move_out(
        &self,
        index: u32,
        known: &mut KnownChunk,
        chunks: &HashSet<ChunkNo>,
    ) -> Result<(), CowError> {
        let moving: Vec<(u32, BlockNo)> = known
            .own
            .iter()
            .filter_map(|frame| Some((frame, known.block(frame)?)))
            .filter(|(_, block)| chunks.contains(&block.chunk()))
            .collect();
        if moving.is_empty() || !known.mapped {
            return Ok(());
        }
        if self.budget.is_exceeded() {
            return Err(CowError::NoSpace);
        }
        let targets = self.holder.alloc_in_leases(moving.len() as u32)?;
        let targets: Vec<(u32, BlockNo)> = moving
            .iter()
            .map(|(frame, _)| *frame)
            .zip(targets)
            .collect();
        // Armed, nobody changes them between the copy and the new mapping.
        for run in known.mapped_runs(&set_of(moving.iter().map(|(frame, _)| *frame))) {
            let armed = self.arm_range(
                self.address(index, run.frames.start),
                run.frames.len() * FRAME_SIZE_BYTES,
            );
            if let Err(error) = armed {
                self.holder
                    .free_blocks(&targets.iter().map(|(_, block)| *block).collect::<Vec<_>>());
                return Err(os("arm frames to move them")(error));
            }
        }
        let moved = self.redirect(index, known, &targets, |run| self.copy_run(index, run));
        let left: Vec<BlockNo> = moving
            .into_iter()
            .filter(|(frame, block)| known.block(*frame) != Some(*block))
            .map(|(_, block)| block)
            .collect();
        self.holder.free_blocks(&left);
        moved
    }
}
