//! Fresh blocks behind frames: copied to, or empty, and mapped in place of what was there.

use std::ops::Range;

use nvvmm_snapshot::{BlockNo, ChunkMap, ChunkNo, FaultPoint, FrameSet, fault_point};

use super::{
    RedirectEngine,
    chunk::{KnownChunk, MappedRun, target_runs},
};
use crate::{
    cow::{
        CHUNK_FRAMES, CowError, FRAME_SIZE_BYTES,
        engine::{Counters, is_full, os},
        frames::{runs, set_of},
    },
    sys::reservation::Sharing,
};

impl RedirectEngine {
    pub(super) fn back_hole(
        &self,
        index: u32,
        known: &mut KnownChunk,
        frame: u32,
    ) -> Result<(), CowError> {
        let window = window_of(frame, self.budget.cluster_frames(None));
        let holes: Vec<u32> = window
            .filter(|frame| known.block(*frame).is_none())
            .collect();
        let targets = self.targets(known, &holes, frame)?;
        self.redirect(index, known, &targets, |_| Ok(()))
    }

    pub(super) fn copy_around(
        &self,
        index: u32,
        known: &mut KnownChunk,
        frame: u32,
    ) -> Result<(), CowError> {
        let whole = self.unit_frames == CHUNK_FRAMES;
        if (whole || self.budget.is_spent()) && self.copy_whole(index, known)? {
            return Ok(());
        }
        if whole {
            return Err(CowError::NoSpace);
        }
        // No whole chunk is free, and scattered blocks cost mappings that the kernel would refuse
        // in the end.
        if self.budget.is_exceeded() {
            return Err(CowError::NoSpace);
        }
        let alone = known.lone.is_expected_alone(frame) && self.budget.allows_lone_frames();
        let window = set_of(if alone {
            frame..frame + 1
        } else {
            self.window_around(known, frame)
        });
        let hot = self.worth_copying_ahead(known.hot_now().minus(&window));
        let shared: Vec<u32> = window
            .union(&hot)
            .iter()
            .filter(|f| known.block(*f).is_some() && !known.own.contains(*f))
            .collect();
        let targets = self.not_scattered(self.targets(known, &shared, frame)?, &window);
        let copied = self.copy_to(index, known, &targets);
        self.note_copied_ahead(known, &hot);
        copied
    }

    /// The frames that are dealt with together with one that is written: more of them the longer
    /// writes go on where the last ones ended.
    pub(super) fn window_around(&self, known: &mut KnownChunk, frame: u32) -> Range<u32> {
        let goes_on = known.last_window.end == frame;
        let last = goes_on.then_some(known.last_window.len() as u32);
        let window = window_of(frame, self.budget.cluster_frames(last));
        known.last_window = window.clone();
        window
    }

    /// Copies frames, as the guest sees them, to `targets`, and maps those in their place.
    pub(super) fn copy_to(
        &self,
        index: u32,
        known: &mut KnownChunk,
        targets: &[(u32, BlockNo)],
    ) -> Result<(), CowError> {
        // The frames are armed: nobody changes them between the copy and the new mapping.
        self.redirect(index, known, targets, |run| {
            self.copy_run(index, run)?;
            Counters::add(&self.counters.frames_copied, run.frames.len() as u32);
            Ok(())
        })
    }

    /// Maps `targets`, filled by `fill`, in place of what is behind their frames. Blocks that do
    /// not get so far go back to the pool; those that do are the guest's, whatever fails
    /// afterwards.
    pub(super) fn redirect(
        &self,
        index: u32,
        known: &mut KnownChunk,
        targets: &[(u32, BlockNo)],
        fill: impl Fn(&MappedRun) -> Result<(), CowError>,
    ) -> Result<(), CowError> {
        let mut rest = targets;
        let free = |rest: &[(u32, BlockNo)]| {
            let unused: Vec<BlockNo> = rest.iter().map(|(_, block)| *block).collect();
            self.holder.free_blocks(&unused);
        };
        for run in target_runs(targets) {
            fault_point(FaultPoint::RedirectTaken);
            let placed = fill(&run)
                .inspect(|()| fault_point(FaultPoint::RedirectCopied))
                .and_then(|()| self.place_run(index, &run, Sharing::Shared))
                .inspect(|()| fault_point(FaultPoint::RedirectMapped));
            if let Err(error) = placed {
                free(rest);
                return Err(error);
            }
            let (placed, left) = rest.split_at(run.frames.len());
            rest = left;
            let frames = set_of(run.frames.clone());
            let newly_backed = frames.iter().filter(|f| known.block(*f).is_none()).count() as u32;
            known.replace(placed);
            frames
                .iter()
                .for_each(|frame| _ = known.private.remove(frame));
            self.gained(index, known, &frames, newly_backed);
            if let Err(error) = self.guard_run(index, &run, Sharing::Shared) {
                free(rest);
                return Err(error);
            }
        }
        Ok(())
    }

    /// Gives the chunk a fresh pool chunk of its own, so that it takes one mapping. False when
    /// there is no space for it.
    pub(super) fn copy_whole(&self, index: u32, known: &mut KnownChunk) -> Result<bool, CowError> {
        // What is in a chunk that a copy fills is no matter.
        let filled = self.unit_frames == CHUNK_FRAMES && matches!(known.map, ChunkMap::Whole(_));
        let chunk = if filled {
            self.holder.alloc_chunk_for_copy()
        } else {
            self.holder.alloc_chunk()
        };
        let chunk = match chunk {
            Ok(chunk) => chunk,
            Err(error) if is_full(&error) => return Ok(false),
            Err(other) => return Err(other.into()),
        };
        let run = whole_run(chunk);
        fault_point(FaultPoint::RedirectTaken);
        let placed = self
            .copy_backed(index, known, chunk)
            .inspect(|()| fault_point(FaultPoint::RedirectCopied))
            .and_then(|()| self.place_run(index, &run, Sharing::Shared))
            .inspect(|()| fault_point(FaultPoint::RedirectMapped));
        if let Err(error) = placed {
            self.holder.free_blocks(&blocks_of(chunk));
            return match error {
                CowError::NoSpace => Ok(false),
                other => Err(other),
            };
        }
        let backed = known.map.count();
        let replaced: Vec<BlockNo> = known
            .own
            .iter()
            .filter_map(|frame| known.block(frame))
            .collect();
        self.holder.free_blocks(&replaced);
        if let Some(spare) = known.spare.take() {
            self.holder.end_set_aside(spare);
        }
        known.map = ChunkMap::Whole(chunk);
        known.private = FrameSet::EMPTY;
        self.gained(index, known, &FrameSet::FULL, CHUNK_FRAMES - backed);
        Counters::add(&self.counters.frames_copied, backed);
        self.guard_run(index, &run, Sharing::Shared).map(|()| true)
    }

    /// Copies every frame of the chunk that has a block to its own index of `chunk`. The VM's own
    /// frames are armed for that, and stay so if it fails.
    fn copy_backed(&self, index: u32, known: &KnownChunk, chunk: ChunkNo) -> Result<(), CowError> {
        if self.unit_frames == CHUNK_FRAMES
            && let ChunkMap::Whole(from) = known.map
        {
            return Ok(self.holder.copy_chunk(from, chunk)?);
        }
        for run in known.mapped_runs(&known.own) {
            let (start, size_bytes) = (self.address(index, run.frames.start), run.frames.len());
            self.uffd
                .protect(start, size_bytes * FRAME_SIZE_BYTES, true)
                .map_err(os("arm frames for a copy"))?;
        }
        for frames in runs(&known.backed()) {
            let block = chunk.block(frames.start);
            self.copy_run(
                index,
                &MappedRun {
                    frames,
                    block,
                    private: false,
                },
            )?;
        }
        Ok(())
    }

    pub(super) fn copy_run(&self, index: u32, run: &MappedRun) -> Result<(), CowError> {
        let offset = self.ram_offset(index, run.frames.start);
        let size_bytes = run.frames.len() * FRAME_SIZE_BYTES;
        self.reservation()
            .copy_to_file(offset, size_bytes, self.pool_fd(), run.block.byte_offset())
            .map_err(os("copy frames"))
    }

    /// Maps a run of blocks. A private run is armed before anybody can count on it; see
    /// `settle_early_writes`.
    pub(super) fn map_run(
        &self,
        index: u32,
        run: &MappedRun,
        sharing: Sharing,
    ) -> Result<(), CowError> {
        self.place_run(index, run, sharing)?;
        self.guard_run(index, run, sharing)
    }

    /// The first half of `map_run`: the guest sees and writes the blocks from here on.
    pub(super) fn place_run(
        &self,
        index: u32,
        run: &MappedRun,
        sharing: Sharing,
    ) -> Result<(), CowError> {
        let offset = self.ram_offset(index, run.frames.start);
        let size_bytes = run.frames.len() * FRAME_SIZE_BYTES;
        self.reservation()
            .map_file(
                offset,
                size_bytes,
                self.pool_fd(),
                run.block.byte_offset(),
                sharing,
            )
            .map_err(os("map blocks"))
    }

    /// The second half: the mapping can be armed, and is if it is private.
    pub(super) fn guard_run(
        &self,
        index: u32,
        run: &MappedRun,
        sharing: Sharing,
    ) -> Result<(), CowError> {
        self.register_run(index, run)?;
        let start = self.address(index, run.frames.start);
        let size_bytes = run.frames.len() * FRAME_SIZE_BYTES;
        match sharing {
            Sharing::Shared => Ok(()),
            Sharing::Private => self
                .uffd
                .protect(start, size_bytes, true)
                .map_err(os("arm blocks")),
        }
    }

    /// A new mapping is registered at once: the next arming needs it, and mappings merge only when
    /// alike.
    pub(super) fn register_run(&self, index: u32, run: &MappedRun) -> Result<(), CowError> {
        let start = self.address(index, run.frames.start);
        self.uffd
            .register_write_protect(start, run.frames.len() * FRAME_SIZE_BYTES)
            .map_err(os("register blocks"))
    }
}

/// The aligned window of `size_frames` (a power of two) around `frame`.
pub(super) fn window_of(frame: u32, size_frames: u32) -> Range<u32> {
    let start = frame & !(size_frames - 1);
    start..start + size_frames
}

pub(super) fn whole_run(chunk: ChunkNo) -> MappedRun {
    MappedRun {
        frames: 0..CHUNK_FRAMES,
        block: chunk.block(0),
        private: false,
    }
}

pub(super) fn blocks_of(chunk: ChunkNo) -> Vec<BlockNo> {
    (0..CHUNK_FRAMES).map(|index| chunk.block(index)).collect()
}
