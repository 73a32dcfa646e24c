//! A snapshot's part of the engine: frames change hands from the VM to a snapshot file.

use std::sync::{PoisonError, RwLockWriteGuard, atomic::Ordering};

use nvvmm_snapshot::{BlockNo, ChunkMap, Consumed, FrameSet};

use super::{
    RedirectEngine,
    chunk::{KnownChunk, LiveChunk},
};
use crate::{
    cow::{
        CowEngine, CowError, FRAME_SIZE_BYTES, Origin, ShareSet, Still,
        engine::{Counters, lock, os},
        frames::{runs, set_of},
    },
    sys::reservation::Sharing,
};

/// The engine while it stands still: whoever answers an access waits.
#[derive(Debug)]
pub(super) struct StandStill<'a> {
    engine: &'a RedirectEngine,
    copied_before: u64,
    _guard: RwLockWriteGuard<'a, ()>,
}

impl<'a> StandStill<'a> {
    pub fn of(engine: &'a RedirectEngine) -> Self {
        let guard = engine
            .sharing
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        Self {
            engine,
            copied_before: engine.counters().frames_copied,
            _guard: guard,
        }
    }
}

impl Still for StandStill<'_> {
    fn share(&self) -> Result<ShareSet, CowError> {
        self.engine.share()
    }

    fn arm(&self, set: &ShareSet) -> Result<(), CowError> {
        self.engine.arm_shared(set)
    }

    fn frames_copied(&self) -> u64 {
        self.engine.counters().frames_copied - self.copied_before
    }
}

impl RedirectEngine {
    fn share(&self) -> Result<ShareSet, CowError> {
        self.settle_all()?;
        let mut indexes = std::mem::take(&mut *lock(&self.dirty));
        indexes.sort_unstable();
        let mut set = ShareSet::default();
        let mut rhythm = lock(&self.rhythm);
        let epoch = rhythm.end_epoch();
        for index in indexes {
            if let LiveChunk::Known(known) = &mut *lock(self.chunk(index)) {
                known.lone.end_epoch();
                if self.techniques.copy_hot {
                    known.heat.end_epoch(epoch, &known.own);
                    if !known.heat.expected().is_empty() {
                        rhythm.expect(index);
                    }
                }
                set.push(index, known.map.clone(), std::mem::take(&mut known.own));
                known.dirty = false;
            }
        }
        Counters::sub(&self.counters.frames_own, set.frames_new());
        Ok(set)
    }

    fn settle_all(&self) -> Result<(), CowError> {
        if self.unsettled.load(Ordering::Relaxed) == 0 {
            return Ok(());
        }
        for (index, chunk) in self.known_chunks() {
            if let LiveChunk::Known(known) = &mut *lock(chunk) {
                self.settle_counted(index, known)?;
            }
        }
        Ok(())
    }

    /// Settles, and has the budget know of the mappings that it took.
    pub(super) fn settle_counted(
        &self,
        index: u32,
        known: &mut KnownChunk,
    ) -> Result<(), CowError> {
        let before = known.mappings_now();
        let settled = self.settle_early_writes(index, known);
        self.budget.changed(before, known.mappings_now());
        settled
    }

    /// The snapshot was not made: what it shared is the VM's own again. Blocks that were replaced
    /// meanwhile are nobody's any more and go back to the pool. Frames may stay armed; the next
    /// write finds that out.
    pub(super) fn take_back(&self, set: &ShareSet) {
        for (index, map, own) in set.iter() {
            if let LiveChunk::Known(known) = &mut *lock(self.chunk(index)) {
                self.take_back_chunk(index, known, map, own);
            }
        }
    }

    fn take_back_chunk(&self, index: u32, known: &mut KnownChunk, map: &ChunkMap, own: &FrameSet) {
        let (kept, replaced): (Vec<u32>, Vec<u32>) = own
            .iter()
            .partition(|frame| known.block(*frame) == map.block(*frame));
        let replaced: Vec<BlockNo> = replaced.into_iter().filter_map(|f| map.block(f)).collect();
        self.holder.free_blocks(&replaced);
        if let Err(error) = self.make_own(index, known, &set_of(kept)) {
            // What is left shared is copied by its next write: that costs blocks, not content.
            tracing::warn!("frames of an unmade snapshot stay write-protected: {error}");
        }
        self.mark_dirty(index, known);
    }

    /// `frames`, whose blocks are this VM's alone, become own. A write to one that was mapped
    /// privately would not reach its block, so these are mapped anew.
    fn make_own(
        &self,
        index: u32,
        known: &mut KnownChunk,
        frames: &FrameSet,
    ) -> Result<(), CowError> {
        let before = known.mappings_now();
        let private = set_of(frames.iter().filter(|frame| known.private.contains(*frame)));
        let mut done = Ok(());
        for run in known.mapped_runs(&private) {
            done = self.map_run(index, &run, Sharing::Shared);
            if done.is_err() {
                break;
            }
            for frame in run.frames {
                known.private.remove(frame);
            }
        }
        let own = set_of(
            frames
                .iter()
                .filter(|frame| !known.private.contains(*frame)),
        );
        own.iter().for_each(|frame| _ = known.own.insert(frame));
        Counters::add(&self.counters.frames_own, own.count());
        self.budget.changed(before, known.mappings_now());
        done
    }

    pub(super) fn own_consumed(&self, consumed: Consumed) -> Result<(), CowError> {
        // The snapshot's own map has left the pool.
        *self.origin.write().unwrap_or_else(PoisonError::into_inner) = Origin::Empty;
        for chunk in consumed.into_memory() {
            self.take_over_chunk(chunk.index.get(), chunk.map, chunk.taken)?;
        }
        Ok(())
    }

    fn take_over_chunk(&self, index: u32, map: ChunkMap, own: FrameSet) -> Result<(), CowError> {
        let mut live = lock(self.chunk(index));
        match &mut *live {
            LiveChunk::Untouched => {
                Counters::add(&self.counters.frames_own, own.count());
                *live = LiveChunk::Known(Box::new(KnownChunk::unmapped(map, own)));
            }
            // Restoring a device has looked at it: what is still as in the snapshot is mapped anew,
            // writable.
            LiveChunk::Known(known) => self.own_in_place(index, known, &map, &own)?,
        }
        if let LiveChunk::Known(known) = &mut *live {
            // Nothing of it is in any snapshot that the next one could start from.
            self.mark_dirty(index, known);
        }
        Ok(())
    }

    fn own_in_place(
        &self,
        index: u32,
        known: &mut KnownChunk,
        map: &ChunkMap,
        own: &FrameSet,
    ) -> Result<(), CowError> {
        let unchanged = set_of(
            own.iter()
                .filter(|frame| known.block(*frame) == map.block(*frame)),
        );
        let replaced: Vec<BlockNo> = own
            .iter()
            .filter(|frame| !unchanged.contains(*frame))
            .filter_map(|frame| map.block(frame))
            .collect();
        self.holder.free_blocks(&replaced);
        self.settle_early_writes(index, known)?;
        self.make_own(index, known, &unchanged)
    }

    pub(super) fn map_and_populate(&self) -> Result<(), CowError> {
        let present = self.origin().present_chunks()?;
        for index in present {
            self.know(index, &mut lock(self.chunk(index)))?;
        }
        for (index, chunk) in self.known_chunks() {
            if let LiveChunk::Known(known) = &mut *lock(chunk) {
                self.prefault_chunk(index, known)?;
            }
        }
        Ok(())
    }

    fn prefault_chunk(&self, index: u32, known: &mut KnownChunk) -> Result<(), CowError> {
        if let ChunkMap::Hole = known.map {
            return Ok(());
        }
        let before = known.mappings_now();
        let mapped = if known.mapped {
            Ok(())
        } else {
            self.map_chunk(index, known)
        };
        self.budget.changed(before, known.mappings_now());
        mapped?;
        let start = self.reservation().start();
        for run in runs(&known.backed()) {
            self.reservation()
                .populate_read(
                    self.address(index, run.start) - start,
                    run.len() * FRAME_SIZE_BYTES,
                )
                .map_err(os("fill page tables"))?;
        }
        Ok(())
    }
}
