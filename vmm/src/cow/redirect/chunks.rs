//! All chunks of guest RAM, as far as the engine knows them.

use std::sync::{
    Mutex, PoisonError, RwLock, RwLockReadGuard,
    atomic::{AtomicUsize, Ordering},
};

use nvvmm_snapshot::{ChunkIndex, FrameSet};

use super::chunk::{KnownChunk, LiveChunk};
use crate::cow::{
    CowError, RamOrigin,
    chunk_table::ChunkTable,
    counters::{Counters, lock},
};

/// State of every chunk, and counts over all of them.
///
/// The lock of a chunk comes before the locks of the origin and of the list of dirty chunks.
#[derive(Debug)]
pub(super) struct Chunks {
    table: ChunkTable<LiveChunk>,
    /// Content of untouched chunks.
    origin: RwLock<RamOrigin>,
    /// Chunks that the next snapshot lists as changed.
    dirty: Mutex<Vec<ChunkIndex>>,
    /// Number of chunks that are not reconciled.
    unreconciled: AtomicUsize,
    counters: Counters,
}

impl Chunks {
    /// Chunks of new RAM, nothing of it touched.
    pub fn new(chunks: u32, origin: RamOrigin) -> Self {
        Self {
            table: ChunkTable::new(chunks),
            counters: Counters::starting_with(origin.frames_mapped()),
            origin: RwLock::new(origin),
            dirty: Mutex::default(),
            unreconciled: AtomicUsize::new(0),
        }
    }

    /// One chunk.
    pub fn get(&self, index: ChunkIndex) -> &Mutex<LiveChunk> {
        self.table.get(index)
    }

    /// Chunks of sections of the table that somebody has used, in order.
    pub fn iter(&self) -> impl Iterator<Item = (ChunkIndex, &Mutex<LiveChunk>)> {
        self.table.iter()
    }

    /// State of a chunk that its lock gives, looked up in the origin at the first touch.
    pub fn know<'a>(
        &self,
        index: ChunkIndex,
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

    /// Content of untouched chunks.
    pub fn origin(&self) -> RwLockReadGuard<'_, RamOrigin> {
        self.origin.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the use of the origin: untouched chunks are empty.
    pub fn forget_origin(&self) {
        self.set_origin(RamOrigin::Empty);
    }

    /// Has untouched chunks be those of `origin` from now on.
    pub fn set_origin(&self, origin: RamOrigin) {
        *self.origin.write().unwrap_or_else(PoisonError::into_inner) = origin;
    }

    /// Counts of frames and faults.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Makes frames own that have become writable, and lists the chunk for the next snapshot.
    /// `newly_backed` of them had no block before.
    pub fn gained(
        &self,
        index: ChunkIndex,
        known: &mut KnownChunk,
        frames: &FrameSet,
        newly_backed: u32,
    ) {
        known.note_disarmed(frames);
        Counters::add(&self.counters.frames_own, known.make_own(frames));
        Counters::add(&self.counters.frames_mapped, newly_backed);
        self.mark_dirty(index, known);
    }

    /// Counts frames that are own no more.
    pub fn lost(&self, own: u64) {
        Counters::sub(&self.counters.frames_own, own);
    }

    /// Lists the chunk for the next snapshot.
    pub fn mark_dirty(&self, index: ChunkIndex, known: &mut KnownChunk) {
        if known.set_dirty() {
            lock(&self.dirty).push(index);
        }
    }

    /// Chunks that the next snapshot lists as changed, in no order.
    pub fn dirty(&self) -> Vec<ChunkIndex> {
        lock(&self.dirty).clone()
    }

    /// Number of chunks that the next snapshot lists as changed.
    pub fn dirty_count(&self) -> usize {
        lock(&self.dirty).len()
    }

    /// Empties the list of dirty chunks and returns it, by rising index.
    pub fn take_dirty(&self) -> Vec<ChunkIndex> {
        let mut indexes = std::mem::take(&mut *lock(&self.dirty));
        indexes.sort_unstable();
        indexes
    }

    /// Notes that private frames of the chunk may be written before they are armed.
    pub fn note_unreconciled(&self, known: &mut KnownChunk) {
        if known.set_reconciled(false) {
            self.unreconciled.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Notes that all frames which were written before they were armed are own.
    pub fn note_reconciled(&self, known: &mut KnownChunk) {
        if known.set_reconciled(true) {
            self.unreconciled.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Number of chunks with frames that may have been written before they were armed.
    pub fn unreconciled(&self) -> usize {
        self.unreconciled.load(Ordering::Relaxed)
    }

    /// True if no chunk has frames that may have been written before they were armed.
    pub fn are_reconciled(&self) -> bool {
        self.unreconciled() == 0
    }
}
