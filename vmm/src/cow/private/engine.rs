//! The engine's state, and what it answers.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError, RwLock, RwLockReadGuard,
        atomic::{AtomicU64, Ordering},
    },
};

use nvvmm_snapshot::{BlockNo, ChunkMap, Consumed, FrameSet, Holder, Medium, Pool};

use super::{
    chunk::{Chunk, KnownChunk},
    share::StandStill,
};
use crate::{
    checkpoint::report::RamCounters,
    cow::{
        Budget, CHUNK_SIZE_BYTES, CopiedAhead, CowEngine, CowError, FRAME_SIZE_BYTES, Origin,
        ShareSet, Still,
        chunk_table::ChunkTable,
        engine::{Counters, lock, os},
    },
    memory::{GuestRam, WriteLog, WrittenFrames},
    sys::{
        reservation::Reservation,
        uffd::{Fault, Uffd},
    },
};

/// The engine for media that userfaultfd cannot write-protect.
#[derive(Debug)]
pub struct PrivateEngine {
    pub(super) ram: GuestRam,
    /// What this process has written.
    pub(super) written: Arc<WrittenFrames>,
    pub(super) pool: Arc<Pool>,
    pub(super) holder: Arc<Holder>,
    pub(super) uffd: Uffd,
    pub(super) origin: RwLock<Origin>,
    /// The first touch of a chunk is held: there was a snapshot to show. If not, RAM is plain
    /// memory from the start.
    pub(super) held: bool,
    pub(super) table: ChunkTable<Chunk>,
    /// Chunks that the next snapshot has to say something about.
    pub(super) listed: Mutex<Vec<u32>>,
    pub(super) budget: Budget,
    pub(super) counters: Counters,
}

impl CowEngine for PrivateEngine {
    fn ram(&self) -> &GuestRam {
        &self.ram
    }

    fn uffd(&self) -> &Uffd {
        &self.uffd
    }

    fn counters(&self) -> RamCounters {
        self.count(&BTreeMap::new())
    }

    fn counters_now(&self, log: &dyn WriteLog) -> Result<RamCounters, CowError> {
        Ok(self.count(&self.peek_bits(log)?))
    }

    fn own_block(&self, index: u32, frame: u32) -> (bool, Option<BlockNo>) {
        let chunk = lock(self.table.get(index));
        let block = chunk
            .known
            .as_ref()
            .and_then(|known| known.map.block(frame));
        let dirty = chunk.dirty.contains(frame);
        (chunk.unshared().contains(frame), block.filter(|_| !dirty))
    }

    fn answer(&self, fault: Fault) -> Result<(), CowError> {
        let Some(offset) = fault.address.checked_sub(self.reservation().start()) else {
            return Ok(());
        };
        if offset >= self.reservation().size_bytes() {
            return Ok(());
        }
        let index = (offset / CHUNK_SIZE_BYTES) as u32;
        let mut chunk = lock(self.table.get(index));
        let known = self.know(index, &mut chunk)?;
        if !known.mapped {
            self.map_chunk(index, known)?;
            Counters::add(&self.counters.chunk_faults, 1);
        }
        self.uffd
            .wake(
                self.reservation().start() + self.ram_offset(index, 0),
                CHUNK_SIZE_BYTES,
            )
            .map_err(os("wake a held access"))
    }

    fn copies_for_snapshots(&self) -> bool {
        true
    }

    fn copy_ahead(&self, log: &dyn WriteLog) -> Result<CopiedAhead, CowError> {
        self.copy_in_rounds(log)
    }

    fn drop_copies(&self) {
        self.take_out_copies();
    }

    fn learn_writes(&self, log: &dyn WriteLog) -> Result<(), CowError> {
        self.take_bits(log)
    }

    fn stale_frames(&self, limit: usize) -> Result<Vec<u64>, CowError> {
        self.compare_clean_frames(limit)
    }

    fn dirty_chunks(&self) -> usize {
        lock(&self.listed).len()
    }

    fn stand_still(&self) -> Box<dyn Still + '_> {
        Box::new(StandStill::of(self))
    }

    fn roll_back(&self, set: ShareSet) {
        self.take_back(&set);
    }

    fn take_over(&self, consumed: Consumed) -> Result<(), CowError> {
        self.own_consumed(consumed);
        Ok(())
    }

    fn prefault(&self) -> Result<(), CowError> {
        self.map_and_populate()
    }
}

impl PrivateEngine {
    /// Takes charge of `ram`, whose writes by this process are noted in `written`. With a snapshot
    /// as `origin`, every first touch of a chunk is held from now on until
    /// [`CowEngine::answer`] has dealt with it.
    pub fn new(
        (ram, written): (GuestRam, Arc<WrittenFrames>),
        pool: Arc<Pool>,
        holder: Arc<Holder>,
        origin: Origin,
        budget: Budget,
    ) -> Result<Self, CowError> {
        let uffd = Uffd::open()?;
        let counters = Counters::default();
        let reservation = ram.reservation();
        let held = match &origin {
            Origin::Empty => false,
            Origin::Snapshot { frames_mapped, .. } => {
                uffd.register_missing(reservation.start(), reservation.size_bytes())
                    .map_err(os("hold first touches of guest RAM"))?;
                counters
                    .frames_mapped
                    .store(*frames_mapped, Ordering::Relaxed);
                true
            }
        };
        Ok(Self {
            table: ChunkTable::new((reservation.size_bytes() / CHUNK_SIZE_BYTES) as u32),
            ram,
            written,
            pool,
            holder,
            uffd,
            origin: RwLock::new(origin),
            held,
            listed: Mutex::new(Vec::new()),
            budget,
            counters,
        })
    }

    /// Counts frames as if those of `unseen` were dirty too.
    fn count(&self, unseen: &BTreeMap<u32, FrameSet>) -> RamCounters {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let mapped = load(&self.counters.frames_mapped);
        let (mut own, mut hidden) = (0, 0);
        let mut add = |index: u32, chunk: &Chunk| {
            let written = unseen.get(&index).copied().unwrap_or_default();
            let unshared = chunk.unshared().union(&written);
            let backed = chunk.known.as_ref().map(|known| known.map.present());
            own += u64::from(unshared.count());
            hidden += u64::from(backed.map_or(0, |backed| backed.intersection(&unshared).count()));
        };
        for index in unseen.keys() {
            // So that the table has the chunk.
            self.table.get(*index);
        }
        for (index, chunk) in self.table.iter() {
            add(index, &lock(chunk));
        }
        RamCounters {
            frames_mapped: mapped,
            frames_own: own,
            frames_shared: mapped.saturating_sub(hidden),
            write_faults: 0,
            chunk_faults: load(&self.counters.chunk_faults),
            frames_copied: load(&self.counters.frames_copied),
            frames_copied_hot: 0,
            mappings: self.budget.mappings(),
            mappings_limit: self.budget.limit(),
        }
    }

    #[cfg(test)]
    pub(in crate::cow) fn blocks_held(&self) -> u64 {
        let held = |chunk: &Mutex<Chunk>| {
            let chunk = lock(chunk);
            chunk.known.as_ref().map_or(0, |known| known.mine().count())
        };
        self.table
            .iter()
            .map(|(_, chunk)| u64::from(held(chunk)))
            .sum()
    }

    /// Chunks of guest RAM.
    pub(super) fn chunks(&self) -> u32 {
        (self.reservation().size_bytes() / CHUNK_SIZE_BYTES) as u32
    }

    /// The chunk as it is known, looked up in the origin the first time.
    pub(super) fn know<'a>(
        &self,
        index: u32,
        chunk: &'a mut Chunk,
    ) -> Result<&'a mut KnownChunk, CowError> {
        if chunk.known.is_none() {
            let map = self.origin().chunk(index)?;
            chunk.known = Some(Box::new(self.unmapped(map, FrameSet::EMPTY)));
        }
        match &mut chunk.known {
            Some(known) => Ok(known),
            None => unreachable!("made known above"),
        }
    }

    /// A chunk that the guest has not touched, if that can be told.
    pub(super) fn unmapped(&self, map: ChunkMap, own: FrameSet) -> KnownChunk {
        KnownChunk {
            map,
            own,
            copied: FrameSet::EMPTY,
            mapped: !self.held,
        }
    }

    /// Puts the chunk on the list for the next snapshot.
    pub(super) fn list(&self, index: u32, chunk: &mut Chunk) {
        if !std::mem::replace(&mut chunk.listed, true) {
            lock(&self.listed).push(index);
        }
    }

    pub(super) fn origin(&self) -> RwLockReadGuard<'_, Origin> {
        self.origin.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn reservation(&self) -> &Reservation {
        self.ram.reservation()
    }

    /// DAX devices have no private mappings.
    pub(super) fn maps_privately(&self) -> bool {
        self.pool.medium() != Medium::Devdax
    }

    pub(super) fn ram_offset(&self, index: u32, frame: u32) -> usize {
        index as usize * CHUNK_SIZE_BYTES + frame as usize * FRAME_SIZE_BYTES
    }
}
