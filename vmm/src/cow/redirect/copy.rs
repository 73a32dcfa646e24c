//! Copies frames to fresh blocks, and maps those in place of what was there.

use nvvmm_snapshot::{
    BlockNo, ChunkForCopy, ChunkIndex, ChunkMap, FaultPoint, FrameIndex, FrameSet, fault_point,
};

use super::{
    RedirectEngine,
    chunk::{KnownChunk, MappedRun, target_runs},
};
use crate::cow::{
    CHUNK_FRAMES, CowError,
    counters::Counters,
    error::os,
    frames::{runs, set_of},
};

impl RedirectEngine {
    /// Copies frames, as the guest sees them, to `targets`, and maps those in their place.
    pub(super) fn copy_to(
        &self,
        index: ChunkIndex,
        known: &mut KnownChunk,
        targets: &[(FrameIndex, BlockNo)],
    ) -> Result<(), CowError> {
        // The frames are armed: nobody changes them between the copy and the new mapping.
        self.redirect(index, known, targets, |run| {
            self.mapping.copy_run(index, run)?;
            let copied = run.frames.len() as u32;
            Counters::add(&self.chunks.counters().frames_copied, copied);
            Ok(())
        })
    }

    /// Maps `targets`, filled by `fill`, in place of what is behind their frames. After a failure
    /// the blocks that are not mapped go back to the pool. Those that are mapped are the guest's,
    /// whatever fails afterwards.
    pub(super) fn redirect(
        &self,
        index: ChunkIndex,
        known: &mut KnownChunk,
        targets: &[(FrameIndex, BlockNo)],
        fill: impl Fn(&MappedRun) -> Result<(), CowError>,
    ) -> Result<(), CowError> {
        let mut rest = targets;
        for run in target_runs(targets) {
            fault_point(FaultPoint::RedirectTaken);
            let shown = fill(&run)
                .inspect(|()| fault_point(FaultPoint::RedirectCopied))
                .and_then(|()| self.mapping.show_run(index, &run))
                .inspect(|()| fault_point(FaultPoint::RedirectMapped));
            if let Err(error) = shown {
                self.placement.free_targets(rest);
                return Err(error);
            }
            let (shown, left) = rest.split_at(run.frames.len());
            rest = left;
            let frames = set_of(run.frames.clone());
            let newly_backed = frames.iter().filter(|f| known.block(*f).is_none()).count() as u32;
            known.replace(shown);
            known.note_mapped_shared(&frames);
            self.chunks.gained(index, known, &frames, newly_backed);
            if let Err(error) = self.mapping.guard_run(index, &run) {
                self.placement.free_targets(rest);
                return Err(error);
            }
        }
        Ok(())
    }

    /// Copies a chunk to a fresh chunk of the pool, so that it takes one mapping.
    ///
    /// # Errors
    /// [`CowError::NoSpace`] when there is no space for it; nothing has changed then.
    pub(super) fn copy_whole(
        &self,
        index: ChunkIndex,
        known: &mut KnownChunk,
    ) -> Result<(), CowError> {
        // The copy of a chunk without holes overwrites whatever is in the fresh one.
        let target = if known.backed().is_full() {
            self.placement.whole_chunk_for_copy()?
        } else {
            ChunkForCopy {
                chunk: self.placement.whole_chunk()?,
                one_page: false,
            }
        };
        let chunk = target.chunk;
        let run = MappedRun::whole(chunk);
        known.note_arming();
        fault_point(FaultPoint::RedirectTaken);
        let shown = self
            .copy_backed(index, known, target)
            .inspect(|()| fault_point(FaultPoint::RedirectCopied))
            .and_then(|()| self.mapping.show_run(index, &run))
            .inspect(|()| fault_point(FaultPoint::RedirectMapped));
        if let Err(error) = shown {
            self.placement.free_chunk(chunk);
            return Err(error);
        }
        let backed = known.map().count();
        self.placement.free(&known.own_blocks());
        self.placement.release(&mut known.set_aside);
        known.replace_all(chunk);
        self.chunks
            .gained(index, known, &FrameSet::FULL, CHUNK_FRAMES - backed);
        let counters = self.chunks.counters();
        Counters::add(&counters.frames_copied, backed);
        Counters::add(&counters.chunks_copied, 1);
        self.mapping.guard_run(index, &run)
    }

    /// Copies every frame of the chunk that has a block to its own index of the target. Own frames
    /// are armed for that, and stay armed if it fails.
    ///
    /// Nothing is written to an armed frame, and what the guest sees of it is its block: a private
    /// page that was written before the frame was armed has become an own one. So a chunk of the
    /// pool can be copied inside the pool's own mapping. That is fast where the target is one page,
    /// which takes one fault and not 512.
    fn copy_backed(
        &self,
        index: ChunkIndex,
        known: &KnownChunk,
        target: ChunkForCopy,
    ) -> Result<(), CowError> {
        let chunk = target.chunk;
        if self.mapping.has_whole_chunks()
            && let ChunkMap::Whole(from) = known.map()
        {
            return self.placement.copy_chunk(*from, chunk);
        }
        for run in known.mapped_runs(known.own()) {
            self.mapping
                .arm(index, &run.frames)
                .map_err(os("arm frames for a copy"))?;
        }
        if let ChunkMap::Whole(from) = known.map()
            && target.one_page
            && known.is_reconciled()
        {
            return self.placement.copy_chunk(*from, chunk);
        }
        for frames in runs(&known.backed()) {
            let block = chunk.block(frames.start);
            let run = MappedRun {
                frames,
                block,
                private: false,
            };
            self.mapping.copy_run(index, &run)?;
        }
        Ok(())
    }
}
