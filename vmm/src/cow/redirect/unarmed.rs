//! Memory that is mapped privately and not armed: a write to it goes to a page of this process.
//!
//! **Early writes.** A mapping cannot be made and armed in one step, so a write may come between.
//!
//! **Writes left to the kernel.** To hold a write and answer it costs several times what the
//! kernel's own copy-on-write does. So private mappings stay unarmed, and unregistered, until the
//! next snapshot, or until their pages have rested for a while.
//!
//! In both cases pagemap names the private pages. To *reconcile* a chunk is to arm it, and to move
//! these pages to blocks of the VM's own. From then on the chunk is as any other. No snapshot is
//! taken before all chunks are reconciled; that is done while the guest runs, and first touches are
//! armed meanwhile, so the pause finds nothing left.
//!
//! **Writers of many pages.** The kernel copies one page of 4 KiB after the other. So chunks are
//! watched while more and more of them are written, and those of which the guest has written a part
//! are copied as a whole (`watch.rs`).
//!
//! **A full pool.** A private page needs a block in the end. So no more chunks are left to the
//! kernel than there are wholly free ones in the pool, and when the pool fills they are armed: the
//! guest is held then. Private pages for which there is no block stay until there is one, and no
//! snapshot is taken before.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use nvvmm_snapshot::{ChunkIndex, FrameIndex, FrameSet};

use super::{
    RedirectEngine,
    chunk::{KnownChunk, LiveChunk},
    watch::Watch,
};
use crate::cow::{
    CHUNK_FRAMES, CowError, Lack, Techniques,
    counters::{Counters, lock},
    error::os,
    frames::{runs, set_of},
};

/// Chunks reconciled in one go: accesses wait meanwhile.
const RECONCILED_AT_ONCE: u32 = 16;
/// Chunks whose private pages are looked for in one go.
pub(super) const LOOKED_AT_ONCE: u32 = 64;
/// Private pages of a chunk from which on all of it is copied to a fresh chunk.
const WHOLE_MIN: u32 = CHUNK_FRAMES / 4 * 3;
/// Time between two looks for private pages where the guest writes, and where it does not.
const LOOK_EVERY: Duration = Duration::from_secs(1);
const LOOK_EVERY_MAX: Duration = Duration::from_secs(64);

/// First writes to chunks, here and there since the last snapshot, from which on the guest is taken
/// to go on like that.
const SPARSE_MIN: u32 = 16;
/// Mappings that a chunk may take when it is left to the kernel again.
const RUNS_MAX: usize = 8;

/// Decides what is left to the kernel, and when its private pages are looked for.
#[derive(Debug)]
pub(super) struct Unarmed {
    allowed: bool,
    again: bool,
    /// First writes to chunks, here and there, since the last snapshot.
    sparse: AtomicU32,
    /// True since the medium had no memory for a private page that was to be moved.
    lacking: AtomicBool,
    /// True while a snapshot is prepared: all that is mapped is armed.
    snapshot: AtomicBool,
    look: Mutex<Look>,
    pub(super) watch: Mutex<Watch>,
}

/// A walk through all chunks for private pages.
#[derive(Debug)]
struct Look {
    /// Time of the next walk, if none is under way.
    due: Instant,
    every: Duration,
    /// The chunk at which the walk under way goes on.
    next: Option<ChunkIndex>,
    /// True if the walk has found a page.
    found: bool,
}

impl Unarmed {
    pub fn new(techniques: Techniques) -> Self {
        Self {
            allowed: techniques.leave_unarmed,
            again: techniques.leave_unarmed && techniques.leave_again,
            sparse: AtomicU32::new(0),
            lacking: AtomicBool::new(false),
            snapshot: AtomicBool::new(false),
            look: Mutex::new(Look {
                due: Instant::now() + LOOK_EVERY,
                every: LOOK_EVERY,
                next: None,
                found: false,
            }),
            watch: Mutex::new(Watch::new()),
        }
    }

    /// Begins to prepare a snapshot: from here on nothing is left to the kernel.
    pub fn begin_snapshot(&self) {
        self.snapshot.store(true, Ordering::SeqCst);
        self.sparse.store(0, Ordering::Relaxed);
    }

    /// The frames of a snapshot are shared, or there will be none.
    pub fn end_snapshot(&self) {
        self.snapshot.store(false, Ordering::SeqCst);
    }

    /// True if writes may be left to the kernel at all.
    #[cfg(test)]
    pub fn is_allowed(&self) -> bool {
        self.allowed
    }

    /// Makes the next look due.
    #[cfg(test)]
    pub fn look_now(&self) {
        lock(&self.look).due = Instant::now();
    }

    fn allows(&self) -> bool {
        self.allowed
            && !self.snapshot.load(Ordering::SeqCst)
            && !self.lacking.load(Ordering::Relaxed)
    }
}

impl RedirectEngine {
    /// True if `chunks` more may be left to the kernel now.
    pub(super) fn may_leave(&self, chunks: usize) -> bool {
        self.unarmed.allows()
            && self.mapping.has_single_frames()
            && self
                .placement
                .has_empty(self.chunks.unreconciled() + chunks)
    }

    /// True if a write to a chunk of a snapshot, all of which is armed, is best left to the kernel,
    /// and all that follow in the chunk with it.
    pub(super) fn leaves_again(
        &self,
        index: ChunkIndex,
        known: &KnownChunk,
    ) -> Result<bool, CowError> {
        let fits = self.unarmed.again
            && known.own().is_empty()
            && known.history.expected().is_empty()
            && !self.prediction.is_quick()
            && !self.mapping.budget().is_spent()
            && self.may_leave(1)
            && known.mapped_runs(&known.backed()).len() <= RUNS_MAX;
        if !fits || self.is_written_around(index)? {
            return Ok(false);
        }
        Ok(self.unarmed.sparse.fetch_add(1, Ordering::Relaxed) >= SPARSE_MIN)
    }

    /// Maps a chunk of a snapshot anew, privately. The blocks do not change, so nothing of it does.
    pub(super) fn leave_again(
        &self,
        index: ChunkIndex,
        known: &mut KnownChunk,
    ) -> Result<(), CowError> {
        known.note_shared_are_private();
        // From here on the frames count as unarmed, wherever this stops.
        known.note_left();
        self.chunks.note_unreconciled(known);
        for run in known.mapped_runs(known.private()) {
            self.mapping.show_left(index, &run)?;
        }
        Ok(())
    }

    /// Arms private frames that are not armed, and makes those own that were written meanwhile,
    /// with the content that the guest sees.
    ///
    /// # Errors
    /// [`CowError::NoSpace`]: the frames are armed. What was written is made up for by the next
    /// access to the chunk or the next snapshot, whichever comes first.
    pub(super) fn reconcile_unarmed_writes(
        &self,
        index: ChunkIndex,
        known: &mut KnownChunk,
    ) -> Result<(), CowError> {
        if known.is_reconciled() {
            return Ok(());
        }
        self.arm_private(index, known)?;
        let written = self.private_pages(index, known)?;
        if !written.is_empty() {
            let moved = self.move_to_blocks(index, known, &written);
            let lacking = matches!(moved, Err(CowError::NoSpace(Lack::Medium)));
            self.unarmed.lacking.store(lacking, Ordering::Relaxed);
            moved?;
        }
        self.chunks.note_reconciled(known);
        Ok(())
    }

    pub(super) fn arm_private(
        &self,
        index: ChunkIndex,
        known: &mut KnownChunk,
    ) -> Result<(), CowError> {
        for run in known.mapped_runs(&known.unarmed()) {
            if known.is_left() {
                self.mapping.guard_run(index, &run)?;
            } else {
                self.mapping
                    .arm(index, &run.frames)
                    .map_err(os("arm blocks"))?;
            }
        }
        known.note_armed();
        Ok(())
    }

    /// [`RedirectEngine::reconcile_unarmed_writes`], with the mappings that it takes counted.
    pub(super) fn reconcile_counted(
        &self,
        index: ChunkIndex,
        known: &mut KnownChunk,
    ) -> Result<(), CowError> {
        self.mapping
            .counted(known, |known| self.reconcile_unarmed_writes(index, known))
    }

    /// Private frames that have a page of this process. If they are not armed there may be more by
    /// now.
    pub(super) fn private_pages(
        &self,
        index: ChunkIndex,
        known: &KnownChunk,
    ) -> Result<FrameSet, CowError> {
        let mut written = FrameSet::EMPTY;
        for run in runs(known.private()) {
            written = written.union(&set_of(self.mapping.written_while_unarmed(index, run)?));
        }
        Ok(written)
    }

    /// Copies private pages, which are armed, to blocks of the VM's own.
    fn move_to_blocks(
        &self,
        index: ChunkIndex,
        known: &mut KnownChunk,
        written: &FrameSet,
    ) -> Result<(), CowError> {
        let budget = self.mapping.budget();
        let many = runs(written).len() > budget.mappings_for_a_chunk();
        if many || written.count() >= WHOLE_MIN {
            match self.copy_whole(index, known) {
                Ok(()) => {
                    Counters::add(&self.chunks.counters().frames_moved, written.count());
                    return Ok(());
                }
                Err(CowError::NoSpace(_)) if !budget.is_exceeded() => {}
                Err(error) => return Err(error),
            }
        }
        loop {
            let left: Vec<FrameIndex> = written.minus(known.own()).places().collect();
            let Some(first) = left.first() else {
                return Ok(());
            };
            let targets =
                self.placement
                    .targets(&mut known.set_aside, &left, *first, &self.chunks)?;
            self.copy_to(index, known, &targets)?;
            Counters::add(&self.chunks.counters().frames_moved, targets.len() as u32);
        }
    }

    /// Reconciles all chunks; nothing is written meanwhile.
    pub(super) fn reconcile_all(&self) -> Result<(), CowError> {
        if self.chunks.are_reconciled() {
            return Ok(());
        }
        for (index, chunk) in self.chunks.iter() {
            if let LiveChunk::Known(known) = &mut *lock(chunk) {
                self.reconcile_counted(index, known)?;
            }
        }
        Ok(())
    }

    /// Reconciles all chunks while the guest runs. Returns the number of frames that were moved.
    pub(super) fn reconcile_ahead(&self) -> Result<u64, CowError> {
        let moved = || Counters::get(&self.chunks.counters().frames_moved);
        let before = moved();
        for (index, chunk) in self.chunks.iter() {
            let _not_sharing = self.not_sharing();
            if let LiveChunk::Known(known) = &mut *lock(chunk) {
                self.reconcile_counted(index, known)?;
            }
        }
        Ok(moved() - before)
    }

    /// Reconciles some chunks to which blocks were adopted, or which met a full pool. Returns true
    /// if there may be more.
    pub(super) fn reconcile_some(&self) -> Result<bool, CowError> {
        self.reconcile_those(|known| !known.is_left())
    }

    fn reconcile_those(&self, which: impl Fn(&KnownChunk) -> bool) -> Result<bool, CowError> {
        let _not_sharing = self.not_sharing();
        let mut left = RECONCILED_AT_ONCE;
        for (index, chunk) in self.chunks.iter() {
            if self.chunks.are_reconciled() || left == 0 {
                break;
            }
            if let LiveChunk::Known(known) = &mut *lock(chunk)
                && !known.is_reconciled()
                && which(known)
            {
                let was_left = known.is_left();
                match self.reconcile_counted(index, known) {
                    Ok(()) => left -= 1,
                    // It is armed.
                    Err(CowError::NoSpace(_)) if was_left => left -= 1,
                    Err(CowError::NoSpace(_)) => return Ok(false),
                    Err(other) => return Err(other),
                }
            }
        }
        Ok(left == 0)
    }

    /// Moves private pages that were left to the kernel, and that have rested, to blocks. Where the
    /// pool has become too full for all that is left to the kernel, arms some of it. Returns true
    /// if there is more to do.
    pub(super) fn look_at_left(&self) -> Result<bool, CowError> {
        if self.chunks.are_reconciled() {
            return Ok(false);
        }
        let lacking = self.unarmed.lacking.load(Ordering::Relaxed);
        if lacking || !self.placement.has_empty(self.chunks.unreconciled()) {
            return self.reconcile_those(KnownChunk::is_left);
        }
        let mut look = lock(&self.unarmed.look);
        let from = match look.next.take() {
            Some(next) => next,
            None if look.due > Instant::now() => return Ok(false),
            None => ChunkIndex::FIRST,
        };
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
                look.next = Some(index);
                return Ok(true);
            }
            at_once -= 1;
            let pages = self.private_pages(index, known)?.count();
            look.found |= pages > 0;
            if pages > 0 && known.note_seen(pages) == pages {
                match self.reconcile_counted(index, known) {
                    Err(CowError::NoSpace(_)) | Ok(()) => {}
                    Err(other) => return Err(other),
                }
            }
        }
        look.every = if look.found {
            LOOK_EVERY
        } else {
            (look.every * 2).min(LOOK_EVERY_MAX)
        };
        look.due = Instant::now() + look.every;
        look.found = false;
        Ok(false)
    }
}
