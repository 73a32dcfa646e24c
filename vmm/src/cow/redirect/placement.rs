//! Blocks of the pool for frames of the guest: which block a copy goes to, and how many blocks a VM
//! may hold without using them.
//!
//! Each guest chunk copies into a pool chunk of its own, every frame to its own index. Neighbouring
//! frames then lie beside each other and merge into one mapping, whatever order they were written
//! in.
//!
//! A chunk that is set aside in this way keeps mappings few, but nobody else can have its blocks.
//! So a VM holds at most [`UNUSED_MIN_BLOCKS`] unused, and [`SHARE_OF_EMPTY`] of the chunks that
//! are wholly free in the pool. Nobody has to ask for space: as the pool fills, every VM sees its
//! own bound shrink, takes no more whole chunks, and moves its frames out of its emptiest chunks
//! into the gaps of others.

use std::{
    ops::Range,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use nvvmm_snapshot::{
    BlockNo, CHUNK_BLOCKS, ChunkForCopy, ChunkNo, FrameIndex, Holder, Pool, Vacating,
};

use super::{chunk::LiveChunk, chunks::Chunks};
use crate::cow::{CHUNK_FRAMES, CowError, counters::lock, error::is_full};

/// Blocks that a VM may hold unused of a full pool: two chunks, one that is being filled and the
/// gaps in others.
pub(super) const UNUSED_MIN_BLOCKS: u64 = 2 * CHUNK_BLOCKS as u64;
/// One part in so many of the wholly free chunks may be set aside besides.
pub(super) const SHARE_OF_EMPTY: u64 = 8;
/// Time for which a count of the pool's free chunks is good.
const COUNT_LASTS: Duration = Duration::from_millis(50);
/// Chunks emptied in one go: accesses wait meanwhile.
const VACATE_MAX: usize = 64;

/// Takes blocks of the pool for one VM, and gives them back.
#[derive(Debug)]
pub(super) struct Placement {
    pool: Arc<Pool>,
    holder: Arc<Holder>,
    /// Blocks that may still be set aside, and when they were counted: to count takes time in a
    /// large pool.
    allowance: Mutex<Option<(Instant, u64)>>,
    /// Wholly free chunks of the pool, and when they were counted.
    empty: Mutex<Option<(Instant, usize)>>,
    spare: Mutex<Option<(Instant, u64)>>,
    /// Blocks of the VM that are behind no frame any more. To zero them takes longer than a restart
    /// of a process should wait.
    unneeded: Mutex<Vec<BlockNo>>,
    /// The last stretch of the pool that was found to be written, in bytes.
    written: Mutex<Range<u64>>,
}

/// Pool chunk that is set aside for the copies of one guest chunk, if there is one.
#[derive(Debug, Default)]
pub(super) struct SetAside(Option<ChunkNo>);

/// Blocks that a VM holds beyond its bound.
pub(super) struct Excess {
    /// Unused blocks that it holds.
    pub unused: u64,
    /// Unused blocks that it may hold.
    pub bound: u64,
}

impl Placement {
    pub fn new(pool: Arc<Pool>, holder: Arc<Holder>) -> Self {
        Self {
            pool,
            holder,
            allowance: Mutex::default(),
            empty: Mutex::default(),
            spare: Mutex::default(),
            unneeded: Mutex::default(),
            written: Mutex::new(0..0),
        }
    }

    /// Gives blocks back.
    pub fn free(&self, blocks: &[BlockNo]) {
        self.holder.free_blocks(blocks);
    }

    /// Gives the blocks of targets back that were not used.
    pub fn free_targets(&self, targets: &[(FrameIndex, BlockNo)]) {
        let blocks: Vec<BlockNo> = targets.iter().map(|(_, block)| *block).collect();
        self.free(&blocks);
    }

    /// Gives a whole chunk back.
    pub fn free_chunk(&self, chunk: ChunkNo) {
        self.free(&chunk.blocks().collect::<Vec<_>>());
    }

    /// Keeps blocks that are behind no frame any more for [`Placement::free_unneeded`].
    pub fn free_later(&self, mut blocks: Vec<BlockNo>) {
        lock(&self.unneeded).append(&mut blocks);
    }

    /// Gives some of the blocks back that are behind no frame any more. Returns true if there were
    /// any.
    pub fn free_unneeded(&self) -> bool {
        let mut unneeded = lock(&self.unneeded);
        let left = unneeded.len().saturating_sub(CHUNK_FRAMES as usize);
        let blocks = unneeded.split_off(left);
        self.free(&blocks);
        !blocks.is_empty()
    }

    /// Gives leases back that are not needed any more.
    pub fn give_back_leases(&self) -> Result<(), CowError> {
        self.holder.give_back_stale()?;
        Ok(())
    }

    /// A whole chunk, zeroed, with memory behind it.
    pub fn whole_chunk(&self) -> Result<ChunkNo, CowError> {
        Ok(self.holder.alloc_chunk()?)
    }

    /// A whole chunk with any content, which a copy overwrites.
    pub fn whole_chunk_for_copy(&self) -> Result<ChunkForCopy, CowError> {
        Ok(self.holder.alloc_chunk_for_copy()?)
    }

    /// Makes whole chunks ready for copies, as one page of a tmpfs each, unless some are. Where
    /// that cannot be had, copies go to ordinary chunks.
    pub fn make_ready(&self, chunks: u32) -> Result<(), CowError> {
        Ok(self.holder.make_ready(chunks as usize)?)
    }

    /// True if a chunk for a copy is likely to become one page of a tmpfs.
    pub fn huge_pages_are_likely(&self) -> bool {
        self.pool.huge_pages_are_likely()
    }

    /// Chunks that were taken as one page of a tmpfs.
    pub fn huge_pages(&self) -> u64 {
        self.pool.huge_pages_made()
    }

    /// True if the pool has more than `chunks` wholly free chunks, by a count that is good for a
    /// moment. It may count one less then.
    pub fn can_spare(&self, chunks: u64) -> Result<bool, CowError> {
        let mut spare = lock(&self.spare);
        let (when, left) = match *spare {
            Some((when, left)) if when.elapsed() < COUNT_LASTS => (when, left),
            _ => (Instant::now(), self.pool.spare_chunks()?),
        };
        *spare = Some((when, left.saturating_sub(1)));
        Ok(left > chunks)
    }

    /// Has the medium give memory for the blocks of targets.
    pub fn provide(&self, targets: &[(FrameIndex, BlockNo)]) -> Result<(), CowError> {
        let blocks: Vec<BlockNo> = targets.iter().map(|(_, block)| *block).collect();
        Ok(self.holder.provide(&blocks)?)
    }

    /// Copies a chunk inside the pool.
    pub fn copy_chunk(&self, from: ChunkNo, to: ChunkNo) -> Result<(), CowError> {
        Ok(self.holder.copy_chunk(from, to)?)
    }

    /// A fresh block for each of `frames`, or for `must` alone when the pool is nearly full. The
    /// medium may have no memory for them yet: a copy asks for it, or [`Placement::provide`].
    ///
    /// Preferred are the frames' own indexes in the pool chunk that is set aside for this guest
    /// chunk, or in a new one. `chunks` are those that give up theirs on a full pool.
    pub fn targets(
        &self,
        set_aside: &mut SetAside,
        frames: &[FrameIndex],
        must: FrameIndex,
        chunks: &Chunks,
    ) -> Result<Vec<(FrameIndex, BlockNo)>, CowError> {
        if let Some(chunk) = set_aside.0
            && let Some(targets) = self.same_indexes(chunk, frames)
        {
            return Ok(targets);
        }
        if self.may_set_aside()?
            && let Some(chunk) = unless_full(self.holder.lease_chunk())?
        {
            self.release(set_aside);
            set_aside.0 = Some(chunk);
            if let Some(targets) = self.same_indexes(chunk, frames) {
                return Ok(targets);
            }
        }
        self.scattered(set_aside, frames, must, chunks)
    }

    /// Has the medium give memory for those of `count` blocks of a snapshot, from `first` on, that
    /// have none.
    pub fn provide_shared(&self, first: BlockNo, count: u32) -> Result<(), CowError> {
        let mut written = lock(&self.written);
        Ok(self.pool.provide_unwritten(first, count, &mut written)?)
    }

    /// Blocks in gaps of chunks that this VM leases anyway.
    pub fn gaps(&self, count: u32) -> Result<Vec<BlockNo>, CowError> {
        Ok(self.holder.alloc_in_leases(count)?)
    }

    /// The blocks of `chunk` at the frames' own indexes, if all of them are free.
    fn same_indexes(
        &self,
        chunk: ChunkNo,
        frames: &[FrameIndex],
    ) -> Option<Vec<(FrameIndex, BlockNo)>> {
        for (count, frame) in frames.iter().enumerate() {
            if !self.holder.alloc_at(chunk, *frame) {
                let allocated: Vec<BlockNo> = frames[..count]
                    .iter()
                    .map(|frame| chunk.block(*frame))
                    .collect();
                self.free(&allocated);
                return None;
            }
        }
        Some(
            frames
                .iter()
                .map(|frame| (*frame, chunk.block(*frame)))
                .collect(),
        )
    }

    /// Blocks anywhere in the pool: no whole chunk is free.
    fn scattered(
        &self,
        set_aside: &mut SetAside,
        frames: &[FrameIndex],
        must: FrameIndex,
        chunks: &Chunks,
    ) -> Result<Vec<(FrameIndex, BlockNo)>, CowError> {
        if let Ok(blocks) = self.holder.take_blocks(frames.len() as u32) {
            return Ok(frames.iter().copied().zip(blocks).collect());
        }
        let blocks = match self.holder.take_blocks(1) {
            Err(error) if is_full(&error) => {
                self.release(set_aside);
                self.release_all(chunks);
                self.holder.take_blocks(1)?
            }
            other => other?,
        };
        Ok(blocks.into_iter().map(|block| (must, block)).collect())
    }

    /// Lets anybody use the blocks that are set aside for one chunk.
    pub fn release(&self, set_aside: &mut SetAside) {
        if let Some(chunk) = set_aside.0.take() {
            self.holder.end_set_aside(chunk);
        }
    }

    /// Lets anybody use the blocks that are set aside for chunks. A chunk that is locked is being
    /// served and may need its own.
    pub fn release_all(&self, chunks: &Chunks) {
        for (_, chunk) in chunks.iter() {
            let Ok(mut live) = chunk.try_lock() else {
                continue;
            };
            if let LiveChunk::Known(known) = &mut *live {
                self.release(&mut known.set_aside);
            }
        }
    }

    /// True if one more chunk may be set aside; it counts as set aside then.
    fn may_set_aside(&self) -> Result<bool, CowError> {
        let more = u64::from(CHUNK_BLOCKS);
        if self.holder.unused_blocks_at_most() + more <= UNUSED_MIN_BLOCKS {
            return Ok(true);
        }
        let mut allowance = lock(&self.allowance);
        let (when, mut left) = match *allowance {
            Some((when, left)) if when.elapsed() < COUNT_LASTS => (when, left),
            _ => {
                let unused = self.unused()?;
                (Instant::now(), self.unused_bound()?.saturating_sub(unused))
            }
        };
        let may = left >= more;
        if may {
            left -= more;
        }
        *allowance = Some((when, left));
        Ok(may)
    }

    /// True if the pool had so many wholly free chunks a moment ago.
    pub fn has_empty(&self, chunks: usize) -> bool {
        let mut empty = lock(&self.empty);
        if empty.is_none_or(|(when, _)| when.elapsed() >= COUNT_LASTS) {
            let count = self.pool.empty_chunks().map_or(0, |count| count as usize);
            *empty = Some((Instant::now(), count));
        }
        empty.is_some_and(|(_, count)| chunks <= count)
    }

    /// Blocks that this VM holds unused.
    pub fn unused(&self) -> Result<u64, CowError> {
        Ok(self.holder.unused_blocks()?)
    }

    /// Blocks that this VM may hold unused now.
    fn unused_bound(&self) -> Result<u64, CowError> {
        let empty = u64::from(self.pool.empty_chunks()?) * u64::from(CHUNK_BLOCKS);
        Ok(UNUSED_MIN_BLOCKS + empty / SHARE_OF_EMPTY)
    }

    /// The unused blocks, if the VM holds more of them than it may.
    pub fn excess(&self) -> Result<Option<Excess>, CowError> {
        if self.holder.unused_blocks_at_most() <= UNUSED_MIN_BLOCKS {
            return Ok(None);
        }
        let (unused, bound) = (self.unused()?, self.unused_bound()?);
        Ok((unused > bound).then_some(Excess { unused, bound }))
    }

    /// Leased chunks to be emptied, until no more than `bound` blocks are unused, as far as that
    /// can be in one go.
    pub fn vacate(&self, bound: u64) -> Result<Option<Vacating<'_>>, CowError> {
        let surplus = self.unused()?.saturating_sub(bound);
        if surplus == 0 {
            return Ok(None);
        }
        Ok(Some(self.holder.vacate(surplus, VACATE_MAX)?))
    }
}

/// The chunk, or `None` when the pool is full.
fn unless_full(chunk: nvvmm_snapshot::Result<ChunkNo>) -> Result<Option<ChunkNo>, CowError> {
    match chunk {
        Ok(chunk) => Ok(Some(chunk)),
        Err(error) if is_full(&error) => Ok(None),
        Err(other) => Err(other.into()),
    }
}
