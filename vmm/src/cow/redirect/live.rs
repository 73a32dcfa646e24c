//! Frames of a running guest change hands, one by one: to the image of a process that is captured,
//! and from one that is restarted.

use std::sync::{PoisonError, atomic::Ordering};

use nvvmm_snapshot::{BlockNo, FrameSet};

use super::{
    RedirectEngine,
    chunk::{KnownChunk, LiveChunk, MappedRun, target_runs},
};
use crate::{
    cow::{
        CowError, FRAME_SIZE_BYTES, ShareSet,
        engine::{Counters, lock, os},
        frames::{runs, set_of},
    },
    sys::reservation::Sharing,
};

/// Chunks settled in one go: accesses wait meanwhile.
const SETTLED_AT_ONCE: u32 = 16;

impl RedirectEngine {
    /// Arms frames and counts them as the VM's no more. Those that are in a snapshot already are as
    /// they must be.
    pub(super) fn give_away(
        &self,
        index: u32,
        frames: &FrameSet,
    ) -> Result<Option<ShareSet>, CowError> {
        if self.unit_frames > 1 {
            return Ok(None);
        }
        let _not_sharing = self.sharing.read().unwrap_or_else(PoisonError::into_inner);
        let mut live = lock(self.chunk(index));
        let known = self.know(index, &mut live)?;
        self.settle_counted(index, known)?;
        let own = frames.intersection(&known.own);
        if known.mapped {
            for run in known.mapped_runs(&own.minus(&known.armed)) {
                let size_bytes = run.frames.len() * FRAME_SIZE_BYTES;
                self.arm_range(self.address(index, run.frames.start), size_bytes)
                    .map_err(os("arm frames of a process"))?;
            }
        }
        known.own = known.own.minus(&own);
        known.armed = known.armed.minus(&own);
        Counters::sub(&self.counters.frames_own, u64::from(own.count()));
        let mut set = ShareSet::default();
        set.push(index, known.map.clone(), own);
        Ok(Some(set))
    }

    /// Puts an image's blocks behind frames like those of a snapshot that a VM is restored from:
    /// mapped privately, so that no write reaches them. Whoever waits for it is let go before
    /// they are armed: [`CowEngine::tidy`] does that, or the next access that is held.
    pub(super) fn take_in(&self, index: u32, blocks: &[(u32, BlockNo)]) -> Result<bool, CowError> {
        if self.unit_frames > 1 || self.budget.is_spent() {
            return Ok(false);
        }
        let _not_sharing = self.sharing.read().unwrap_or_else(PoisonError::into_inner);
        let mut live = lock(self.chunk(index));
        let known = self.know(index, &mut live)?;
        let before = known.mappings_now();
        let mut replaced = Vec::new();
        let taken = self.map_foreign(index, known, blocks, &mut replaced);
        self.budget.changed(before, known.mappings_now());
        self.mark_dirty(index, known);
        lock(&self.unneeded).append(&mut replaced);
        taken.map(|()| true)
    }

    /// Settles some chunks that were adopted to, or met a full pool; whether there may be more.
    pub(super) fn settle_some(&self) -> Result<bool, CowError> {
        let _not_sharing = self.sharing.read().unwrap_or_else(PoisonError::into_inner);
        let mut left = SETTLED_AT_ONCE;
        for (index, chunk) in self.known_chunks() {
            if self.unsettled.load(Ordering::Relaxed) == 0 || left == 0 {
                break;
            }
            if let LiveChunk::Known(known) = &mut *lock(chunk)
                && !known.settled
            {
                match self.settle_counted(index, known) {
                    Ok(()) => left -= 1,
                    Err(CowError::NoSpace) => return Ok(false),
                    Err(other) => return Err(other),
                }
            }
        }
        Ok(left == 0)
    }

    /// Only what is mapped shared: of a private mapping the pages that were written would be lost.
    pub(super) fn let_rest(&self, index: u32, frames: &FrameSet) -> Result<(), CowError> {
        let live = lock(self.chunk(index));
        let LiveChunk::Known(known) = &*live else {
            return Ok(());
        };
        if !known.mapped || self.unit_frames > 1 {
            return Ok(());
        }
        let shared = frames.intersection(&known.own).minus(&known.private);
        let shared = shared.minus(&known.armed);
        for run in runs(&shared) {
            self.reservation()
                .drop_page_tables(
                    self.ram_offset(index, run.start),
                    run.len() * FRAME_SIZE_BYTES,
                )
                .map_err(os("let frames rest"))?;
        }
        Ok(())
    }

    /// `replaced` gets the blocks that were the VM's own and are behind no frame any more.
    fn map_foreign(
        &self,
        index: u32,
        known: &mut KnownChunk,
        blocks: &[(u32, BlockNo)],
        replaced: &mut Vec<BlockNo>,
    ) -> Result<(), CowError> {
        let mut rest = blocks;
        for run in target_runs(blocks) {
            let run = MappedRun {
                private: true,
                ..run
            };
            if known.mapped {
                self.place_run(index, &run, Sharing::Private)?;
            }
            let (placed, left) = rest.split_at(run.frames.len());
            rest = left;
            self.lose(known, run.frames.clone(), replaced);
            known.replace(placed);
            if known.mapped {
                run.frames
                    .clone()
                    .for_each(|frame| _ = known.private.insert(frame));
                known.unarmed = known.unarmed.union(&set_of(run.frames.clone()));
                self.unsettle(known);
                self.register_run(index, &run)?;
            }
        }
        Ok(())
    }

    /// What is behind `frames` is so no longer.
    fn lose(
        &self,
        known: &mut KnownChunk,
        frames: std::ops::Range<u32>,
        replaced: &mut Vec<BlockNo>,
    ) {
        let mut newly_backed = 0;
        for frame in frames {
            let block = known.block(frame);
            newly_backed += u32::from(block.is_none());
            if known.own.remove(frame) {
                known.armed.remove(frame);
                replaced.extend(block);
                Counters::sub(&self.counters.frames_own, 1);
            }
        }
        Counters::add(&self.counters.frames_mapped, newly_backed);
    }
}
