//! Frames are armed while the guest still runs, for the snapshot that comes next.
//!
//! To arm a frame takes a hundred nanoseconds or so of a pause, for each that was written since the
//! last snapshot. It may be done before: a frame that is armed and the VM's own needs no copy when
//! it is written, it is only disarmed, with its neighbours, and armed again in the pause.
//! So the pause is left with what the guest has written meanwhile.

use std::{
    ops::Range,
    sync::{PoisonError, atomic::Ordering},
};

use super::{
    RedirectEngine,
    chunk::{KnownChunk, LiveChunk},
};
use crate::cow::{
    CHUNK_FRAMES, CowError, FRAME_SIZE_BYTES,
    engine::{lock, os},
    frames::set_of,
};

/// Fewer are armed in a pause in no time, and more likely to be written again at once.
const FRAMES_MIN: u64 = 4096;
/// The same where a chunk is one page: one write to it takes it back as a whole.
const FRAMES_MIN_OF_CHUNKS: u64 = 64 * CHUNK_FRAMES as u64;

impl RedirectEngine {
    pub(super) fn is_worth_arming_ahead(&self) -> bool {
        let least = match self.unit_frames {
            CHUNK_FRAMES => FRAMES_MIN_OF_CHUNKS,
            _ => FRAMES_MIN,
        };
        self.techniques.arm_ahead && self.counters.frames_own.load(Ordering::Relaxed) >= least
    }

    /// Arms the VM's own frames, chunk by chunk.
    pub(in crate::cow) fn arm_own_ahead(&self) -> Result<(), CowError> {
        let indexes = lock(&self.dirty).clone();
        for index in indexes {
            let _not_sharing = self.sharing.read().unwrap_or_else(PoisonError::into_inner);
            if let LiveChunk::Known(known) = &mut *lock(self.chunk(index)) {
                self.arm_chunk_ahead(index, known)?;
            }
        }
        Ok(())
    }

    fn arm_chunk_ahead(&self, index: u32, known: &mut KnownChunk) -> Result<(), CowError> {
        if !known.mapped {
            return Ok(());
        }
        for run in known.mapped_runs(&known.own.minus(&known.armed)) {
            let frames = self.unit_of(run.frames.start).start..self.unit_of(run.frames.end - 1).end;
            self.arm_range(
                self.address(index, frames.start),
                frames.len() * FRAME_SIZE_BYTES,
            )
            .map_err(os("arm frames ahead"))?;
            known.armed = known.armed.union(&set_of(run.frames));
        }
        Ok(())
    }

    /// Lets a write to one of the VM's own frames go on, and those to its neighbours.
    pub(super) fn disarm_around(
        &self,
        index: u32,
        known: &mut KnownChunk,
        frame: u32,
        unit: Range<u32>,
    ) -> Result<(), CowError> {
        let window = set_of(self.window_around(known, frame));
        let armed = window.intersection(&known.armed).union(&set_of(unit));
        for run in known.mapped_runs(&armed) {
            let size_bytes = run.frames.len() * FRAME_SIZE_BYTES;
            self.protect_range(self.address(index, run.frames.start), size_bytes, false)
                .map_err(os("disarm frames"))?;
        }
        known.armed = known.armed.minus(&armed);
        Ok(())
    }
}
