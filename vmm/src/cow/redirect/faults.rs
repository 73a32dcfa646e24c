//! Answers held accesses, chunk by chunk.

use std::ops::Range;

use nvvmm_snapshot::{ChunkIndex, ChunkMap, FrameIndex, FrameSet};

use super::{
    RedirectEngine,
    chunk::{KnownChunk, MappedRun},
    mapping::aligned_around,
};
use crate::{
    cow::{CHUNK_FRAMES, CowError, Lack, counters::Counters, error::os, frames::set_of},
    sys::uffd::Fault,
};

/// Frames that get memory at a first touch where there is not enough for more.
const FRESH_FRAMES_MIN: u32 = 16;

impl RedirectEngine {
    pub(super) fn answer_in_chunk(
        &self,
        index: ChunkIndex,
        known: &mut KnownChunk,
        frame: FrameIndex,
        fault: Fault,
    ) -> Result<(), CowError> {
        let counters = self.chunks.counters();
        if !known.is_mapped() {
            self.first_touch(index, known)?;
            Counters::add(&counters.chunk_faults, 1);
        }
        if !known.is_left() {
            self.reconcile_unarmed_writes(index, known)?;
        }
        let unit = self.mapping.unit_of(frame);
        let is_own = unit.clone().all(|frame| known.is_own(frame));
        match known.block(frame) {
            None => self.back_hole(index, known, frame),
            Some(_) if !fault.write => Ok(()),
            // The first touch of a fresh chunk: nothing of it was ever armed.
            Some(_) if is_own && !fault.write_protected => Ok(()),
            // The chunk was copied as a whole after this access was held. To disarm a part of it
            // would split a huge page's mapping.
            Some(_) if is_own && known.is_never_armed() => Ok(()),
            // The frame is own and was held all the same. It was copied with a neighbour after this
            // access was held, or armed ahead, or armed for a snapshot that was never committed.
            // Nothing needs a copy.
            Some(_) if is_own => self.disarm_around(index, known, frame, unit),
            // The kernel copies it.
            Some(_) if known.is_left_frame(frame) => Ok(()),
            Some(_) if self.leaves_again(index, known)? => self.leave_again(index, known),
            Some(_) => {
                self.copy_around(index, known, frame)?;
                Counters::add(&counters.write_faults, 1);
                Ok(())
            }
        }
    }

    /// Maps every frame that has a block. Of a chunk that is one hole nothing is mapped: its frames
    /// get blocks as they are touched.
    pub(super) fn map_chunk(
        &self,
        index: ChunkIndex,
        known: &mut KnownChunk,
    ) -> Result<(), CowError> {
        if let ChunkMap::Hole = known.map() {
            self.mapping.note_mapped(index, known);
            return Ok(());
        }
        known.note_shared_are_private();
        let runs = known.mapped_runs(&known.backed());
        // All of them before any is mapped: an access that waits for memory comes here again.
        // A copy that was prepared has memory.
        let needed = runs.iter().filter(|_| !known.is_prepared());
        for run in needed {
            let count = run.frames.len() as u32;
            self.placement.provide_shared(run.block, count)?;
        }
        let leave = self.may_leave(1);
        for run in &runs {
            if leave && run.private {
                self.mapping.show_left(index, run)?;
            } else {
                self.mapping.map_run(index, run)?;
            }
        }
        self.mapping.note_mapped(index, known);
        if known.private().is_empty() {
            return Ok(());
        }
        self.chunks.note_unreconciled(known);
        if leave {
            known.note_left();
            return Ok(());
        }
        self.reconcile_unarmed_writes(index, known)
    }

    /// Puts fresh blocks behind the holes of a cluster, with memory behind them: once they are
    /// mapped, an access that finds none would fail.
    fn back_hole(
        &self,
        index: ChunkIndex,
        known: &mut KnownChunk,
        frame: FrameIndex,
    ) -> Result<(), CowError> {
        let budget = self.mapping.budget();
        let at = index.frame_number(frame);
        let mut frames = self.prediction.fresh_frames(at, budget);
        let whole = self.mapping.has_whole_chunks();
        if whole || frames == CHUNK_FRAMES {
            let backed = match known.map() {
                ChunkMap::Hole => self.back_whole(index, known),
                _ if budget.is_spent() => self
                    .reconcile_unarmed_writes(index, known)
                    .and_then(|()| self.copy_whole(index, known)),
                _ => self.back_rest(index, known, frame),
            };
            match backed {
                // A smaller cluster may do, unless its mappings are too many.
                Err(CowError::NoSpace(_)) if !whole && !budget.is_exceeded() => {
                    frames = FRESH_FRAMES_MIN;
                }
                done => {
                    let end = index.frame_number(FrameIndex::FIRST) + u64::from(CHUNK_FRAMES);
                    return done.inspect(|()| self.prediction.note_fresh(at, end));
                }
            }
        }
        let cluster = aligned_around(frame, frames);
        let holes: Vec<FrameIndex> = FrameIndex::range(cluster.clone())
            .filter(|frame| known.block(*frame).is_none())
            .collect();
        let backed = match self.back(index, known, &holes, frame) {
            // The last memory of a medium is for the frame that is touched.
            Err(CowError::NoSpace(Lack::Medium)) if known.block(frame).is_none() => {
                self.back(index, known, &[frame], frame)
            }
            other => other,
        };
        let end = index.frame_number(cluster.start.into()) + u64::from(frames);
        backed.inspect(|()| self.prediction.note_fresh(at, end))
    }

    /// Puts fresh blocks behind all holes of a chunk.
    fn back_rest(
        &self,
        index: ChunkIndex,
        known: &mut KnownChunk,
        frame: FrameIndex,
    ) -> Result<(), CowError> {
        let holes: Vec<FrameIndex> = known.backed().iter_absent().map(FrameIndex::new).collect();
        self.back(index, known, &holes, frame)
    }

    /// Puts a fresh chunk of the pool behind a chunk that is one hole.
    pub(super) fn back_whole(
        &self,
        index: ChunkIndex,
        known: &mut KnownChunk,
    ) -> Result<(), CowError> {
        let chunk = self.placement.whole_chunk()?;
        let run = MappedRun::whole(chunk);
        if let Err(error) = self.mapping.show_run(index, &run) {
            self.placement.free_chunk(chunk);
            return Err(error);
        }
        self.placement.release(&mut known.set_aside);
        known.replace_all(chunk);
        self.chunks
            .gained(index, known, &FrameSet::FULL, CHUNK_FRAMES);
        self.mapping.guard_run(index, &run)
    }

    fn back(
        &self,
        index: ChunkIndex,
        known: &mut KnownChunk,
        holes: &[FrameIndex],
        must: FrameIndex,
    ) -> Result<(), CowError> {
        let targets = self
            .placement
            .targets(&mut known.set_aside, holes, must, &self.chunks)?;
        if let Err(error) = self.placement.provide(&targets) {
            self.placement.free_targets(&targets);
            return Err(error);
        }
        self.redirect(index, known, &targets, |_| Ok(()))
    }

    /// Copies the frame that is written, and those that are likely to be written next.
    fn copy_around(
        &self,
        index: ChunkIndex,
        known: &mut KnownChunk,
        frame: FrameIndex,
    ) -> Result<(), CowError> {
        let budget = self.mapping.budget();
        let whole = self.mapping.has_whole_chunks();
        let ahead = self.prediction.frames_ahead(index.frame_number(frame));
        if whole || budget.is_spent() {
            match self.copy_dense(index, known, frame, ahead) {
                // No whole chunk is free, and scattered blocks cost mappings, which the kernel
                // would refuse in the end.
                Err(CowError::NoSpace(_)) if !whole && !budget.is_exceeded() => {}
                done => return done,
            }
        }
        let cluster = known.history.frames_to_copy(frame, ahead, budget);
        let end = index.frame_number(cluster.start.into()) + cluster.len() as u64;
        let cluster = set_of(cluster);
        let hot = known.hot_now().minus(&cluster);
        let wanted = cluster.union(&hot).minus(known.own()).count();
        if self.copies_densely(known, wanted)? {
            match self.copy_dense(index, known, frame, ahead) {
                Err(CowError::NoSpace(_)) if !budget.is_exceeded() => {}
                done => return done.inspect(|()| self.note_copied_ahead(known, &hot)),
            }
        }
        let hot = self.affordable(hot);
        let shared: Vec<FrameIndex> = cluster
            .union(&hot)
            .places()
            .filter(|frame| known.block(*frame).is_some() && !known.is_own(*frame))
            .collect();
        let targets = self
            .placement
            .targets(&mut known.set_aside, &shared, frame, &self.chunks)?;
        let targets = self.affordable_targets(targets, &cluster);
        let mut copied = self.copy_to(index, known, &targets);
        if matches!(copied, Err(CowError::NoSpace(Lack::Medium)))
            && targets.len() > 1
            && !known.is_own(frame)
        {
            // The last memory of a medium is for the frame that is written.
            let set_aside = &mut known.set_aside;
            let one = self
                .placement
                .targets(set_aside, &[frame], frame, &self.chunks)?;
            copied = self.copy_to(index, known, &one);
        }
        self.note_copied_ahead(known, &hot);
        copied.inspect(|()| {
            let at = index.frame_number(frame);
            self.prediction.note_copied(at, end);
        })
    }

    /// Lets a write to an own frame go on, and later writes to its neighbours.
    fn disarm_around(
        &self,
        index: ChunkIndex,
        known: &mut KnownChunk,
        frame: FrameIndex,
        unit: Range<u32>,
    ) -> Result<(), CowError> {
        let cluster = set_of(known.history.cluster_around(frame, self.mapping.budget()));
        let armed = cluster
            .intersection(known.armed_ahead())
            .union(&set_of(unit));
        for run in known.mapped_runs(&armed) {
            self.mapping
                .disarm(index, &run.frames)
                .map_err(os("disarm frames"))?;
        }
        known.note_disarmed(&armed);
        Ok(())
    }
}
