//! Frames that are hot are copied ahead of the guest, right after a snapshot has armed them.
//!
//! A guest that writes the same frames again and again meets a fault for each cluster of them after
//! each snapshot. Where snapshots come in a quick rhythm these copies are made by the snapshot's
//! thread while the guest runs, and by the first fault of a chunk for all of it.

use std::{
    sync::PoisonError,
    time::{Duration, Instant},
};

use nvvmm_snapshot::{BlockNo, FrameSet};

use super::{
    RedirectEngine,
    chunk::{KnownChunk, LiveChunk, target_runs},
};
use crate::cow::{
    CHUNK_FRAMES, CowError,
    engine::{Counters, lock},
    frames::runs,
};

/// Epochs that last longer are forgotten: a copy that is not needed costs memory, and a fault in
/// seconds costs nothing.
const EPOCH_MAX: Duration = Duration::from_secs(2);

/// Snapshots in a rhythm.
#[derive(Debug, Default)]
pub(super) struct Rhythm {
    /// The number of the epoch that ended last. One that lasted long counts twice, so that what
    /// came before is no neighbour.
    epoch: u64,
    ended: Option<Instant>,
    /// Chunks with hot frames, to be copied ahead.
    hot: Vec<u32>,
}

impl Rhythm {
    /// An epoch ends now; its number.
    pub fn end_epoch(&mut self) -> u64 {
        let now = Instant::now();
        let short = self.ended.is_some_and(|ended| now - ended <= EPOCH_MAX);
        self.ended = Some(now);
        self.epoch += if short { 1 } else { 2 };
        self.hot.clear();
        self.epoch
    }

    /// Has a chunk's hot frames copied ahead.
    pub fn expect(&mut self, index: u32) {
        self.hot.push(index);
    }
}

impl RedirectEngine {
    /// Copies what is hot of the last snapshot, chunk by chunk, until the pool is full or the
    /// mappings are many.
    pub(super) fn copy_hot_ahead(&self) -> Result<(), CowError> {
        let indexes = std::mem::take(&mut lock(&self.rhythm).hot);
        for index in indexes {
            let _not_sharing = self.sharing.read().unwrap_or_else(PoisonError::into_inner);
            let mut live = lock(self.chunk(index));
            let LiveChunk::Known(known) = &mut *live else {
                continue;
            };
            let before = known.mappings_now();
            let copied = self.copy_chunk_ahead(index, known);
            self.budget.changed(before, known.mappings_now());
            match copied {
                // Whoever waits for it is let go by the fault thread, which waits for the chunk.
                Ok(()) => {}
                Err(CowError::NoSpace) => return Ok(()),
                Err(other) => return Err(other),
            }
        }
        Ok(())
    }

    fn copy_chunk_ahead(&self, index: u32, known: &mut KnownChunk) -> Result<(), CowError> {
        if !known.mapped {
            return Ok(());
        }
        self.settle_early_writes(index, known)?;
        let whole = self.unit_frames == CHUNK_FRAMES;
        let mut frames = known.hot_now();
        if !whole {
            frames = self.worth_copying_ahead(frames);
        }
        let Some(first) = frames.iter().next() else {
            return Ok(());
        };
        if whole {
            if !self.copy_whole(index, known)? {
                return Err(CowError::NoSpace);
            }
        } else {
            if self.budget.is_spent() {
                return Err(CowError::NoSpace);
            }
            let frames: Vec<u32> = frames.iter().collect();
            let targets = self.targets(known, &frames, first)?;
            let targets = self.not_scattered(targets, &FrameSet::EMPTY);
            self.copy_to(index, known, &targets)?;
        }
        self.note_copied_ahead(known, &frames);
        Ok(())
    }

    /// None, where they are so scattered that they would take more mappings than the budget has for
    /// a chunk.
    pub(super) fn worth_copying_ahead(&self, frames: FrameSet) -> FrameSet {
        if runs(&frames).len() > self.budget.mappings_for_a_chunk() {
            return FrameSet::EMPTY;
        }
        frames
    }

    /// Of `targets`, those of `needed` frames alone, where all of them would take more mappings
    /// than the budget has for a chunk.
    pub(super) fn not_scattered(
        &self,
        targets: Vec<(u32, BlockNo)>,
        needed: &FrameSet,
    ) -> Vec<(u32, BlockNo)> {
        if target_runs(&targets).len() <= self.budget.mappings_for_a_chunk() {
            return targets;
        }
        let (kept, unused): (Vec<_>, Vec<_>) = targets
            .into_iter()
            .partition(|(frame, _)| needed.contains(*frame));
        let unused: Vec<BlockNo> = unused.into_iter().map(|(_, block)| block).collect();
        self.holder.free_blocks(&unused);
        kept
    }

    /// Of `frames`, those that are the VM's own by now were copied before the guest wrote them.
    pub(super) fn note_copied_ahead(&self, known: &mut KnownChunk, frames: &FrameSet) {
        let copied = frames.intersection(&known.own);
        known.heat.copied_ahead(&copied);
        Counters::add(&self.counters.frames_copied_hot, copied.count());
    }
}
