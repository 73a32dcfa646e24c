//! The engine: its parts, and its implementation of [`CowEngine`].

use std::{
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard},
    time::Duration,
};

use nvvmm_snapshot::{BlockNo, ChunkIndex, Consumed, FrameIndex, FrameSet, Holder, Pool};

use super::{
    chunk::{KnownChunk, LiveChunk},
    chunks::Chunks,
    first_touch::FirstTouches,
    mapping::Mapping,
    placement::Placement,
    prediction::Prediction,
    share::StandStill,
    unarmed::Unarmed,
};
use crate::{
    cow::{
        Arrival, Budget, CopiedAhead, CowEngine, CowError, RamOrigin, RewindTo, ShareSet, Still,
        Techniques,
        counters::{Counters, lock},
        error::os,
        frames::runs,
    },
    memory::{GuestRam, WriteLog},
    stats::{Phases, RamCounters},
    sys::uffd::{Fault, Uffd},
};

/// The engine for media that userfaultfd can write-protect.
///
/// Each part owns its state. What is done to a chunk with several of them is in the modules
/// `faults`, `copy`, `ahead`, `share`, `live` and `vacate`.
#[derive(Debug)]
pub struct RedirectEngine {
    pub(super) mapping: Mapping,
    pub(super) placement: Placement,
    pub(super) prediction: Prediction,
    pub(super) chunks: Chunks,
    pub(super) unarmed: Unarmed,
    pub(super) touches: FirstTouches,
    /// Locked for reading while an access is answered, for writing while frames are shared. It
    /// comes before the lock of any chunk.
    pub(super) sharing: RwLock<()>,
}

impl RedirectEngine {
    /// Takes charge of `ram`: from now on every first touch of a chunk is held until
    /// [`CowEngine::answer`] has dealt with it.
    pub fn new(
        ram: GuestRam,
        pool: Arc<Pool>,
        holder: Arc<Holder>,
        origin: RamOrigin,
        budget: Budget,
        techniques: Techniques,
    ) -> Result<Self, CowError> {
        let mapping = Mapping::new(ram, Arc::clone(&pool), budget)?;
        pool.want_huge_pages(techniques.huge_pages);
        let engine = Self {
            chunks: Chunks::new(mapping.chunks(), origin),
            mapping,
            placement: Placement::new(pool, holder),
            prediction: Prediction::new(techniques),
            unarmed: Unarmed::new(techniques),
            touches: FirstTouches::new(techniques),
            sharing: RwLock::new(()),
        };
        if engine.mapping.has_whole_chunks() {
            engine.map_origin()?;
        }
        Ok(engine)
    }

    /// Keeps frames from being shared while an access is answered, or the like is done.
    pub(super) fn not_sharing(&self) -> RwLockReadGuard<'_, ()> {
        self.sharing.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CowEngine for RedirectEngine {
    fn ram(&self) -> &GuestRam {
        self.mapping.ram()
    }

    fn uffd(&self) -> &Uffd {
        self.mapping.uffd()
    }

    fn arrival(&self) -> Option<Arc<Arrival>> {
        self.chunks.origin().arrival().cloned()
    }

    fn counters(&self) -> RamCounters {
        let counters = self.chunks.counters();
        let (mapped, own) = (
            Counters::get(&counters.frames_mapped),
            Counters::get(&counters.frames_own),
        );
        RamCounters {
            frames_mapped: mapped,
            frames_own: own,
            frames_shared: mapped.saturating_sub(own),
            write_faults: Counters::get(&counters.write_faults),
            chunk_faults: Counters::get(&counters.chunk_faults),
            frames_copied: Counters::get(&counters.frames_copied),
            frames_copied_hot: Counters::get(&counters.frames_copied_hot),
            chunks_copied: Counters::get(&counters.chunks_copied),
            chunks_copied_next: Counters::get(&counters.chunks_copied_next),
            huge_pages: self.placement.huge_pages(),
            mappings: self.mapping.budget().mappings(),
            mappings_limit: self.mapping.budget().limit(),
            ..RamCounters::default()
        }
    }

    fn answer(&self, fault: Fault) -> Result<(), CowError> {
        let Some((index, frame)) = self.mapping.frame_at(fault.address) else {
            return Ok(());
        };
        let _not_sharing = self.not_sharing();
        let mut live = lock(self.chunks.get(index));
        let known = self.chunks.know(index, &mut live)?;
        self.mapping.counted(known, |known| {
            self.answer_in_chunk(index, known, frame, fault)
        })?;
        self.mapping.wake(index)
    }

    fn work_ahead(&self) -> Result<bool, CowError> {
        Ok(self.prepare_next()? || self.copy_next()? || self.watch_left()?)
    }

    fn work_due(&self) -> Duration {
        self.watch_due()
    }

    /// Arms what was left to the kernel, and moves its private pages to blocks.
    fn copy_ahead(
        &self,
        _log: &dyn WriteLog,
        phases: &mut Phases,
    ) -> Result<CopiedAhead, CowError> {
        self.unarmed.begin_snapshot();
        self.drop_prepared();
        if self.chunks.are_reconciled() {
            return Ok(CopiedAhead::default());
        }
        let frames = phases.run("CopyAhead", || self.reconcile_ahead())?;
        Ok(CopiedAhead {
            frames,
            rounds: 1,
            room_blocks: 0,
        })
    }

    fn drop_copies(&self) {
        self.unarmed.end_snapshot();
    }

    fn arm_ahead(&self) -> Result<(), CowError> {
        if self.is_worth_arming_ahead() {
            self.arm_all_ahead()?;
        }
        Ok(())
    }

    fn dirty_chunks(&self) -> usize {
        self.chunks.dirty_count()
    }

    fn stand_still(&self) -> Box<dyn Still + '_> {
        Box::new(StandStill::of(self))
    }

    /// Chunk by chunk, until the pool is full or the mappings are many.
    fn copy_hot(&self) -> Result<(), CowError> {
        for index in self.prediction.take_hot_chunks() {
            let _not_sharing = self.not_sharing();
            let mut live = lock(self.chunks.get(index));
            let LiveChunk::Known(known) = &mut *live else {
                continue;
            };
            // An access that waits for the chunk is released by the fault thread, which waits for
            // the chunk's lock.
            match self
                .mapping
                .counted(known, |known| self.copy_chunk_ahead(index, known))
            {
                Ok(()) => {}
                Err(CowError::NoSpace(_)) => return Ok(()),
                Err(other) => return Err(other),
            }
        }
        Ok(())
    }

    /// Blocks that were replaced meanwhile go back to the pool. Frames may stay armed; their next
    /// write finds that out.
    fn roll_back(&self, set: ShareSet) {
        for (index, map, own) in set.iter() {
            if let LiveChunk::Known(known) = &mut *lock(self.chunks.get(index)) {
                self.roll_back_chunk(index, known, map, own);
            }
        }
    }

    /// Arms the frames. Frames that are in a snapshot already are armed as they must be.
    fn share_live(
        &self,
        index: ChunkIndex,
        frames: &FrameSet,
    ) -> Result<Option<ShareSet>, CowError> {
        if !self.mapping.has_single_frames() {
            return Ok(None);
        }
        let _not_sharing = self.not_sharing();
        let mut live = lock(self.chunks.get(index));
        let known = self.chunks.know(index, &mut live)?;
        self.reconcile_counted(index, known)?;
        let own = frames.intersection(known.own());
        if known.is_mapped() {
            for run in known.mapped_runs(&own.minus(known.armed_ahead())) {
                self.mapping
                    .arm(index, &run.frames)
                    .map_err(os("arm frames of a process"))?;
            }
        }
        known.make_shared(&own);
        self.chunks.lost(u64::from(own.count()));
        let mut set = ShareSet::default();
        set.push(index, known.map().clone(), own);
        Ok(Some(set))
    }

    /// The blocks are mapped privately, like those of a snapshot that a VM is restored from, so
    /// that no write reaches them. They are armed later, by [`CowEngine::tidy`] or the next access
    /// that is held, so that the caller need not wait for that.
    fn adopt(&self, index: ChunkIndex, blocks: &[(FrameIndex, BlockNo)]) -> Result<bool, CowError> {
        if !self.mapping.has_single_frames() || self.mapping.budget().is_spent() {
            return Ok(false);
        }
        let _not_sharing = self.not_sharing();
        let mut live = lock(self.chunks.get(index));
        let known = self.chunks.know(index, &mut live)?;
        let mut replaced = Vec::new();
        let adopted = self.mapping.counted(known, |known| {
            self.map_foreign(index, known, blocks, &mut replaced)
        });
        self.chunks.mark_dirty(index, known);
        self.placement.free_later(replaced);
        adopted.map(|()| true)
    }

    /// Only frames that are mapped shared: a private mapping would lose the pages that were
    /// written.
    fn unmap_idle(&self, index: ChunkIndex, frames: &FrameSet) -> Result<(), CowError> {
        let live = lock(self.chunks.get(index));
        let LiveChunk::Known(known) = &*live else {
            return Ok(());
        };
        if !known.is_mapped() || !self.mapping.has_single_frames() {
            return Ok(());
        }
        let shared = frames.intersection(known.own()).minus(known.private());
        for run in runs(&shared.minus(known.armed_ahead())) {
            self.mapping.drop_page_tables(index, &run)?;
        }
        Ok(())
    }

    fn release(&self, chunk: ChunkIndex) -> Result<u32, CowError> {
        self.release_chunk(chunk)
    }

    fn rewind(&self, to: RewindTo, _log: &dyn WriteLog) -> Result<(), CowError> {
        self.put_back(to)
    }

    fn free_replaced(&self) {
        while self.placement.free_unneeded() {}
    }

    fn take_over(&self, consumed: Consumed) -> Result<(), CowError> {
        // The snapshot's own map has left the pool.
        self.chunks.forget_origin();
        for chunk in consumed.into_memory() {
            self.take_over_chunk(chunk.index, chunk.map, chunk.taken)?;
        }
        Ok(())
    }

    fn prefault(&self) -> Result<(), CowError> {
        let present = self.chunks.origin().present_chunks()?;
        for index in present {
            self.chunks.know(index, &mut lock(self.chunks.get(index)))?;
        }
        for (index, chunk) in self.chunks.iter() {
            if let LiveChunk::Known(known) = &mut *lock(chunk) {
                self.prefault_chunk(index, known)?;
            }
        }
        Ok(())
    }

    fn tidy(&self) -> Result<bool, CowError> {
        self.placement.give_back_leases()?;
        Ok(self.reconcile_some()?
            || self.look_at_left()?
            || self.placement.free_unneeded()
            || self.keep_bound()?)
    }

    fn own_block(&self, index: ChunkIndex, frame: FrameIndex) -> (bool, Option<BlockNo>) {
        match &*lock(self.chunks.get(index)) {
            LiveChunk::Untouched => (false, None),
            LiveChunk::Known(known) if self.is_private_page(index, known, frame) => (true, None),
            LiveChunk::Known(known) => (known.is_own(frame), known.block(frame)),
        }
    }
}

impl RedirectEngine {
    /// True if the frame was written while writes were left to the kernel.
    fn is_private_page(&self, index: ChunkIndex, known: &KnownChunk, frame: FrameIndex) -> bool {
        !known.is_reconciled()
            && self
                .private_pages(index, known)
                .is_ok_and(|pages| pages.contains(frame))
    }
}
