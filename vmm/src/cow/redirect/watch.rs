//! Writers of many pages: chunks that are left to the kernel's copy-on-write are watched while more
//! and more of them are written, and those of which the guest has written a part are copied as a
//! whole, to a huge page.
//!
//! For example, a guest writes to all of its memory in an order that looks random. The kernel
//! copies one page of 4 KiB for each write, and the guest meets one fault of the host's page tables
//! for each. A copy of the whole chunk costs less than faults for a tenth of its pages.
//!
//! A look reads the page map of all such chunks. It is repeated soon while it finds much that is
//! new, and ever more seldom where it does not.

use std::time::{Duration, Instant};

use nvvmm_snapshot::ChunkIndex;

use super::{
    RedirectEngine,
    chunk::{KnownChunk, LiveChunk},
    unarmed::LOOKED_AT_ONCE,
};
use crate::cow::{
    CHUNK_FRAMES, CowError,
    counters::{Counters, lock},
};

/// Private pages of a chunk from which on all of it is copied to a huge page, where the guest
/// writes to many chunks: it copies no more than 16 times what the guest wrote.
const DENSE_PAGES: u32 = CHUNK_FRAMES / 16;
/// Chunks with so many pages that are many. A copy of a VM that writes a mebibyte stays below.
const DENSE_CHUNKS: u32 = 16;
/// Pages that are written between two looks of a watch while the guest writes much.
const MUCH: u32 = CHUNK_FRAMES;
/// Time between two looks of a watch.
const WATCH_EVERY_MIN: Duration = Duration::from_millis(4);
const WATCH_EVERY_MAX: Duration = Duration::from_secs(1);
/// The same as a multiple of the time that a look takes.
const WATCH_REST: u32 = 10;
/// Chunks made ready for such copies.
const READY_FOR_LEFT: u32 = 8;

/// Looks at what is left to the kernel, often while the guest writes much of it.
#[derive(Debug)]
pub(super) struct Watch {
    due: Instant,
    every: Duration,
    /// The chunk at which the look under way goes on.
    next: Option<ChunkIndex>,
    /// Results of the look under way, and of the last one.
    now: Found,
    last: Found,
    /// Chunks that were left to the kernel at the last look.
    chunks: usize,
}

#[derive(Clone, Copy, Debug, Default)]
struct Found {
    /// Private pages, and those of them that are private still: the others were copied.
    pages: u32,
    left_pages: u32,
    dense_chunks: u32,
    /// Time that the look took.
    took: Duration,
}

impl Watch {
    pub fn new() -> Self {
        Self {
            due: Instant::now(),
            every: WATCH_EVERY_MIN,
            next: None,
            now: Found::default(),
            last: Found::default(),
            chunks: 0,
        }
    }

    /// The chunk from which on to look now, if it is time. `chunks` are left to the kernel.
    fn begin(&mut self, chunks: usize) -> Option<ChunkIndex> {
        if self.next.is_none() {
            if chunks > self.chunks {
                self.every = WATCH_EVERY_MIN;
                self.due = self.due.min(Instant::now() + self.every);
            }
            self.chunks = chunks;
            if self.due > Instant::now() {
                return None;
            }
        }
        Some(self.next.take().unwrap_or(ChunkIndex::FIRST))
    }

    /// Ends a look at all chunks.
    fn end(&mut self) {
        let found = std::mem::take(&mut self.now);
        self.every = if found.pages >= self.last.left_pages + MUCH {
            found.took * WATCH_REST
        } else {
            self.every * 2
        };
        self.every = self.every.clamp(WATCH_EVERY_MIN, WATCH_EVERY_MAX);
        self.due = Instant::now() + self.every;
        self.last = found;
    }

    /// True if the guest writes to many chunks.
    fn is_broad(&self) -> bool {
        self.now.dense_chunks.max(self.last.dense_chunks) >= DENSE_CHUNKS
    }
}

impl RedirectEngine {
    /// Time until the next look at chunks that the guest may be writing.
    pub(super) fn watch_due(&self) -> Duration {
        if !self.watches() {
            return WATCH_EVERY_MAX;
        }
        let watch = lock(&self.unarmed.watch);
        watch.due.saturating_duration_since(Instant::now())
    }

    fn watches(&self) -> bool {
        self.prediction.copies_densely()
            && !self.chunks.are_reconciled()
            && self.placement.huge_pages_are_likely()
    }

    /// Copies chunks as a whole of which the guest has written a part, while it writes to many.
    /// Returns true if there is more to do.
    pub(super) fn watch_left(&self) -> Result<bool, CowError> {
        if !self.watches() {
            return Ok(false);
        }
        let mut watch = lock(&self.unarmed.watch);
        let Some(from) = watch.begin(self.chunks.unreconciled()) else {
            return Ok(false);
        };
        let began = Instant::now();
        let _not_sharing = self.not_sharing();
        let mut at_once = LOOKED_AT_ONCE;
        for (index, chunk) in self.chunks.iter().skip_while(|(index, _)| *index < from) {
            let LiveChunk::Known(known) = &mut *lock(chunk) else {
                continue;
            };
            if !known.is_left() {
                continue;
            }
            if at_once == 0 {
                watch.next = Some(index);
                break;
            }
            at_once -= 1;
            let pages = self.private_pages(index, known)?.count();
            watch.now.pages += pages;
            watch.now.dense_chunks += u32::from(pages >= DENSE_PAGES);
            if pages >= DENSE_PAGES && watch.is_broad() && self.copies_left(known)? {
                self.mapping
                    .counted(known, |known| self.copy_left(index, known, pages))?;
                watch.next = Some(ChunkIndex::new(index.get() + 1));
                return Ok(true);
            }
            watch.now.left_pages += pages;
        }
        watch.now.took += began.elapsed();
        if watch.next.is_none() {
            watch.end();
        }
        Ok(watch.next.is_some())
    }

    fn copies_left(&self, known: &KnownChunk) -> Result<bool, CowError> {
        Ok(known.backed().is_full() && self.makes_one_page()?)
    }

    /// Copies a chunk that was left to the kernel, and of which the guest has written `pages`.
    fn copy_left(
        &self,
        index: ChunkIndex,
        known: &mut KnownChunk,
        pages: u32,
    ) -> Result<(), CowError> {
        self.make_ready(READY_FOR_LEFT)?;
        self.arm_private(index, known)?;
        match self.copy_whole(index, known) {
            Ok(()) => {
                // The next chunk that is touched for the first time is likely to be written, too.
                known.streak = known.streak.max(1);
                Counters::add(&self.chunks.counters().frames_moved, pages);
                self.chunks.note_reconciled(known);
                Ok(())
            }
            // What was written is made up for as after any arming.
            Err(CowError::NoSpace(_) | CowError::Locked(_)) => Ok(()),
            Err(other) => Err(other),
        }
    }
}

#[cfg(test)]
#[path = "watch_test.rs"]
mod watch_test;
