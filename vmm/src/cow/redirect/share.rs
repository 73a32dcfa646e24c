//! The instant of a snapshot: frames of the VM become frames of a snapshot, or its own again.

use std::sync::{PoisonError, RwLockWriteGuard};

use nvvmm_snapshot::{BlockNo, ChunkIndex, ChunkMap, FrameIndex, FrameSet};

use super::{
    RedirectEngine,
    chunk::{KnownChunk, LiveChunk, MappedRun},
};
use crate::{
    cow::{
        CowError, ShareSet, Still,
        counters::{Counters, lock},
        frames::{runs, set_of},
    },
    stats::Phases,
};

/// The engine while it stands still: answers to accesses wait.
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
            copied_before: engine.frames_copied(),
            _guard: guard,
        }
    }
}

impl Still for StandStill<'_> {
    fn share(&self) -> Result<ShareSet, CowError> {
        let RedirectEngine {
            chunks, prediction, ..
        } = self.engine;
        self.engine.reconcile_all()?;
        self.engine.unarmed.end_snapshot();
        let mut set = ShareSet::default();
        let mut epoch = prediction.end_epoch();
        for index in chunks.take_dirty() {
            if let LiveChunk::Known(known) = &mut *lock(chunks.get(index)) {
                let own = known.share_all();
                epoch.of_chunk(index, &mut known.history, &own);
                set.push(index, known.map().clone(), own);
            }
        }
        chunks.lost(set.frames_new());
        Ok(set)
    }

    /// Arms those of the frames that were not armed ahead.
    fn arm(&self, set: &ShareSet, phases: &mut Phases) -> Result<(), CowError> {
        phases.run("ArmWriteProtect", || {
            let mut arming = self.engine.mapping.arming();
            for (index, _, own) in set.iter() {
                let mut live = lock(self.engine.chunks.get(index));
                let LiveChunk::Known(known) = &mut *live else {
                    continue;
                };
                let armed = known.take_armed_ahead();
                if known.is_mapped() {
                    for run in known.mapped_runs(&own.minus(&armed)) {
                        arming.add(index, &run)?;
                    }
                }
            }
            arming.end()
        })
    }

    fn frames_copied(&self) -> u64 {
        self.engine.frames_copied() - self.copied_before
    }
}

impl RedirectEngine {
    fn frames_copied(&self) -> u64 {
        Counters::get(&self.chunks.counters().frames_copied)
    }

    /// Makes frames own again that a snapshot of `map` shared and that still have these blocks.
    pub(super) fn roll_back_chunk(
        &self,
        index: ChunkIndex,
        known: &mut KnownChunk,
        map: &ChunkMap,
        own: &FrameSet,
    ) {
        // A frame may have been written that was mapped since it was shared.
        let reconciled = self.reconcile_counted(index, known);
        let kept = self.free_replaced(known, map, own);
        if let Err(error) = reconciled.and_then(|()| self.make_own(index, known, &kept)) {
            // Frames that are left shared are copied by their next write: that costs blocks, and
            // loses nothing.
            tracing::warn!("frames of a snapshot that was not made stay write-protected: {error}");
        }
        self.chunks.mark_dirty(index, known);
    }

    /// Frees blocks of `map` that are not behind their frames any more. Returns the frames that
    /// still have theirs.
    fn free_replaced(&self, known: &KnownChunk, map: &ChunkMap, own: &FrameSet) -> FrameSet {
        let (kept, replaced): (Vec<FrameIndex>, Vec<FrameIndex>) = own
            .places()
            .partition(|frame| known.block(*frame) == map.block(*frame));
        let replaced: Vec<BlockNo> = replaced.into_iter().filter_map(|f| map.block(f)).collect();
        self.placement.free(&replaced);
        set_of(kept)
    }

    /// Makes `frames` own, whose blocks are this VM's alone. A write to a frame that was mapped
    /// privately would not reach its block, so such frames are mapped anew.
    fn make_own(
        &self,
        index: ChunkIndex,
        known: &mut KnownChunk,
        frames: &FrameSet,
    ) -> Result<(), CowError> {
        self.mapping.counted(known, |known| {
            let mut done = Ok(());
            for run in known.mapped_runs(&frames.intersection(known.private())) {
                let run = MappedRun {
                    private: false,
                    ..run
                };
                done = self.mapping.map_run(index, &run);
                if done.is_err() {
                    break;
                }
                known.note_mapped_shared(&set_of(run.frames));
            }
            let new = known.make_own(&frames.minus(known.private()));
            Counters::add(&self.chunks.counters().frames_own, new);
            done
        })
    }

    /// Makes frames of a consumed snapshot own.
    pub(super) fn take_over_chunk(
        &self,
        index: ChunkIndex,
        map: ChunkMap,
        own: FrameSet,
    ) -> Result<(), CowError> {
        let mut live = lock(self.chunks.get(index));
        match &mut *live {
            LiveChunk::Untouched => {
                Counters::add(&self.chunks.counters().frames_own, own.count());
                *live = LiveChunk::Known(Box::new(KnownChunk::unmapped(map, own)));
            }
            // Restoring a device has read it. Frames that are still as in the snapshot are mapped
            // anew, writable.
            LiveChunk::Known(known) => {
                self.reconcile_counted(index, known)?;
                let unchanged = self.free_replaced(known, &map, &own);
                self.make_own(index, known, &unchanged)?;
            }
        }
        if let LiveChunk::Known(known) = &mut *live {
            // No snapshot that the next one could start from has any of it.
            self.chunks.mark_dirty(index, known);
        }
        Ok(())
    }

    /// Maps a chunk that has blocks, and fills its page tables.
    pub(super) fn prefault_chunk(
        &self,
        index: ChunkIndex,
        known: &mut KnownChunk,
    ) -> Result<(), CowError> {
        if let ChunkMap::Hole = known.map() {
            return Ok(());
        }
        if !known.is_mapped() {
            self.mapping
                .counted(known, |known| self.map_chunk(index, known))?;
        }
        self.populate_chunk(index, known)
    }

    /// Fills the page tables of a mapped chunk for reading.
    pub(super) fn populate_chunk(
        &self,
        index: ChunkIndex,
        known: &KnownChunk,
    ) -> Result<(), CowError> {
        for run in runs(&known.backed()) {
            self.mapping.populate(index, &run)?;
        }
        Ok(())
    }
}
