//! State of the engine, and its implementation of [`CowEngine`].

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError, RwLock, RwLockReadGuard,
        atomic::{AtomicBool, Ordering},
    },
};

use nvvmm_snapshot::{
    BLOCK_SIZE_BYTES, BlockNo, ChunkIndex, ChunkMap, Consumed, FaultPoint, FrameIndex, FrameSet,
    Holder, Medium, Pool, fault_point,
};

use super::{
    chunk::{Chunk, KnownChunk},
    share::StandStill,
};
use crate::{
    cow::{
        Arrival, Budget, CHUNK_SIZE_BYTES, CopiedAhead, CowEngine, CowError, RamOrigin, RewindTo,
        ShareSet, Still,
        chunk_table::ChunkTable,
        counters::{Counters, lock},
        error::os,
        frames::set_of,
    },
    memory::{GuestRam, WriteLog, WrittenFrames},
    stats::{Phases, RamCounters},
    sys::{
        address_range::AddressRange,
        uffd::{Fault, Uffd},
    },
};

/// The engine for media that userfaultfd cannot write-protect.
#[derive(Debug)]
pub struct PrivateEngine {
    pub(super) ram: GuestRam,
    /// Frames that this process has written.
    pub(super) written: Arc<WrittenFrames>,
    pub(super) pool: Arc<Pool>,
    pub(super) holder: Arc<Holder>,
    pub(super) uffd: Uffd,
    pub(super) origin: RwLock<RamOrigin>,
    /// True if the first touch of a chunk is held, because there is a snapshot to show. If not, RAM
    /// is plain memory from the start, until the VM goes back to a snapshot.
    held: AtomicBool,
    pub(super) table: ChunkTable<Chunk>,
    /// Chunks that the next snapshot lists as changed.
    pub(super) listed: Mutex<Vec<ChunkIndex>>,
    pub(super) budget: Budget,
    pub(super) counters: Counters,
    /// Blocks that a rewind has replaced.
    pub(super) replaced: Mutex<Vec<BlockNo>>,
}

impl CowEngine for PrivateEngine {
    fn ram(&self) -> &GuestRam {
        &self.ram
    }

    fn uffd(&self) -> &Uffd {
        &self.uffd
    }

    fn arrival(&self) -> Option<Arc<Arrival>> {
        self.origin().arrival().cloned()
    }

    fn counters(&self) -> RamCounters {
        self.count(&BTreeMap::new())
    }

    fn answer(&self, fault: Fault) -> Result<(), CowError> {
        let Some(offset) = fault.address.checked_sub(self.reservation().start()) else {
            return Ok(());
        };
        if offset >= self.reservation().size_bytes() {
            return Ok(());
        }
        let index = ChunkIndex::at_byte(offset as u64);
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

    fn needs_write_log(&self) -> bool {
        true
    }

    fn copy_ahead(&self, log: &dyn WriteLog, phases: &mut Phases) -> Result<CopiedAhead, CowError> {
        let ahead = phases.run("CopyAhead", || self.copy_in_rounds(log))?;
        fault_point(FaultPoint::PrivateAheadCopied);
        Ok(ahead)
    }

    fn dirty_chunks(&self) -> usize {
        lock(&self.listed).len()
    }

    fn stand_still(&self) -> Box<dyn Still + '_> {
        Box::new(StandStill::of(self))
    }

    /// Nothing was copied since the set was shared. So the maps are as they were, but for chunks
    /// that were released: nobody needs their blocks.
    fn roll_back(&self, set: ShareSet) {
        for (index, map, own, copied) in set.iter_copied() {
            let mut chunk = lock(self.table.get(index));
            if let Some(known) = &mut chunk.known {
                let is_kept = |frame: &FrameIndex| known.map.block(*frame) == map.block(*frame);
                let kept = set_of(own.places().filter(is_kept));
                let released = own.minus(&kept);
                let blocks: Vec<BlockNo> = { released.iter() }
                    .filter_map(|frame| map.block(frame))
                    .collect();
                self.holder.free_blocks(&blocks);
                known.consumed = known.consumed.union(&kept.minus(copied));
                known.copied = known.copied.union(&kept.intersection(copied));
            }
            self.list(index, &mut chunk);
        }
    }

    /// The frames of the copies are dirty again.
    fn drop_copies(&self) {
        let indexes = lock(&self.listed).clone();
        for index in indexes {
            let mut chunk = lock(self.table.get(index));
            let Some(known) = &mut chunk.known else {
                continue;
            };
            let copied = known.copied;
            let blocks = known.remove_copies();
            chunk.dirty = chunk.dirty.union(&copied);
            Counters::sub(&self.counters.frames_mapped, blocks.len() as u64);
            self.holder.free_blocks(&blocks);
        }
    }

    fn release(&self, chunk: ChunkIndex) -> Result<u32, CowError> {
        self.release_chunk(chunk)
    }

    fn rewind(&self, to: RewindTo, log: &dyn WriteLog) -> Result<(), CowError> {
        self.put_back(to, log)
    }

    fn free_replaced(&self) {
        let replaced = std::mem::take(&mut *lock(&self.replaced));
        self.holder.free_blocks(&replaced);
    }

    fn take_over(&self, consumed: Consumed) -> Result<(), CowError> {
        // The snapshot's own map has left the pool.
        *self.origin.write().unwrap_or_else(PoisonError::into_inner) = RamOrigin::Empty;
        for chunk in consumed.into_memory() {
            self.take_over_chunk(chunk);
        }
        Ok(())
    }

    fn prefault(&self) -> Result<(), CowError> {
        let present = self.origin().present_chunks()?;
        for index in present {
            self.know(index, &mut lock(self.table.get(index)))?;
        }
        for (index, chunk) in self.table.iter() {
            if let Some(known) = &mut lock(chunk).known {
                self.prefault_chunk(index, known)?;
            }
        }
        Ok(())
    }

    fn counters_now(&self, log: &dyn WriteLog) -> Result<RamCounters, CowError> {
        Ok(self.count(&self.unseen_writes(log)?))
    }

    /// Moves what the logs have noted into the chunks' dirty sets.
    fn learn_writes(&self, log: &dyn WriteLog) -> Result<(), CowError> {
        for slot in 0..self.slots() {
            let words = log.take_slot(slot).map_err(os("read KVM's dirty log"))?;
            self.chunks_of(slot, &words)
                .for_each(|(index, frames)| self.note(index, &frames));
        }
        self.written
            .take()
            .for_each(|(index, frames)| self.note(index, &frames));
        Ok(())
    }

    /// These are frames that are not dirty and hold something else than their block.
    fn stale_frames(&self, limit: usize) -> Result<Vec<u64>, CowError> {
        let mut stale = Vec::new();
        let mut bytes = vec![0; CHUNK_SIZE_BYTES];
        for index in ChunkIndex::range(0..self.chunks()) {
            let chunk = lock(self.table.get(index));
            let mapped = chunk
                .known
                .as_ref()
                .map_or(!self.is_held(), |known| known.mapped);
            if !mapped {
                continue;
            }
            self.reservation()
                .read(self.ram_offset(index, 0), &mut bytes)
                .map_err(os("read memory"))?;
            let frames = bytes.as_chunks::<{ BLOCK_SIZE_BYTES as usize }>().0;
            for frame in FrameSet::FULL.minus(&chunk.dirty).places() {
                let expected = self.content_of(chunk.known.as_deref(), frame)?;
                if frames[frame.as_usize()] != expected && stale.len() < limit {
                    stale.push(index.frame_number(frame));
                }
            }
        }
        Ok(stale)
    }

    fn own_block(&self, index: ChunkIndex, frame: FrameIndex) -> (bool, Option<BlockNo>) {
        let chunk = lock(self.table.get(index));
        let block = chunk
            .known
            .as_ref()
            .and_then(|known| known.map.block(frame));
        let dirty = chunk.dirty.contains(frame);
        (chunk.unshared().contains(frame), block.filter(|_| !dirty))
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
        origin: RamOrigin,
        budget: Budget,
    ) -> Result<Self, CowError> {
        let uffd = Uffd::open()?;
        let counters = Counters::starting_with(origin.frames_mapped());
        let reservation = ram.reservation();
        let held = !matches!(origin, RamOrigin::Empty);
        if held {
            uffd.register_missing(reservation.start(), reservation.size_bytes())
                .map_err(os("hold first touches of guest RAM"))?;
        }
        Ok(Self {
            table: ChunkTable::new((reservation.size_bytes() / CHUNK_SIZE_BYTES) as u32),
            ram,
            written,
            pool,
            holder,
            uffd,
            origin: RwLock::new(origin),
            held: AtomicBool::new(held),
            replaced: Mutex::default(),
            listed: Mutex::new(Vec::new()),
            budget,
            counters,
        })
    }

    /// Counts frames as if those of `unseen` were dirty too.
    fn count(&self, unseen: &BTreeMap<ChunkIndex, FrameSet>) -> RamCounters {
        let mapped = Counters::get(&self.counters.frames_mapped);
        let (mut own, mut hidden) = (0, 0);
        let mut add = |index: ChunkIndex, chunk: &Chunk| {
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
            chunk_faults: Counters::get(&self.counters.chunk_faults),
            frames_copied: Counters::get(&self.counters.frames_copied),
            mappings: self.budget.mappings(),
            mappings_limit: self.budget.limit(),
            ..RamCounters::default()
        }
    }

    #[cfg(test)]
    pub(in crate::cow) fn blocks_held(&self) -> u64 {
        let held = |chunk: &Mutex<Chunk>| {
            let chunk = lock(chunk);
            chunk.known.as_ref().map_or(0, |known| known.own().count())
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

    /// The chunk's blocks, looked up in the origin the first time.
    pub(super) fn know<'a>(
        &self,
        index: ChunkIndex,
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

    /// A chunk that the guest has not touched, if the first touch is held.
    pub(super) fn unmapped(&self, map: ChunkMap, consumed: FrameSet) -> KnownChunk {
        KnownChunk {
            map,
            consumed,
            copied: FrameSet::EMPTY,
            mapped: !self.is_held(),
            mappings: 0,
        }
    }

    /// True if the first touch of a chunk is held.
    pub(super) fn is_held(&self) -> bool {
        self.held.load(Ordering::Relaxed)
    }

    /// Has the first touch of a chunk be held from now on. Returns true if it was before.
    pub(super) fn hold_first_touches(&self) -> bool {
        self.held.swap(true, Ordering::Relaxed)
    }

    /// Puts the chunk on the list for the next snapshot.
    pub(super) fn list(&self, index: ChunkIndex, chunk: &mut Chunk) {
        if !std::mem::replace(&mut chunk.listed, true) {
            lock(&self.listed).push(index);
        }
    }

    pub(super) fn origin(&self) -> RwLockReadGuard<'_, RamOrigin> {
        self.origin.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn reservation(&self) -> &AddressRange {
        self.ram.reservation()
    }

    /// False for DAX devices, which have no private mappings.
    pub(super) fn maps_privately(&self) -> bool {
        self.pool.medium() != Medium::Devdax
    }

    pub(super) fn ram_offset(&self, index: ChunkIndex, frame: impl Into<FrameIndex>) -> usize {
        (index.byte_offset() + frame.into().byte_offset()) as usize
    }
}
