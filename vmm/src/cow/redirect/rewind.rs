//! All of guest RAM goes back to a snapshot, while everything that can write it stands still.
//!
//! **No writes to unarmed blocks.** Blocks of the snapshot are mapped shared. Nothing runs that
//! could write them before they are armed: vCPUs are at the gate, devices are paused, and KVM is
//! not called meanwhile. If it fails half-way the guest must not run again, so nothing writes them
//! then either.
//!
//! **Few calls.** A chunk that differs in few places gets those mapped anew, neighbours with one
//! call. One that differs in many is left to its first touch, like a chunk of a VM that was just
//! restored.
//!
//! **Own blocks** that are replaced are behind no address any more. They stay the VM's until
//! [`Placement::free_unneeded`](super::placement::Placement::free_unneeded).

use std::sync::PoisonError;

use nvvmm_snapshot::{BlockNo, ChunkIndex, ChunkMap, FrameIndex, FrameSet};

use super::{
    RedirectEngine,
    chunk::{KnownChunk, LiveChunk},
    prediction::EpochEnd,
};
use crate::cow::{
    CHUNK_FRAMES, CowError, RewindTo,
    counters::{Counters, lock},
    frames::{block_runs, runs},
    rewind::{Stretch, Stretches},
};

/// Stretches of a chunk that are mapped anew at once. To map one costs a part of what a first touch
/// costs.
const STRETCHES_MAX: usize = 8;

/// Work that is left when all chunks have been looked at.
struct Work<'e> {
    epoch: EpochEnd<'e>,
    /// All blocks of the snapshot behind chunks that are mapped have memory.
    has_memory: bool,
    /// Stretches that have to be mapped.
    stretches: Stretches,
    /// Blocks that were own, and are behind no frame any more.
    replaced: Vec<BlockNo>,
}

impl RedirectEngine {
    pub(super) fn put_back(&self, to: RewindTo) -> Result<(), CowError> {
        let _nothing_is_answered = self.sharing.write().unwrap_or_else(PoisonError::into_inner);
        let mut changed = self.chunks.take_dirty();
        changed.extend(self.changed_unlisted());
        // The guest is likely to write the same frames again: a first fault takes them along.
        let mut work = Work {
            epoch: self.prediction.end_epoch(),
            has_memory: to.is_base(),
            stretches: Stretches::default(),
            replaced: Vec::new(),
        };
        for index in to.chunks_to_put_back(changed) {
            let map = to.chunk(index)?;
            let live = &mut *lock(self.chunks.get(index));
            self.put_chunk_back(index, live, map, &mut work)?;
        }
        self.mapping.put(&work.stretches)?;
        self.placement.free_later(work.replaced);
        self.chunks.counters().start_again_with(to.frames_mapped());
        self.chunks.set_origin(to.into_origin());
        Ok(())
    }

    /// Chunks in which frames may have been written while they were not armed, and those that were
    /// copied before their first touch, which is still to come.
    fn changed_unlisted(&self) -> Vec<ChunkIndex> {
        let prepared = Counters::get(&self.chunks.counters().chunks_prepared);
        if self.chunks.are_reconciled() && prepared == 0 {
            return Vec::new();
        }
        let is_changed = |live: &LiveChunk| match live {
            LiveChunk::Known(known) => !known.is_reconciled() || known.is_prepared(),
            LiveChunk::Untouched => false,
        };
        let chunks = self.chunks.iter();
        chunks
            .filter(|(_, chunk)| is_changed(&lock(chunk)))
            .map(|(index, _)| index)
            .collect()
    }

    /// Makes a chunk one of the snapshot, but for what is mapped.
    fn put_chunk_back(
        &self,
        index: ChunkIndex,
        live: &mut LiveChunk,
        map: ChunkMap,
        work: &mut Work<'_>,
    ) -> Result<(), CowError> {
        let whole = self.mapping.has_whole_chunks();
        match live {
            LiveChunk::Untouched if whole => {
                return self.put_untouched(index, live, &map, work);
            }
            LiveChunk::Untouched => return Ok(()),
            LiveChunk::Known(known) => {
                let own = *known.own();
                work.epoch.of_chunk(index, &mut known.history, &own);
                work.replaced.extend(known.own_blocks());
                if known.is_mapped() {
                    let changed = changed_frames(known, &map);
                    let pieces = self.pieces_at_once(index, &map, &changed, work.has_memory)?;
                    self.chunks.note_reconciled(known);
                    if let Some(pieces) = pieces {
                        self.mapping
                            .counted(known, |known| known.put_back(map, &changed));
                        pieces
                            .into_iter()
                            .for_each(|piece| work.stretches.add(piece));
                        return Ok(());
                    }
                    self.mapping.note_unmapped(index, known.mappings_now());
                    let all = 0..CHUNK_FRAMES;
                    work.stretches.add(self.mapping.stretch(index, &all, None));
                }
                self.placement.release(&mut known.set_aside);
            }
        }
        *live = LiveChunk::Untouched;
        if whole {
            self.put_untouched(index, live, &map, work)?;
        }
        Ok(())
    }

    /// Maps a chunk that nothing is mapped of, on a medium whose chunks are mapped before they are
    /// touched.
    fn put_untouched(
        &self,
        index: ChunkIndex,
        live: &mut LiveChunk,
        map: &ChunkMap,
        work: &mut Work<'_>,
    ) -> Result<(), CowError> {
        match map.simplified() {
            ChunkMap::Hole => Ok(()),
            ChunkMap::Frames(_) => Err(CowError::NotWhole { index }),
            ChunkMap::Whole(chunk) => {
                *live = LiveChunk::Known(Box::new(self.known_as_mapped(index, chunk)));
                let (all, first) = (0..CHUNK_FRAMES, chunk.first_block());
                work.stretches
                    .add(self.mapping.stretch(index, &all, Some(first)));
                Ok(())
            }
        }
    }

    /// Stretches of changed frames in rising order, if they are so few that they are mapped at
    /// once, and all of the blocks have memory, or get it.
    fn pieces_at_once(
        &self,
        index: ChunkIndex,
        map: &ChunkMap,
        changed: &FrameSet,
        has_memory: bool,
    ) -> Result<Option<Vec<Stretch>>, CowError> {
        if self.mapping.has_whole_chunks() && matches!(map.simplified(), ChunkMap::Frames(_)) {
            return Err(CowError::NotWhole { index });
        }
        let blocks = block_runs(map, changed);
        let holes = runs(&changed.minus(&map.present()));
        if blocks.len() + holes.len() > STRETCHES_MAX {
            return Ok(None);
        }
        for run in blocks.iter().filter(|_| !has_memory) {
            let count = run.frames.len() as u32;
            match self.placement.provide_shared(run.block, count) {
                Ok(()) => {}
                // The first touch waits for memory.
                Err(CowError::NoSpace(_)) => return Ok(None),
                Err(other) => return Err(other),
            }
        }
        let stretch = |frames, block| self.mapping.stretch(index, frames, block);
        let blocks = blocks
            .iter()
            .map(|run| stretch(&run.frames, Some(run.block)));
        let holes = holes.iter().map(|frames| stretch(frames, None));
        let mut all: Vec<_> = blocks.chain(holes).collect();
        all.sort_unstable_by_key(|stretch| stretch.bytes.start);
        Ok(Some(all))
    }
}

/// Frames of a mapped chunk that show something else than the blocks of `map`, or may do.
fn changed_frames(known: &KnownChunk, map: &ChunkMap) -> FrameSet {
    let mut changed = match known.is_reconciled() {
        true => FrameSet::EMPTY,
        // Some were written before they were armed: they show pages of this process.
        false => *known.private(),
    };
    for frame in FrameIndex::all() {
        if known.block(frame) != map.block(frame) {
            changed.insert(frame);
        }
    }
    changed
}
