//! First touches of chunks of a snapshot: how much is mapped, and what is copied at once.
//!
//! The chunk before (or behind) the one that is touched shows what the guest does:
//! * *It has written nearly all of that chunk.* The chunk gets a copy of its own at once, on one
//!   huge page where the kernel has that. The next ones are *prepared* in the same way, by the
//!   fault thread while the guest is busy, and mapped when they are touched.
//! * *It has touched nearly all of it.* The chunk's page tables are filled.
//! * *Anything else.* The chunk is left to the kernel's copy-on-write, together with chunks behind
//!   it: twice as many each time.
//!
//! A copy hides what the guest writes to it. So now and then a chunk is left to the kernel and
//! shows whether the guest still writes all: the 2nd, 4th, 8th, 16th in a row, and one of 32 from
//! then on. So no more is copied in vain than was written before.

use std::{
    collections::VecDeque,
    sync::{
        Mutex,
        atomic::{AtomicU32, Ordering},
    },
};

use nvvmm_snapshot::{ChunkIndex, ChunkMap, FrameSet};

use super::{
    RedirectEngine,
    chunk::{KnownChunk, LiveChunk},
    mapping::Source,
};
use crate::cow::{
    CHUNK_FRAMES, CowError, Techniques,
    counters::{Counters, lock},
    frames::block_runs,
};

/// Pages of a chunk that make nearly all of it.
const NEARLY_ALL: u32 = CHUNK_FRAMES / 4 * 3;
/// Chunks left to the kernel at one first touch, at most.
const ALONG_MAX: u32 = 32;
/// One chunk of so many is left to the kernel, at least, where a guest writes all of each.
const PROBE_EVERY: u32 = 32;
/// Chunks prepared ahead of the guest, at most; and as a part of those that it has written.
const AHEAD_MAX: u32 = 4;
const AHEAD_PART: u32 = 4;

/// Work to be done at the next first touches.
#[derive(Debug)]
pub(super) struct FirstTouches {
    prepare_whole: bool,
    /// Chunks that the next first touch may leave to the kernel.
    along: AtomicU32,
    /// Chunks to be prepared, and the streak that each goes on with.
    queue: Mutex<VecDeque<(ChunkIndex, u32)>>,
}

impl FirstTouches {
    pub fn new(techniques: Techniques) -> Self {
        Self {
            prepare_whole: techniques.prepare_whole,
            along: AtomicU32::new(1),
            queue: Mutex::default(),
        }
    }
}

/// Use that the guest makes of the chunks around.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Doing {
    /// The guest writes all of each, for so many chunks in a row.
    Writes(u32),
    Reads,
    Else,
}

/// True if the chunk that is this one in a row is to show what the guest writes.
fn is_probe(streak: u32) -> bool {
    streak.is_multiple_of(PROBE_EVERY) || (streak > 1 && streak.is_power_of_two())
}

/// Page tables that are not filled cost the guest faults, and nothing else.
fn unless_refused(filled: Result<(), CowError>) {
    if let Err(error) = filled {
        tracing::debug!("page tables are not filled: {error}");
    }
}

impl RedirectEngine {
    /// Maps a chunk that is touched for the first time.
    pub(super) fn first_touch(
        &self,
        index: ChunkIndex,
        known: &mut KnownChunk,
    ) -> Result<(), CowError> {
        if known.is_prepared() {
            let streak = known.streak;
            return self.map_copy(index, known, streak);
        }
        match self.doing_around(index)? {
            Doing::Writes(before) => {
                let streak = before + 1;
                if is_probe(streak) {
                    known.streak = streak;
                } else if self.copied_whole(index, known, streak)? {
                    return self.map_copy(index, known, streak);
                }
                self.map_chunk(index, known)
            }
            Doing::Reads => {
                self.map_chunk(index, known)?;
                if known.own().is_full() {
                    unless_refused(self.mapping.populate_own(index));
                } else {
                    unless_refused(self.populate_chunk(index, known));
                }
                Ok(())
            }
            Doing::Else => self.map_along(index, known),
        }
    }

    /// Maps a whole copy. The first write to each small page of it would cost the guest a fault.
    fn map_copy(
        &self,
        index: ChunkIndex,
        known: &mut KnownChunk,
        streak: u32,
    ) -> Result<(), CowError> {
        self.map_chunk(index, known)?;
        known.prepared_from = None;
        if known.small_pages {
            unless_refused(self.mapping.populate_own(index));
        }
        self.plan_ahead(index, streak);
        Ok(())
    }

    /// True if the guest has written nearly all of a chunk beside this one.
    pub(super) fn is_written_around(&self, index: ChunkIndex) -> Result<bool, CowError> {
        let mut written = false;
        self.for_neighbours(index, |near, known| {
            written |= known.own().count() >= NEARLY_ALL
                || (known.is_left() && self.private_pages(near, known)?.count() >= NEARLY_ALL);
            Ok(!written)
        })?;
        Ok(written)
    }

    /// Calls `look` for the chunks before and behind this one, as long as it returns true.
    fn for_neighbours(
        &self,
        index: ChunkIndex,
        mut look: impl FnMut(ChunkIndex, &KnownChunk) -> Result<bool, CowError>,
    ) -> Result<(), CowError> {
        let (before, behind) = (index.get().checked_sub(1), index.get() + 1);
        let behind = Some(behind).filter(|behind| *behind < self.mapping.chunks());
        for near in [before, behind].into_iter().flatten().map(ChunkIndex::new) {
            // A chunk that is locked is being served.
            if let Ok(live) = self.chunks.get(near).try_lock()
                && let LiveChunk::Known(known) = &*live
                && !look(near, known)?
            {
                break;
            }
        }
        Ok(())
    }

    fn doing_around(&self, index: ChunkIndex) -> Result<Doing, CowError> {
        if !self.mapping.has_single_frames() {
            return Ok(Doing::Else);
        }
        let mut doing = Doing::Else;
        self.for_neighbours(index, |near, known| {
            doing = self.doing_in(near, known)?;
            Ok(doing == Doing::Else)
        })?;
        Ok(doing)
    }

    fn doing_in(&self, index: ChunkIndex, known: &KnownChunk) -> Result<Doing, CowError> {
        if !known.is_mapped() {
            return Ok(Doing::Else);
        }
        if !known.is_left() && known.streak > 0 {
            return Ok(Doing::Writes(known.streak));
        }
        if known.is_left() && self.private_pages(index, known)?.count() >= NEARLY_ALL {
            return Ok(Doing::Writes(known.streak));
        }
        if self.mapping.present_pages(index)? >= NEARLY_ALL {
            return Ok(Doing::Reads);
        }
        Ok(Doing::Else)
    }

    /// Leaves a chunk to the kernel, and chunks behind it with it that nobody has touched and that
    /// lie behind it in the pool, too.
    fn map_along(&self, index: ChunkIndex, known: &mut KnownChunk) -> Result<(), CowError> {
        let along = self.touches.along.load(Ordering::Relaxed);
        let (true, ChunkMap::Whole(first)) = (known.own().is_empty(), known.map().simplified())
        else {
            return self.map_chunk(index, known);
        };
        let last = index.get().saturating_add(along).min(self.mapping.chunks());
        let mut others = Vec::new();
        for (number, next) in (first.get() + 1..).zip(index.get() + 1..last) {
            // What arrives is recorded in the order in which the guest touches it.
            if self.chunks.origin().arrival().is_some() {
                break;
            }
            let Ok(mut live) = self.chunks.get(ChunkIndex::new(next)).try_lock() else {
                break;
            };
            if !matches!(&*live, LiveChunk::Untouched) {
                break;
            }
            let next = self.chunks.know(ChunkIndex::new(next), &mut live)?;
            if !matches!(next.map().simplified(), ChunkMap::Whole(chunk) if chunk.get() == number) {
                break;
            }
            others.push(live);
        }
        let count = others.len() + 1;
        if count == 1 || !self.may_leave(count) {
            self.touches
                .along
                .store((along * 2).min(ALONG_MAX), Ordering::Relaxed);
            return self.map_chunk(index, known);
        }
        self.placement
            .provide_shared(first.first_block(), count as u32 * CHUNK_FRAMES)?;
        self.mapping.show_left_chunks(index, count, first)?;
        self.note_left_whole(index, known);
        for (next, live) in (index.get() + 1..).zip(&mut others) {
            if let LiveChunk::Known(next_known) = &mut **live {
                self.mapping.counted(next_known, |known| {
                    self.note_left_whole(ChunkIndex::new(next), known);
                });
            }
        }
        Counters::add(&self.chunks.counters().chunks_along, count as u32 - 1);
        self.touches
            .along
            .store((along * 2).min(ALONG_MAX), Ordering::Relaxed);
        Ok(())
    }

    fn note_left_whole(&self, index: ChunkIndex, known: &mut KnownChunk) {
        known.note_shared_are_private();
        self.mapping.note_mapped(index, known);
        known.note_left();
        self.chunks.note_unreconciled(known);
    }

    /// Copies a chunk of a snapshot, which is not mapped, to a fresh one of the VM's own. Returns
    /// false if that cannot be.
    fn copied_whole(
        &self,
        index: ChunkIndex,
        known: &mut KnownChunk,
        streak: u32,
    ) -> Result<bool, CowError> {
        if !self.touches.prepare_whole
            || known.is_mapped()
            || !known.own().is_empty()
            || !known.backed().is_full()
            || !self.may_leave(1)
        {
            return Ok(false);
        }
        match self.copy_unmapped(index, known) {
            Ok(()) => {
                known.streak = streak;
                Counters::add(&self.chunks.counters().chunks_prepared, 1);
                Ok(true)
            }
            Err(CowError::NoSpace(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn copy_unmapped(&self, index: ChunkIndex, known: &mut KnownChunk) -> Result<(), CowError> {
        let target = self.placement.whole_chunk_for_copy()?;
        let chunk = target.chunk;
        let sources: Vec<Source> = block_runs(known.map(), &FrameSet::FULL)
            .into_iter()
            .map(|run| Source {
                frame: run.frames.start,
                block: run.block,
                count: run.frames.len() as u32,
            })
            .collect();
        if let Err(error) = self.mapping.fill_chunk(target, &sources) {
            self.placement.free_chunk(chunk);
            return Err(error);
        }
        known.small_pages = !target.one_page;
        known.prepared_from = Some(known.map().clone());
        known.replace_all(chunk);
        self.chunks.gained(index, known, &FrameSet::FULL, 0);
        Counters::add(&self.chunks.counters().frames_copied, CHUNK_FRAMES);
        Ok(())
    }

    /// Has chunks prepared behind one that was written as the last of `streak`.
    fn plan_ahead(&self, index: ChunkIndex, streak: u32) {
        let ahead = (streak / AHEAD_PART).min(AHEAD_MAX);
        let mut queue = lock(&self.touches.queue);
        queue.clear();
        queue.extend((1..=ahead).map(|by| (ChunkIndex::new(index.get() + by), streak + by)));
    }

    /// Prepares one chunk. Returns true if there are more.
    pub(super) fn prepare_next(&self) -> Result<bool, CowError> {
        let Some((index, streak)) = lock(&self.touches.queue).pop_front() else {
            return Ok(false);
        };
        let _not_sharing = self.not_sharing();
        // A probe ends what is prepared: it shows whether the guest still writes all.
        let is_here = || self.chunks.origin().is_here(index);
        if index.get() >= self.mapping.chunks() || is_probe(streak) || !is_here() {
            lock(&self.touches.queue).clear();
            return Ok(false);
        }
        let mut live = lock(self.chunks.get(index));
        let known = self.chunks.know(index, &mut live)?;
        let prepared = known.is_prepared()
            || match self.copied_whole(index, known, streak) {
                // The first touch tries again.
                Err(CowError::Locked(_)) => false,
                done => done?,
            };
        if !prepared {
            lock(&self.touches.queue).clear();
            return Ok(false);
        }
        Ok(!lock(&self.touches.queue).is_empty())
    }

    /// Gives copies back that nobody has touched.
    pub(super) fn drop_prepared(&self) {
        if Counters::get(&self.chunks.counters().chunks_prepared) == 0 {
            return;
        }
        lock(&self.touches.queue).clear();
        for (_, chunk) in self.chunks.iter() {
            let _not_sharing = self.not_sharing();
            if let LiveChunk::Known(known) = &mut *lock(chunk)
                && let Some(copy) = known.take_prepared()
            {
                self.placement.free_chunk(copy);
                self.chunks.lost(u64::from(CHUNK_FRAMES));
            }
        }
    }
}
