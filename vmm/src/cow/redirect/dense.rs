//! Guests that write most of a chunk: it is copied as a whole, to one page of the medium if the
//! kernel makes one, and before the guest comes to it.
//!
//! A chunk that is one mapping of one page costs the guest one fault of the host's page tables. A
//! chunk that was copied a cluster at a time costs it one for each frame.

use std::ops::RangeInclusive;

use nvvmm_snapshot::{ChunkIndex, ChunkMap, FrameIndex};

use super::{
    RedirectEngine,
    chunk::{KnownChunk, LiveChunk},
};
use crate::cow::{
    CHUNK_FRAMES, CowError,
    counters::{Counters, lock},
};

/// Chunks made ready while the guest waits for one: the kernel takes nearly as long for one alone.
const READY_FOR_FAULT: RangeInclusive<u32> = 4..=8;
/// Chunks made ready for frames that are written in epoch after epoch, unless there are some.
pub(super) const READY_FOR_HOT: u32 = 8;
/// Wholly free chunks that the pool keeps when a chunk is copied of which the guest has not written
/// all.
const SPARE_FOR_DENSE: u64 = 8;
/// The same for a chunk that the guest may not write at all.
const SPARE_FOR_NEXT: u64 = 16;
/// The same when chunks are made ready.
const SPARE_FOR_READY: u64 = 32;

impl RedirectEngine {
    /// True if the chunk is to be copied as a whole, as the guest is likely to write most of it.
    /// `wanted` frames of it are to be copied now.
    pub(super) fn copies_densely(&self, known: &KnownChunk, wanted: u32) -> Result<bool, CowError> {
        let own = known.own_since_share().count();
        let is_dense = |one_page| self.prediction.is_dense(own, wanted, one_page);
        let dense = is_dense(false) || is_dense(true) && self.makes_one_page()?;
        Ok(dense && known.backed().is_full() && self.placement.can_spare(SPARE_FOR_DENSE)?)
    }

    /// Copies the chunk as a whole since `frame` is written. If the guest comes from the chunks
    /// before this one, those behind it are copied next: as many of them as `ahead` frames are.
    pub(super) fn copy_dense(
        &self,
        index: ChunkIndex,
        known: &mut KnownChunk,
        frame: FrameIndex,
        ahead: u32,
    ) -> Result<(), CowError> {
        let chunks = ahead / CHUNK_FRAMES;
        self.make_ready(chunks.clamp(*READY_FOR_FAULT.start(), *READY_FOR_FAULT.end()))?;
        self.copy_whole(index, known)?;
        self.prediction
            .note_copied(index.frame_number(frame), end_of(index));
        if self.prediction.copies_next() {
            self.prediction
                .go_on_behind(index, ahead, self.mapping.chunks());
        }
        Ok(())
    }

    /// True if a copy of a chunk is likely to be one page.
    pub(super) fn makes_one_page(&self) -> Result<bool, CowError> {
        Ok(self.mapping.has_single_frames()
            && self.placement.huge_pages_are_likely()
            && self.placement.can_spare(SPARE_FOR_READY)?)
    }

    /// Makes chunks ready for copies, as one page each, unless some are or the pool is short.
    pub(super) fn make_ready(&self, chunks: u32) -> Result<(), CowError> {
        if self.mapping.has_single_frames() && self.placement.can_spare(SPARE_FOR_READY)? {
            self.placement.make_ready(chunks)?;
        }
        Ok(())
    }

    /// Copies the next chunk of those that the guest is likely to write. Returns true if there may
    /// be more. What is lacking ends the copying, and is no error.
    pub(super) fn copy_next(&self) -> Result<bool, CowError> {
        let Some((index, more)) = self.prediction.take_next() else {
            return Ok(false);
        };
        let _not_sharing = self.not_sharing();
        let mut live = lock(self.chunks.get(index));
        let copied = match &mut *live {
            // The first touch of a chunk is answered in its own way.
            LiveChunk::Untouched => Ok(false),
            LiveChunk::Known(known) => self
                .mapping
                .counted(known, |known| self.copy_next_chunk(index, known, more)),
        };
        match copied {
            Ok(true) => {
                // The guest may wait for this very chunk.
                self.mapping.wake_if_any(index)?;
                Ok(true)
            }
            Ok(false) | Err(CowError::NoSpace(_) | CowError::Locked(_)) => {
                self.prediction.stop_next();
                Ok(false)
            }
            Err(other) => Err(other),
        }
    }

    /// Copies a chunk that the guest is likely to write next, and behind which there are `more` of
    /// them. Returns false if it should not be.
    fn copy_next_chunk(
        &self,
        index: ChunkIndex,
        known: &mut KnownChunk,
        more: u32,
    ) -> Result<bool, CowError> {
        if known.own().is_full() {
            return Ok(true);
        }
        // Writes to a chunk that is left to the kernel are not held.
        if !known.is_mapped()
            || known.is_left()
            || !matches!(known.map(), ChunkMap::Whole(_))
            || !self.placement.can_spare(SPARE_FOR_NEXT)?
        {
            return Ok(false);
        }
        self.reconcile_unarmed_writes(index, known)?;
        self.make_ready(1 + more)?;
        self.copy_whole(index, known)?;
        let at = index.frame_number(FrameIndex::FIRST);
        self.prediction.note_copied_next(at, end_of(index));
        Counters::add(&self.chunks.counters().chunks_copied_next, 1);
        Ok(true)
    }
}

/// The number of the first frame behind a chunk.
fn end_of(index: ChunkIndex) -> u64 {
    index.frame_number(FrameIndex::FIRST) + u64::from(CHUNK_FRAMES)
}
