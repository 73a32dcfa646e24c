//! Adds frames of a process that is captured to an image.

use std::sync::Arc;

use nvvmm_protocol::{FrameRun, Frames};
use nvvmm_snapshot::{
    BlockNo, ChunkIndex, ChunkMap, FrameSet, Holder, NewMap, NewSnapshot, SnapshotId, SnapshotKind,
};
use vm_memory::Bytes;

use super::{
    ProcessError, SavedProcess,
    named::{
        NamedRun, access_to, address_of, check_pages, frames_in, frames_of, named_frames,
        named_runs, per_chunk,
    },
    pages::ImagePages,
};
use crate::cow::{CowEngine, CowError, FRAME_SIZE_BYTES, ShareSet};
use crate::window::ShownBlocks;

/// Pages of an image at most, for each frame of the VM. Processes that were forked share frames.
const PAGES_PER_FRAME_MAX: u64 = 4;
/// Blocks that a capture holds at most, for each frame of the VM. A guest may write to frames that
/// it has named, and name them again: it costs the pool no more than that.
const BLOCKS_PER_FRAME_MAX: u64 = 2;

/// An image in the making. Unless it is committed it must be rolled back.
#[derive(Debug, Default)]
pub struct Capturing {
    /// Blocks that windows show the guest, all of them in images that the VM pins.
    shown: Vec<Arc<ShownBlocks>>,
    pages: ImagePages,
    /// Blocks that were the VM's own until they were shared with the image.
    given: Vec<ShareSet>,
    /// Blocks of copies, where the engine cannot share frames.
    copies: Vec<BlockNo>,
    /// Number of blocks in `given` and `copies`.
    blocks: u64,
}

/// An image that was committed.
#[derive(Clone, Copy, Debug)]
pub struct Kept {
    /// Its number in the pool; the VM's holder pins it.
    pub id: SnapshotId,
    /// Pages that it has.
    pub pages: u64,
    /// Blocks of the VM's own that it took by reference.
    pub frames_given: u64,
    /// Blocks that bytes were copied to.
    pub frames_copied: u64,
    /// Bytes of its state, which is all but pages.
    pub state_bytes: u64,
    /// Blocks written for its metadata, that state included.
    pub metadata_blocks: u64,
}

impl Capturing {
    /// Begins an image of a process that may run on what windows show.
    pub fn new(shown: Vec<Arc<ShownBlocks>>) -> Self {
        Self {
            shown,
            ..Self::default()
        }
    }

    /// Adds the frames that the agent names; they hold the pages of processes that are frozen.
    ///
    /// # Errors
    /// Some of `runs` may have been added then. The image is to be rolled back.
    pub fn take(
        &mut self,
        runs: &[FrameRun],
        engine: &dyn CowEngine,
        holder: &Holder,
    ) -> Result<(), ProcessError> {
        let ram = engine.ram();
        let pages_max = frames_of(ram) * PAGES_PER_FRAME_MAX;
        let of_ram = self.take_shown(runs, pages_max)?;
        for (chunk, runs) in per_chunk(named_runs(&of_ram, ram, pages_max)?) {
            match self.give(chunk, &frames_in(&runs), engine)? {
                Some(map) => runs
                    .iter()
                    .flat_map(NamedRun::iter)
                    .for_each(|(frame, page)| self.pages.set(page, map.block(frame))),
                None => self.copy(&runs, engine, holder)?,
            }
        }
        Ok(())
    }

    /// Shares frames that are likely to be named by [`Capturing::take`], so that there is less to
    /// do then. The guest may write to them meanwhile; the image gets what it wrote.
    ///
    /// # Errors
    /// Those of [`Capturing::take`].
    pub fn give_ahead(
        &mut self,
        frames: &[Frames],
        engine: &dyn CowEngine,
    ) -> Result<(), ProcessError> {
        for (chunk, runs) in per_chunk(named_frames(frames, engine.ram())?) {
            self.give(chunk, &frames_in(&runs), engine)?;
        }
        Ok(())
    }

    /// Shares frames of a chunk, which are not own any more, and returns the blocks behind them.
    /// `None` if the engine cannot do that, and the frames are to be copied.
    fn give(
        &mut self,
        chunk: ChunkIndex,
        frames: &FrameSet,
        engine: &dyn CowEngine,
    ) -> Result<Option<ChunkMap>, ProcessError> {
        if self.blocks > frames_of(engine.ram()) * BLOCKS_PER_FRAME_MAX {
            return Err(ProcessError::Invalid(
                "frames again and again, which it has written to meanwhile".to_owned(),
            ));
        }
        let Some(set) = engine.share_live(chunk, frames)? else {
            return Ok(None);
        };
        let (_, map) = &set.changes()[0];
        let map = map.clone();
        self.blocks += set.frames_new();
        if set.frames_new() > 0 {
            self.given.push(set);
        }
        Ok(Some(map))
    }

    /// Adds frames of windows by reference. Returns the runs that are left.
    fn take_shown(
        &mut self,
        runs: &[FrameRun],
        pages_max: u64,
    ) -> Result<Vec<FrameRun>, ProcessError> {
        let mut left = Vec::new();
        let mut taken = 0;
        for run in runs {
            let blocks = self
                .shown
                .iter()
                .find_map(|shown| shown.in_frames(run.gfn, run.pages));
            let Some(blocks) = blocks else {
                left.push(*run);
                continue;
            };
            taken += u64::from(run.pages);
            check_pages(run, pages_max)?;
            if taken > pages_max {
                return Err(ProcessError::Invalid(format!(
                    "{taken} frames of windows at a time"
                )));
            }
            for (page, block) in (run.image_page..).zip(blocks) {
                self.pages.set(page, Some(block));
            }
        }
        Ok(left)
    }

    fn copy(
        &mut self,
        runs: &[NamedRun],
        engine: &dyn CowEngine,
        holder: &Holder,
    ) -> Result<(), ProcessError> {
        let frames: usize = runs.iter().map(|run| run.frames.len()).sum();
        let blocks = holder.alloc_blocks(frames as u32).map_err(CowError::from)?;
        self.copies.extend(&blocks);
        self.blocks += blocks.len() as u64;
        let mut bytes = [0; FRAME_SIZE_BYTES];
        let frames = runs
            .iter()
            .flat_map(|run| run.iter().map(|(frame, page)| (run.chunk, frame, page)));
        for ((chunk, frame, page), block) in frames.zip(blocks) {
            // Answered before, so that the read below waits for nothing.
            engine.answer(access_to(engine.ram(), chunk, frame, false))?;
            let memory = engine.ram().memory();
            memory.read_slice(&mut bytes, address_of(chunk, frame))?;
            holder.write_block(block, &bytes)?;
            self.pages.set(page, Some(block));
        }
        Ok(())
    }

    /// Commits the image to the pool. `pages` is the number of its pages, by what the agent says.
    ///
    /// # Errors
    /// There is no image then, and this is to be rolled back.
    pub fn commit(
        &mut self,
        name: &str,
        pages: u64,
        process: &SavedProcess,
        engine: &dyn CowEngine,
        holder: &Holder,
    ) -> Result<Kept, ProcessError> {
        let pages_max = frames_of(engine.ram()) * PAGES_PER_FRAME_MAX;
        if pages < self.pages.end() || pages > pages_max || pages == 0 {
            return Err(ProcessError::Invalid(format!(
                "{pages} pages for an image, after {} of them",
                self.pages.end()
            )));
        }
        let state = process.encode();
        let changes = self.pages.changes();
        let kept = self.pages.blocks();
        let given = self.given.iter().flat_map(|set| set.own_blocks());
        let frames_given = given.filter(|block| kept.contains(block)).count() as u64;
        let frames_copied = self
            .copies
            .iter()
            .filter(|block| kept.contains(block))
            .count() as u64;
        let memory_bytes = pages * FRAME_SIZE_BYTES as u64;
        let needed = holder.commit_blocks_needed(memory_bytes, changes.len() as u32, state.len());
        let committed = holder.commit_snapshot(
            NewSnapshot {
                kind: SnapshotKind::Process,
                name,
                parent: None,
                base: None,
                maps: vec![NewMap::memory(memory_bytes, &changes)],
                state: &state,
                frames_new: frames_given + frames_copied,
            },
            holder.reserve(needed)?,
        )?;
        for set in self.given.drain(..) {
            engine.roll_back(set.without(&kept));
        }
        self.copies.retain(|block| !kept.contains(block));
        holder.free_blocks(&std::mem::take(&mut self.copies));
        Ok(Kept {
            id: committed.id,
            pages,
            frames_given,
            frames_copied,
            state_bytes: state.len() as u64,
            metadata_blocks: u64::from(committed.metadata_blocks),
        })
    }

    /// Gives the image up: frames that were added are the VM's own again.
    pub fn roll_back(self, engine: &dyn CowEngine, holder: &Holder) {
        for set in self.given {
            engine.roll_back(set);
        }
        holder.free_blocks(&self.copies);
    }
}
