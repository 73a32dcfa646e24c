//! Copies what was written to fresh blocks: in rounds while the guest goes on, the rest while it
//! stands still.

use std::collections::BTreeMap;

use nvvmm_snapshot::{
    BLOCK_SIZE_BYTES, BlockNo, ChunkIndex, FaultPoint, FrameIndex, FrameSet, Medium, Reservation,
    fault_point,
};

use super::{
    PrivateEngine,
    chunk::{Chunk, KnownChunk},
};
use crate::{
    cow::{
        CHUNK_SIZE_BYTES, CopiedAhead, CowEngine, CowError, FRAME_SIZE_BYTES,
        counters::{Counters, lock},
        error::{is_full, os},
        frames::{BlockRun, block_runs, runs},
    },
    memory::WriteLog,
};

/// Rounds of copying ahead at most. A guest may write faster than it is copied.
const ROUNDS_MAX: u32 = 8;
/// No further round is made for so few frames (256 KiB): they are left to the pause.
const FRAMES_FEW: u64 = 64;
/// Blocks reserved for the pause, beyond those that the last round needed: a quarter of those, and
/// 64.
const ROOM_SLACK_DIVISOR: u32 = 4;
const ROOM_BLOCKS_MIN: u32 = 64;

/// Result of one round.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Copied {
    pub frames: u64,
    /// Frames that needed a fresh block.
    pub blocks: u32,
}

impl PrivateEngine {
    /// Copies what was written, round after round, until little is left or the guest writes faster
    /// than it is copied.
    pub(super) fn copy_in_rounds(&self, log: &dyn WriteLog) -> Result<CopiedAhead, CowError> {
        let mut ahead = CopiedAhead::default();
        let mut before = u64::MAX;
        while ahead.rounds < ROUNDS_MAX {
            self.learn_writes(log)?;
            let copied = self.copy_dirty(None)?;
            ahead.frames += copied.frames;
            ahead.rounds += 1;
            ahead.room_blocks =
                copied.blocks + copied.blocks / ROOM_SLACK_DIVISOR + ROOM_BLOCKS_MIN;
            // Another round must promise to leave much less than this one found.
            if copied.frames <= FRAMES_FEW || copied.frames > before / 4 * 3 {
                break;
            }
            before = copied.frames;
        }
        Ok(ahead)
    }

    /// Frames that [`CowEngine::learn_writes`] would find now.
    pub(super) fn unseen_writes(
        &self,
        log: &dyn WriteLog,
    ) -> Result<BTreeMap<ChunkIndex, FrameSet>, CowError> {
        let mut bits: BTreeMap<ChunkIndex, FrameSet> = self.written.peek().collect();
        for slot in 0..self.slots() {
            let words = log.peek_slot(slot).map_err(os("read KVM's dirty log"))?;
            for (index, frames) in self.chunks_of(slot, &words) {
                let known = bits.entry(index).or_default();
                *known = known.union(&frames);
            }
        }
        Ok(bits)
    }

    pub(super) fn slots(&self) -> usize {
        self.ram.slots().len()
    }

    /// The chunks with bits in a slot's log.
    pub(super) fn chunks_of<'a>(
        &self,
        slot: usize,
        words: &'a [u64],
    ) -> impl Iterator<Item = (ChunkIndex, FrameSet)> + 'a {
        let slots = self.ram.slots();
        let first = ((slots[slot].hva - slots[0].hva) / CHUNK_SIZE_BYTES as u64) as u32;
        let chunks = (first..).zip(words.as_chunks().0);
        chunks
            .map(|(index, words)| (ChunkIndex::new(index), FrameSet::from_words(*words)))
            .filter(|(_, frames)| !frames.is_empty())
    }

    /// Marks frames of a chunk as written.
    pub(super) fn note(&self, index: ChunkIndex, frames: &FrameSet) {
        let mut chunk = lock(self.table.get(index));
        chunk.dirty = chunk.dirty.union(frames);
        self.list(index, &mut chunk);
    }

    /// Copies every dirty frame to a block of its own, first to blocks of `room`. After a failure
    /// the frames that were not copied are still dirty.
    pub(super) fn copy_dirty(
        &self,
        mut room: Option<&mut Reservation>,
    ) -> Result<Copied, CowError> {
        let mut indexes = lock(&self.listed).clone();
        indexes.sort_unstable();
        let mut total = Copied::default();
        for index in indexes {
            let mut chunk = lock(self.table.get(index));
            if !chunk.dirty.is_empty() {
                let copied = self.copy_chunk(index, &mut chunk, room.as_deref_mut())?;
                total.frames += copied.frames;
                total.blocks += copied.blocks;
            }
        }
        Ok(total)
    }

    fn copy_chunk(
        &self,
        index: ChunkIndex,
        chunk: &mut Chunk,
        room: Option<&mut Reservation>,
    ) -> Result<Copied, CowError> {
        let dirty = chunk.dirty;
        let known = self.know(index, chunk)?;
        if !known.mapped {
            // Noted as written, and not written: a device's read from its disk may fail. To read
            // the frame below must not be held, as this thread has the chunk's lock.
            self.map_chunk(index, known)?;
        }
        let fresh = dirty.minus(&known.own());
        self.end_view(index, &fresh)?;
        let blocks = self.fresh_blocks(&fresh, room)?;
        fault_point(FaultPoint::PrivateTaken);
        Counters::add(
            &self.counters.frames_mapped,
            known.add_copies(&fresh, &blocks),
        );
        for run in block_runs(&known.map, &dirty) {
            self.copy_run(index, &run)?;
        }
        fault_point(FaultPoint::PrivateCopied);
        // Writes that came meanwhile are in the logs, and not in this set.
        chunk.dirty = FrameSet::EMPTY;
        Counters::add(&self.counters.frames_copied, dirty.count());
        Ok(Copied {
            frames: u64::from(dirty.count()),
            blocks: fresh.count(),
        })
    }

    /// Ends the guest's view of the snapshot's blocks behind `frames`: the next snapshot will not
    /// have these blocks, and they may be freed. A write has ended the view before, except for
    /// frames that were noted as written and were not.
    fn end_view(&self, index: ChunkIndex, frames: &FrameSet) -> Result<(), CowError> {
        if !self.is_held() {
            return Ok(());
        }
        for run in runs(frames) {
            self.reservation()
                .populate_write(
                    self.ram_offset(index, run.start),
                    run.len() * FRAME_SIZE_BYTES,
                )
                .map_err(os("give frames memory of their own"))?;
        }
        Ok(())
    }

    /// Takes blocks for `frames`: a chunk of the pool for a whole one, else blocks in rising order,
    /// so that neighbours stay neighbours.
    fn fresh_blocks(
        &self,
        frames: &FrameSet,
        room: Option<&mut Reservation>,
    ) -> Result<Vec<BlockNo>, CowError> {
        let mut blocks = room.map_or_else(Vec::new, |room| room.take(frames.count()));
        if blocks.is_empty() && frames.is_full() {
            match self.holder.alloc_chunk() {
                Ok(chunk) => return Ok(chunk.blocks().collect()),
                Err(error) if is_full(&error) => {}
                Err(other) => return Err(other.into()),
            }
        }
        let missing = frames.count() - blocks.len() as u32;
        match self.holder.alloc_blocks(missing) {
            Ok(more) => blocks.extend(more),
            Err(error) => {
                self.holder.free_blocks(&blocks);
                return Err(error.into());
            }
        }
        blocks.sort_unstable();
        Ok(blocks)
    }

    fn copy_run(&self, index: ChunkIndex, run: &BlockRun) -> Result<(), CowError> {
        let (offset, size_bytes) = (
            self.ram_offset(index, run.frames.start),
            run.frames.len() * FRAME_SIZE_BYTES,
        );
        if self.pool.medium() != Medium::Devdax {
            let copied = self.reservation().copy_to_file(
                offset,
                size_bytes,
                self.pool.fd(),
                run.block.byte_offset(),
            );
            return copied.map_err(os("copy frames"));
        }
        // A DAX device cannot be written to by write(2).
        let mut bytes = [0; BLOCK_SIZE_BYTES as usize];
        for (at, number) in (0..run.frames.len()).zip(run.block.get()..) {
            self.reservation()
                .read(offset + at * FRAME_SIZE_BYTES, &mut bytes)
                .map_err(os("copy frames"))?;
            self.holder.write_block(BlockNo::new(number), &bytes)?;
        }
        Ok(())
    }

    /// Content that the block behind a frame has; zeroes where there is no block.
    pub(super) fn content_of(
        &self,
        known: Option<&KnownChunk>,
        frame: FrameIndex,
    ) -> Result<[u8; BLOCK_SIZE_BYTES as usize], CowError> {
        let mut bytes = [0; BLOCK_SIZE_BYTES as usize];
        if let Some(block) = known.and_then(|known| known.map.block(frame)) {
            self.pool.read_block(block, &mut bytes)?;
        }
        Ok(bytes)
    }
}
