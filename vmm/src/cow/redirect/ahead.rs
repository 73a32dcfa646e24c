//! Work done ahead of the guest and of the next snapshot.
//!
//! **Arming ahead.** To arm a frame takes about a hundred nanoseconds of a pause, for each frame
//! that was written since the last snapshot. It may be done before: an own frame that is armed
//! needs no copy when it is written. It is only disarmed, with its neighbours, and armed again in
//! the pause. So the pause is left with what the guest has written meanwhile.
//!
//! **Copying ahead.** A guest that writes the same frames again and again meets a fault for each
//! cluster of them after each snapshot. Where snapshots come in a quick rhythm, these copies are
//! made by the snapshot's thread while the guest runs, and by the first fault of a chunk for all of
//! it.

use nvvmm_snapshot::{BlockNo, ChunkIndex, FrameIndex, FrameSet};

use super::{
    RedirectEngine,
    chunk::{KnownChunk, LiveChunk, target_runs},
    dense::READY_FOR_HOT,
};
use crate::cow::{
    CHUNK_FRAMES, CowError, Lack,
    counters::{Counters, lock},
    error::os,
    frames::{runs, set_of},
};

/// Fewer frames are not armed ahead: to arm them in the pause takes no time, and they are likely to
/// be written again at once.
const FRAMES_MIN: u64 = 4096;
/// The same where a chunk is one page: one write to it disarms all of it.
const FRAMES_MIN_OF_CHUNKS: u64 = 64 * CHUNK_FRAMES as u64;

impl RedirectEngine {
    pub(super) fn is_worth_arming_ahead(&self) -> bool {
        let least = if self.mapping.has_whole_chunks() {
            FRAMES_MIN_OF_CHUNKS
        } else {
            FRAMES_MIN
        };
        self.prediction.arms_ahead() && Counters::get(&self.chunks.counters().frames_own) >= least
    }

    /// Arms all own frames, chunk by chunk.
    pub(in crate::cow) fn arm_all_ahead(&self) -> Result<(), CowError> {
        for index in self.chunks.dirty() {
            let _not_sharing = self.not_sharing();
            if let LiveChunk::Known(known) = &mut *lock(self.chunks.get(index)) {
                self.arm_chunk_ahead(index, known)?;
            }
        }
        Ok(())
    }

    fn arm_chunk_ahead(&self, index: ChunkIndex, known: &mut KnownChunk) -> Result<(), CowError> {
        if !known.is_mapped() {
            return Ok(());
        }
        known.note_arming();
        for run in known.mapped_runs(&known.own().minus(known.armed_ahead())) {
            self.mapping
                .arm(index, &self.mapping.units_of(&run))
                .map_err(os("arm frames ahead"))?;
            known.note_armed_ahead(&set_of(run.frames));
        }
        Ok(())
    }

    /// Copies the hot frames of a chunk.
    pub(super) fn copy_chunk_ahead(
        &self,
        index: ChunkIndex,
        known: &mut KnownChunk,
    ) -> Result<(), CowError> {
        if !known.is_mapped() {
            return Ok(());
        }
        self.reconcile_unarmed_writes(index, known)?;
        let mut frames = known.hot_now();
        let whole =
            self.mapping.has_whole_chunks() || self.copies_densely(known, frames.count())?;
        if !whole {
            frames = self.affordable(frames);
        }
        let Some(first) = frames.places().next() else {
            return Ok(());
        };
        if whole {
            self.make_ready(READY_FOR_HOT)?;
            self.copy_whole(index, known)?;
        } else {
            if self.mapping.budget().is_spent() {
                return Err(CowError::NoSpace(Lack::Blocks));
            }
            let frames: Vec<FrameIndex> = frames.places().collect();
            let targets =
                self.placement
                    .targets(&mut known.set_aside, &frames, first, &self.chunks)?;
            let targets = self.affordable_targets(targets, &FrameSet::EMPTY);
            self.copy_to(index, known, &targets)?;
        }
        self.note_copied_ahead(known, &frames);
        Ok(())
    }

    /// Notes frames that were copied before the guest wrote them. Those of `frames` count that are
    /// own by now.
    pub(super) fn note_copied_ahead(&self, known: &mut KnownChunk, frames: &FrameSet) {
        let copied = frames.intersection(known.own());
        known.history.copied_ahead(&copied);
        Counters::add(&self.chunks.counters().frames_copied_hot, copied.count());
    }

    /// `frames`, or none where they are so scattered that they would take more mappings than the
    /// budget has for a chunk.
    pub(super) fn affordable(&self, frames: FrameSet) -> FrameSet {
        if runs(&frames).len() > self.mapping.budget().mappings_for_a_chunk() {
            return FrameSet::EMPTY;
        }
        frames
    }

    /// `targets`, or those of `needed` frames alone where all of them would take more mappings than
    /// the budget has for a chunk.
    pub(super) fn affordable_targets(
        &self,
        targets: Vec<(FrameIndex, BlockNo)>,
        needed: &FrameSet,
    ) -> Vec<(FrameIndex, BlockNo)> {
        if target_runs(&targets).len() <= self.mapping.budget().mappings_for_a_chunk() {
            return targets;
        }
        let (kept, unused): (Vec<_>, Vec<_>) = targets
            .into_iter()
            .partition(|(frame, _)| needed.contains(*frame));
        self.placement.free_targets(&unused);
        kept
    }
}
