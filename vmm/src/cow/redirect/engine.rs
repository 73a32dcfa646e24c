//! Answers held accesses to guest RAM.

use std::{
    ops::Range,
    os::fd::BorrowedFd,
    sync::{
        Arc, Mutex, PoisonError, RwLock, RwLockReadGuard,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
};

use nvvmm_snapshot::{
    BlockNo, ChunkMap, Consumed, FaultPoint, FrameSet, Holder, Pool, fault_point,
};

use super::{
    chunk::{KnownChunk, LiveChunk},
    copy::{blocks_of, whole_run, window_of},
    hot::Rhythm,
    share::StandStill,
    unused::Allowance,
};
use crate::{
    checkpoint::report::RamCounters,
    cow::{
        Budget, CHUNK_FRAMES, CHUNK_SIZE_BYTES, CowEngine, CowError, FRAME_SIZE_BYTES, Origin,
        ShareSet, Still, Techniques,
        chunk_table::ChunkTable,
        engine::{Counters, is_full, lock, os},
        frames::{runs, set_of},
    },
    memory::GuestRam,
    sys::{
        pagemap::{PageKind, Pagemap},
        reservation::{Reservation, Sharing},
        uffd::{Fault, Uffd},
    },
};

/// The engine for media that userfaultfd can write-protect.
#[derive(Debug)]
pub struct RedirectEngine {
    ram: GuestRam,
    pub(super) pool: Arc<Pool>,
    pub(super) holder: Arc<Holder>,
    pub(super) uffd: Uffd,
    pagemap: Pagemap,
    pub(super) origin: RwLock<Origin>,
    table: ChunkTable<LiveChunk>,
    /// Taken for reading by whoever answers an access, for writing while frames are shared.
    pub(super) sharing: RwLock<()>,
    pub(super) dirty: Mutex<Vec<u32>>,
    /// Chunks whose early writes are not all the VM's own yet, because the pool was full.
    pub(super) unsettled: AtomicUsize,
    pub(super) budget: Budget,
    pub(super) counters: Counters,
    /// Frames that are mapped, armed and copied as one: those of a page of the medium.
    pub(super) unit_frames: u32,
    pub(super) allowance: Allowance,
    /// Whether a call may arm more than one mapping, as far as is known.
    pub(super) crossing: AtomicBool,
    pub(super) techniques: Techniques,
    pub(super) rhythm: Mutex<Rhythm>,
    /// Blocks that are the VM's and behind no frame any more. To zero them takes longer than
    /// whoever adopts others wants to wait.
    pub(super) unneeded: Mutex<Vec<BlockNo>>,
}

impl CowEngine for RedirectEngine {
    fn ram(&self) -> &GuestRam {
        &self.ram
    }

    fn uffd(&self) -> &Uffd {
        &self.uffd
    }

    fn counters(&self) -> RamCounters {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (mapped, own) = (
            load(&self.counters.frames_mapped),
            load(&self.counters.frames_own),
        );
        RamCounters {
            frames_mapped: mapped,
            frames_own: own,
            frames_shared: mapped.saturating_sub(own),
            write_faults: load(&self.counters.write_faults),
            chunk_faults: load(&self.counters.chunk_faults),
            frames_copied: load(&self.counters.frames_copied),
            frames_copied_hot: load(&self.counters.frames_copied_hot),
            mappings: self.budget.mappings(),
            mappings_limit: self.budget.limit(),
        }
    }

    fn own_block(&self, index: u32, frame: u32) -> (bool, Option<BlockNo>) {
        match &*lock(self.chunk(index)) {
            LiveChunk::Untouched => (false, None),
            LiveChunk::Known(known) => (known.own.contains(frame), known.block(frame)),
        }
    }

    fn answer(&self, fault: Fault) -> Result<(), CowError> {
        let Some(offset) = fault.address.checked_sub(self.reservation().start()) else {
            return Ok(());
        };
        if offset >= self.reservation().size_bytes() {
            return Ok(());
        }
        let _not_sharing = self.sharing.read().unwrap_or_else(PoisonError::into_inner);
        let index = (offset / CHUNK_SIZE_BYTES) as u32;
        let frame = (offset % CHUNK_SIZE_BYTES / FRAME_SIZE_BYTES) as u32;
        let mut live = lock(self.chunk(index));
        let known = self.know(index, &mut live)?;
        let before = known.mappings_now();
        let answered = self.answer_in_chunk(index, known, frame, fault);
        self.budget.changed(before, known.mappings_now());
        answered?;
        self.uffd
            .wake(self.address(index, 0), CHUNK_SIZE_BYTES)
            .map_err(os("wake a held access"))
    }

    fn arm_ahead(&self) -> Result<(), CowError> {
        if self.is_worth_arming_ahead() {
            self.arm_own_ahead()?;
        }
        Ok(())
    }

    fn copy_hot(&self) -> Result<(), CowError> {
        self.copy_hot_ahead()
    }

    fn dirty_chunks(&self) -> usize {
        lock(&self.dirty).len()
    }

    fn stand_still(&self) -> Box<dyn Still + '_> {
        Box::new(StandStill::of(self))
    }

    fn roll_back(&self, set: ShareSet) {
        self.take_back(&set);
    }

    fn share_live(&self, index: u32, frames: &FrameSet) -> Result<Option<ShareSet>, CowError> {
        self.give_away(index, frames)
    }

    fn adopt(&self, index: u32, blocks: &[(u32, BlockNo)]) -> Result<bool, CowError> {
        self.take_in(index, blocks)
    }

    fn unmap_idle(&self, index: u32, frames: &FrameSet) -> Result<(), CowError> {
        self.let_rest(index, frames)
    }

    fn take_over(&self, consumed: Consumed) -> Result<(), CowError> {
        self.own_consumed(consumed)
    }

    fn prefault(&self) -> Result<(), CowError> {
        self.map_and_populate()
    }

    fn tidy(&self) -> Result<bool, CowError> {
        self.holder.give_back_stale()?;
        Ok(self.settle_some()? || self.free_unneeded() || self.keep_bound()?)
    }
}

impl RedirectEngine {
    /// Takes charge of `ram`: from now on every first touch of a chunk is held until
    /// [`CowEngine::answer`] has dealt with it.
    pub fn new(
        ram: GuestRam,
        pool: Arc<Pool>,
        holder: Arc<Holder>,
        origin: Origin,
        budget: Budget,
        techniques: Techniques,
    ) -> Result<Self, CowError> {
        let uffd = Uffd::open()?;
        let reservation = ram.reservation();
        uffd.register_missing(reservation.start(), reservation.size_bytes())
            .map_err(os("hold first touches of guest RAM"))?;
        let chunks = (reservation.size_bytes() / CHUNK_SIZE_BYTES) as u32;
        let unit_frames = (pool.medium().page_bytes() / FRAME_SIZE_BYTES as u64) as u32;
        let counters = Counters::default();
        if let Origin::Snapshot { frames_mapped, .. } = &origin {
            counters
                .frames_mapped
                .store(*frames_mapped, Ordering::Relaxed);
        }
        let engine = Self {
            uffd,
            pagemap: Pagemap::open().map_err(os("open /proc/self/pagemap"))?,
            table: ChunkTable::new(chunks),
            ram,
            pool,
            holder,
            origin: RwLock::new(origin),
            sharing: RwLock::new(()),
            dirty: Mutex::new(Vec::new()),
            unsettled: AtomicUsize::new(0),
            budget,
            counters,
            unit_frames,
            allowance: Allowance::default(),
            crossing: AtomicBool::new(true),
            techniques,
            rhythm: Mutex::default(),
            unneeded: Mutex::default(),
        };
        if engine.unit_frames == CHUNK_FRAMES {
            engine.map_origin()?;
        }
        Ok(engine)
    }

    /// Chunks of guest RAM.
    pub fn chunks(&self) -> u32 {
        (self.reservation().size_bytes() / CHUNK_SIZE_BYTES) as u32
    }

    fn answer_in_chunk(
        &self,
        index: u32,
        known: &mut KnownChunk,
        frame: u32,
        fault: Fault,
    ) -> Result<(), CowError> {
        if !known.mapped {
            self.map_chunk(index, known)?;
            Counters::add(&self.counters.chunk_faults, 1);
        }
        self.settle_early_writes(index, known)?;
        let unit = self.unit_of(frame);
        let is_own = unit.clone().all(|frame| known.own.contains(frame));
        match known.block(frame) {
            None => self.back_hole(index, known, frame),
            Some(_) if !fault.write => Ok(()),
            // The first touch of a fresh chunk: nothing of it was ever armed.
            Some(_) if is_own && !fault.write_protected => Ok(()),
            // Held although it is ours: copied with a neighbour after this access was held, armed
            // ahead, or for a snapshot that was never committed. Nothing needs a copy.
            Some(_) if is_own => self.disarm_around(index, known, frame, unit),
            Some(_) => {
                self.copy_around(index, known, frame)?;
                Counters::add(&self.counters.write_faults, 1);
                Ok(())
            }
        }
    }

    /// Maps every frame that has a block; a hole of 2 MiB gets a fresh chunk.
    pub(super) fn map_chunk(&self, index: u32, known: &mut KnownChunk) -> Result<(), CowError> {
        if let ChunkMap::Hole = known.map {
            match self.holder.alloc_chunk() {
                Ok(chunk) => {
                    let run = whole_run(chunk);
                    if let Err(error) = self.place_run(index, &run, Sharing::Shared) {
                        self.holder.free_blocks(&blocks_of(chunk));
                        return Err(error);
                    }
                    known.map = ChunkMap::Whole(chunk);
                    self.gained(index, known, &FrameSet::FULL, CHUNK_FRAMES);
                    self.mark_mapped(index, known);
                    return self.guard_run(index, &run, Sharing::Shared);
                }
                // No whole chunk is free: its frames are backed one cluster at a time, where that
                // can be.
                Err(error) if is_full(&error) && self.unit_frames < CHUNK_FRAMES => {}
                Err(other) => return Err(other.into()),
            }
            self.mark_mapped(index, known);
            return Ok(());
        }
        let backed = known.backed();
        known.private = set_of(backed.iter().filter(|frame| !known.own.contains(*frame)));
        for run in known.mapped_runs(&backed) {
            let sharing = if run.private {
                Sharing::Private
            } else {
                Sharing::Shared
            };
            self.map_run(index, &run, sharing)?;
        }
        self.mark_mapped(index, known);
        if !known.private.is_empty() {
            self.unsettle(known);
        }
        self.settle_early_writes(index, known)
    }

    /// Private frames of the chunk may have been written before they were armed.
    pub(super) fn unsettle(&self, known: &mut KnownChunk) {
        if known.settled {
            known.settled = false;
            self.unsettled.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn mark_mapped(&self, index: u32, known: &mut KnownChunk) {
        known.mapped = true;
        fault_point(FaultPoint::RedirectChunkMapped);
        self.budget.chunk_mapped(index, self.chunks());
    }

    /// Until a private mapping is armed, a write to it goes through, into a page of this process
    /// instead of the snapshot's block. Such frames become ours at once, from what the guest
    /// sees. When the pool is full that is made up for by the next access to the chunk or the
    /// next snapshot, whichever comes first.
    pub(super) fn settle_early_writes(
        &self,
        index: u32,
        known: &mut KnownChunk,
    ) -> Result<(), CowError> {
        if known.settled {
            return Ok(());
        }
        self.arm_late(index, known)?;
        for run in runs(&known.private) {
            for frame in self.early_writes(index, run)? {
                let targets = self.targets(known, &[frame], frame)?;
                self.copy_to(index, known, &targets)?;
            }
        }
        known.settled = true;
        self.unsettled.fetch_sub(1, Ordering::Relaxed);
        Ok(())
    }

    fn arm_late(&self, index: u32, known: &mut KnownChunk) -> Result<(), CowError> {
        let unarmed = known.unarmed.intersection(&known.private);
        for run in known.mapped_runs(&unarmed) {
            self.arm_range(
                self.address(index, run.frames.start),
                run.frames.len() * FRAME_SIZE_BYTES,
            )
            .map_err(os("arm blocks"))?;
        }
        known.unarmed = FrameSet::EMPTY;
        Ok(())
    }

    /// Frames of a private, armed mapping that were written before it was armed.
    fn early_writes(&self, index: u32, frames: std::ops::Range<u32>) -> Result<Vec<u32>, CowError> {
        let start = self.address(index, frames.start);
        let look = || {
            self.pagemap
                .pages(start, frames.len())
                .map_err(os("read pagemap"))
        };
        let mut pages = look()?;
        if pages.contains(&PageKind::Unclear) {
            self.reservation()
                .populate_read(
                    self.ram_offset(index, frames.start),
                    frames.len() * FRAME_SIZE_BYTES,
                )
                .map_err(os("fill page tables"))?;
            pages = look()?;
        }
        // To copy a frame that was not written costs a block and nothing else.
        let written = frames
            .zip(pages)
            .filter(|(_, page)| *page != PageKind::Untouched);
        Ok(written.map(|(frame, _)| frame).collect())
    }

    /// Frames became writable: counts them and puts the chunk on the list for the next snapshot.
    pub(super) fn gained(
        &self,
        index: u32,
        known: &mut KnownChunk,
        frames: &FrameSet,
        newly_backed: u32,
    ) {
        known.armed = known.armed.minus(frames);
        let new_own = frames
            .iter()
            .filter(|frame| known.own.insert(*frame))
            .count() as u32;
        Counters::add(&self.counters.frames_own, new_own);
        Counters::add(&self.counters.frames_mapped, newly_backed);
        self.mark_dirty(index, known);
    }

    pub(super) fn mark_dirty(&self, index: u32, known: &mut KnownChunk) {
        if !known.dirty {
            known.dirty = true;
            lock(&self.dirty).push(index);
        }
    }

    /// The chunk's state, looked up in the origin at the first touch.
    pub(super) fn know<'a>(
        &self,
        index: u32,
        live: &'a mut LiveChunk,
    ) -> Result<&'a mut KnownChunk, CowError> {
        if let LiveChunk::Untouched = live {
            let map = self.origin().chunk(index)?;
            *live = LiveChunk::Known(Box::new(KnownChunk::unmapped(map, FrameSet::EMPTY)));
        }
        match live {
            LiveChunk::Known(known) => Ok(known),
            LiveChunk::Untouched => unreachable!("made known above"),
        }
    }

    pub(super) fn origin(&self) -> RwLockReadGuard<'_, Origin> {
        self.origin.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn chunk(&self, index: u32) -> &Mutex<LiveChunk> {
        self.table.get(index)
    }

    /// Chunks that are in a section somebody has looked at, in order.
    pub(super) fn known_chunks(&self) -> impl Iterator<Item = (u32, &Mutex<LiveChunk>)> {
        self.table.iter()
    }

    /// The frames that are mapped and armed together with `frame`.
    pub(super) fn unit_of(&self, frame: u32) -> Range<u32> {
        window_of(frame, self.unit_frames)
    }

    pub(super) fn reservation(&self) -> &Reservation {
        self.ram.reservation()
    }

    pub(super) fn pool_fd(&self) -> BorrowedFd<'_> {
        self.pool.fd()
    }

    pub(super) fn ram_offset(&self, index: u32, frame: u32) -> usize {
        index as usize * CHUNK_SIZE_BYTES + frame as usize * FRAME_SIZE_BYTES
    }

    pub(super) fn address(&self, index: u32, frame: u32) -> usize {
        self.reservation().start() + self.ram_offset(index, frame)
    }
}
