//! Frames that are hot are copied ahead of the guest, right after a snapshot has armed them.
//!
//! A guest that writes the same frames again and again meets a fault for each cluster of them after each snapshot. Where
//! snapshots come in a quick rhythm these copies are made by the snapshot's thread while the guest runs, and by the first
//! fault of a chunk for all of it.

use std::{
    sync::PoisonError,
    time::{Duration, Instant},
};

use nvvmm_snapshot::FrameSet;

use super::{
    RedirectEngine,
    chunk::{KnownChunk, LiveChunk},
};
use crate::cow::{
    CHUNK_FRAMES, CowError,
    engine::{Counters, lock},
};

/// Epochs that last longer are forgotten: a copy that is not needed costs memory, and a fault in seconds costs nothing.
const EPOCH_MAX: Duration = Duration::from_secs(2);

/// Snapshots in a rhythm.
#[derive(Debug, Default)]
pub(super) struct Rhythm {
    /// The number of the epoch that ended last. One that lasted long counts twice, so that what came before is no neighbour.
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
    /// Copies what is hot of the last snapshot, chunk by chunk, until the pool is full or the mappings are many.
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
        let frames = known.hot_now();
        let Some(first) = frames.iter().next() else {
            return Ok(());
        };
        if self.unit_frames == CHUNK_FRAMES {
            if !self.copy_whole(index, known)? {
                return Err(CowError::NoSpace);
            }
        } else {
            if self.budget.is_spent() {
                return Err(CowError::NoSpace);
            }
            let frames: Vec<u32> = frames.iter().collect();
            let targets = self.targets(known, &frames, first)?;
            self.copy_to(index, known, &targets)?;
        }
        self.note_copied_ahead(known, &frames);
        Ok(())
    }

    /// Of `frames`, those that are the VM's own by now were copied before the guest wrote them.
    pub(super) fn note_copied_ahead(&self, known: &mut KnownChunk, frames: &FrameSet) {
        let copied = frames.intersection(&known.own);
        known.heat.copied_ahead(&copied);
        Counters::add(&self.counters.frames_copied_hot, copied.count());
    }
}
