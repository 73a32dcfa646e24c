//! Cleaning: a freed block becomes free once it reads as zero.
//!
//! Whoever frees blocks under the catalog lock lets them wait: their count is [`WAITING`], so no
//! holder takes them. They are cleaned later, in pieces, without the catalog lock. Only whoever has
//! the cleaner lock turns a count from [`WAITING`] to 0, after the block reads as zero. A cleaner
//! that dies leaves blocks that wait still, and perhaps a chunk whose number of waiting blocks is
//! too high, which the next cleaner corrects.
//!
//! [`WAITING`]: crate::layout::segment::WAITING

use std::time::{Duration, Instant};

use crate::catalog_lock::CatalogLock;
use crate::cleaner_lock::CleanerLock;
use crate::error::Result;
use crate::fault::{FaultPoint, fault_point};
use crate::handle::Pool;
use crate::layout::runtime::RELEASING_OFFSET;
use crate::layout::segment::{OWNER_LOCKED, WAITING};
use crate::number::{BlockNo, CHUNK_BLOCKS, ChunkNo};
use crate::store::Fill;

/// Blocks of a chunk that are cleaned in one go, unless all of it waits: the medium may let nobody
/// else ask it for memory meanwhile.
const PIECE_BLOCKS: usize = 128;
/// Pause between two pieces: this part of the time that the piece took, within these bounds.
/// Whoever waits for the medium gets at it then.
const PAUSE_PART: u32 = 4;
const PAUSE_MIN: Duration = Duration::from_micros(20);
const PAUSE_MAX: Duration = Duration::from_millis(2);

/// The haste of a cleaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pace {
    /// With pauses, in which others get at the medium.
    Gentle,
    /// Without: somebody waits for the blocks.
    Fast,
}

impl Pool {
    /// Cleans the blocks that this process has freed and that wait for it. Takes no lock that an
    /// allocation needs. For a thread that nobody waits for.
    ///
    /// # Errors
    /// [`crate::Error::Damaged`], [`crate::Error::Io`], [`crate::Error::PoolLocked`]. What was not
    /// cleaned waits for the next cleaner.
    pub fn clean(&self) -> Result<()> {
        self.clean_while(|| true)
    }

    /// The same, as long as `go_on` says so.
    ///
    /// # Errors
    /// As [`Pool::clean`].
    pub fn clean_while(&self, go_on: impl Fn() -> bool) -> Result<()> {
        // Each chunk once: on a medium that forgets stores, cleaning adds them again for ever.
        let mut from = 0;
        while go_on()
            && let Some(chunk) = self.store.waiting_chunks.take(from)
        {
            from = chunk.get() + 1;
            self.clean_chunk(chunk, Pace::Gentle)?;
        }
        Ok(())
    }

    /// True when this process has freed blocks that wait to be cleaned, as far as it knows.
    pub fn has_freed(&self) -> bool {
        !self.store.waiting_chunks.is_empty()
    }

    /// Cleans all freed blocks that wait for it, also those that others have left.
    ///
    /// # Errors
    /// As [`Pool::clean`].
    pub fn clean_all(&self) -> Result<()> {
        self.clean_some(u64::MAX, Pace::Gentle).map(drop)
    }

    /// Waits until this process has freed blocks that are to be cleaned, as long as `go_on` says so
    /// and for `time` at most. It may return earlier.
    pub fn wait_for_freed(&self, time: Duration, go_on: impl Fn() -> bool) {
        self.store.waiting_chunks.wait(time, go_on);
    }

    /// Has threads in [`Pool::wait_for_freed`] look whether to go on.
    pub fn wake_cleaner(&self) {
        self.store.waiting_chunks.tell();
    }

    /// Cleans chunks until at least `most` blocks are clean. Number of blocks that it cleaned.
    pub(crate) fn clean_some(&self, most: u64, pace: Pace) -> Result<u64> {
        let mut cleaned = 0;
        if !self.store.cleans_later {
            return Ok(0);
        }
        for chunk in self.store.layout.data_chunks() {
            if cleaned >= most {
                break;
            }
            if self.store.fill(chunk)?.waiting > 0 {
                cleaned += self.clean_chunk(chunk, pace)?;
            }
        }
        Ok(cleaned)
    }

    /// Cleans the blocks of a chunk that wait now. Number of blocks that it cleaned.
    pub(crate) fn clean_chunk(&self, chunk: ChunkNo, pace: Pace) -> Result<u64> {
        let store = &self.store;
        let waiting = store.waiting(chunk)?;
        // It may be one huge page, which is given back at once and split only slowly.
        let in_one = waiting.len() == CHUNK_BLOCKS as usize;
        let piece = if in_one { waiting.len() } else { PIECE_BLOCKS };
        let mut cleaned = 0;
        for blocks in waiting.chunks(piece) {
            let began = Instant::now();
            let lock = CleanerLock::take(self)?;
            cleaned += self.clean_piece(chunk, blocks, &lock)?;
            drop(lock);
            if pace == Pace::Gentle {
                std::thread::sleep((began.elapsed() / PAUSE_PART).clamp(PAUSE_MIN, PAUSE_MAX));
            }
        }
        let fill = store.fill(chunk)?;
        if fill.waiting > 0 && store.waiting(chunk)?.is_empty() {
            self.correct_fill(chunk)?;
        }
        if store.fill(chunk)?.taken() == 0 && store.lease_owner(chunk)?.is_none() {
            self.release(chunk, in_one)?;
        }
        Ok(cleaned)
    }

    fn clean_piece(&self, chunk: ChunkNo, blocks: &[BlockNo], _: &CleanerLock<'_>) -> Result<u64> {
        let store = &self.store;
        let before = store.refcounts(chunk)?;
        let waits = |block: &&BlockNo| before[block.index_in_chunk().as_usize()] == WAITING;
        // Another cleaner may have been faster.
        let blocks: Vec<BlockNo> = blocks.iter().filter(waits).copied().collect();
        store.punch_sorted(&blocks)?;
        fault_point(FaultPoint::CleanZeroed);
        let mut after = before;
        for block in &blocks {
            after[block.index_in_chunk().as_usize()] = 0;
        }
        store.change_refcounts(chunk, &before, &after)?;
        fault_point(FaultPoint::CleanCounted);
        store.change_fill(chunk, 0, -(blocks.len() as i32))?;
        Ok(blocks.len() as u64)
    }

    /// Counts the waiting blocks of a chunk anew: a cleaner has died.
    fn correct_fill(&self, chunk: ChunkNo) -> Result<()> {
        let catalog = CatalogLock::take(self)?;
        let _cleaner = CleanerLock::take(self)?;
        let store = catalog.store();
        store.set_fill(chunk, Fill::of(&store.refcounts(chunk)?))
    }

    /// Gives back all memory of a chunk that nobody uses, unless it was cleaned as a whole, where
    /// the medium has not done so with its parts. Nobody leases it meanwhile.
    fn release(&self, chunk: ChunkNo, was_whole: bool) -> Result<()> {
        let store = &self.store;
        let _cleaner = CleanerLock::take(self)?;
        let region = &store.region;
        region.store_u32(RELEASING_OFFSET, chunk.get() + 1)?;
        if store.try_lease(chunk, OWNER_LOCKED)? {
            fault_point(FaultPoint::CleanReleasing);
            let released = match store.fill(chunk)?.taken() {
                0 if !was_whole => store.release_empty_chunk(chunk),
                _ => Ok(()),
            };
            store.set_lease_owner(chunk, None)?;
            released?;
        }
        region.store_u32(RELEASING_OFFSET, 0)
    }
}

#[cfg(test)]
#[path = "cleaning_test.rs"]
mod cleaning_test;
