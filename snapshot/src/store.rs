//! Typed access to what is on the region: blocks, the chunk tables, the block tables, the holder
//! table.

use std::ops::Range;

use zerocopy::{FromBytes, FromZeros, IntoBytes};

use crate::error::{Error, Result};
use crate::layout::Layout;
use crate::layout::holder_slot::{
    BLOCKS_IN_USE_OFFSET, HOLDER_SLOT_BYTES, HolderSlotV1, LEASES_OFFSET, NAME_OFFSET, PINS_OFFSET,
};
use crate::layout::inode::{self, Inode, InodeV2};
use crate::layout::node::{Expected, Node, NodeV1, open_node};
use crate::layout::segment::{BLOCK_WORD_BYTES, USED_BITS, WAITING};
use crate::layout::superblock::SuperblockV2;
use crate::lock_times::LockTimes;
use crate::number::{
    BLOCK_SIZE_BYTES, BlockNo, CHUNK_BLOCKS, CHUNK_SIZE_BYTES, ChunkNo, FrameIndex, FrameSet,
};
use crate::region::Region;
use crate::waiting_chunks::WaitingChunks;

/// A region with the layout of the pool that is on it.
pub(crate) struct BlockStore {
    pub(crate) region: Box<dyn Region>,
    pub(crate) layout: Layout,
    /// False in a pool of an old version: freed blocks are cleaned under the catalog lock, and
    /// leases are taken under it.
    pub(crate) cleans_later: bool,
    pub(crate) times: LockTimes,
    pub(crate) waiting_chunks: WaitingChunks,
}

/// Numbers of a chunk's blocks that nobody can take.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Fill {
    /// Blocks that have references.
    pub(crate) used: u32,
    /// Blocks that wait to be cleaned.
    pub(crate) waiting: u32,
}

impl Fill {
    /// The numbers that counts ask for.
    pub(crate) fn of(counts: &ChunkWords) -> Fill {
        let waiting = counts.iter().filter(|count| **count == WAITING).count() as u32;
        let not_free = counts.iter().filter(|count| **count != 0).count() as u32;
        Fill {
            used: not_free - waiting,
            waiting,
        }
    }

    /// Blocks that nobody can take.
    pub(crate) fn taken(self) -> u32 {
        self.used.saturating_add(self.waiting)
    }
}

/// A word for each of a chunk's blocks.
pub(crate) type ChunkWords = [u32; CHUNK_BLOCKS as usize];

impl BlockStore {
    /// The store of a pool with this superblock.
    pub(crate) fn new(region: Box<dyn Region>, superblock: &SuperblockV2) -> Result<BlockStore> {
        Ok(BlockStore {
            region,
            layout: superblock.layout()?,
            cleans_later: superblock.cleans_later(),
            times: LockTimes::default(),
            waiting_chunks: WaitingChunks::default(),
        })
    }

    /// Number of references to the block from committed parents, or [`WAITING`]. A holder may take
    /// a block of its leases at 0 only.
    pub(crate) fn refcount(&self, block: BlockNo) -> Result<u32> {
        self.region.load_u32(self.layout.refcount_offset(block)?)
    }

    /// The reference counts of a chunk's blocks.
    pub(crate) fn refcounts(&self, chunk: ChunkNo) -> Result<ChunkWords> {
        let mut counts = [0; CHUNK_BLOCKS as usize];
        let offset = self.layout.refcount_offset(chunk.first_block())?;
        self.region.load_words(offset, &mut counts)?;
        Ok(counts)
    }

    /// Changes the reference counts of a chunk's blocks, where they differ from what they were
    /// before.
    pub(crate) fn change_refcounts(
        &self,
        chunk: ChunkNo,
        before: &ChunkWords,
        after: &ChunkWords,
    ) -> Result<()> {
        let start = self.layout.refcount_offset(chunk.first_block())?;
        let differs = |index: &usize| before[*index] != after[*index];
        let changed: Vec<usize> = (0..after.len()).filter(differs).collect();
        for run in changed.chunk_by(|left, right| left + 1 == *right) {
            let offset = start + run[0] as u64 * BLOCK_WORD_BYTES;
            self.region
                .store_words(offset, &after[run[0]..run[0] + run.len()])?;
        }
        Ok(())
    }

    /// The digest of the block's content; 0 when there is none.
    pub(crate) fn digest(&self, block: BlockNo) -> Result<u32> {
        self.region.load_u32(self.layout.digest_offset(block)?)
    }

    pub(crate) fn set_digest(&self, block: BlockNo, digest: u32) -> Result<()> {
        self.region
            .store_u32(self.layout.digest_offset(block)?, digest)
    }

    /// Ends that the blocks of these indices in a chunk have digests.
    pub(crate) fn clear_digests(
        &self,
        chunk: ChunkNo,
        of: impl Fn(FrameIndex) -> bool,
    ) -> Result<()> {
        let mut digests: ChunkWords = [0; CHUNK_BLOCKS as usize];
        let offset = self.layout.digest_offset(chunk.first_block())?;
        self.region.load_words(offset, &mut digests)?;
        for (place, _) in FrameIndex::all()
            .zip(digests)
            .filter(|(_, digest)| *digest != 0)
        {
            if of(place) {
                self.set_digest(chunk.block(place), 0)?;
            }
        }
        Ok(())
    }

    /// Clears digests and starts making that durable, also where they are clear: that may have been
    /// lost on the way to the medium. Afterwards a commit may refer to the blocks.
    pub(crate) fn clear_digests_durably(&self, blocks: &[BlockNo]) -> Result<()> {
        for blocks in by_chunk(blocks) {
            let (mut first, mut last) = (blocks[0], blocks[0]);
            let mut places = FrameSet::EMPTY;
            for block in blocks {
                places.insert(block.index_in_chunk());
                (first, last) = (first.min(*block), last.max(*block));
            }
            self.clear_digests(first.chunk(), |place| places.contains(place))?;
            let start = self.layout.digest_offset(first)?;
            self.region.flush(
                start,
                self.layout.digest_offset(last)? + BLOCK_WORD_BYTES - start,
            )?;
        }
        Ok(())
    }

    /// Starts making the digests of a chunk's blocks durable.
    pub(crate) fn flush_digests(&self, chunk: ChunkNo) -> Result<()> {
        let start = self.layout.digest_offset(chunk.first_block())?;
        self.region
            .flush(start, u64::from(CHUNK_BLOCKS) * BLOCK_WORD_BYTES)
    }

    /// The slot of the holder that has leased the chunk.
    pub(crate) fn lease_owner(&self, chunk: ChunkNo) -> Result<Option<u32>> {
        Ok(self
            .region
            .load_u32(self.layout.chunk_entry_offset(chunk)?)?
            .checked_sub(1))
    }

    pub(crate) fn set_lease_owner(&self, chunk: ChunkNo, slot: Option<u32>) -> Result<()> {
        self.region.store_u32(
            self.layout.chunk_entry_offset(chunk)?,
            slot.map_or(0, |slot| slot.saturating_add(1)),
        )
    }

    /// Leases a chunk that nobody has leased. False when somebody has, or was faster.
    pub(crate) fn try_lease(&self, chunk: ChunkNo, owner: u32) -> Result<bool> {
        let entry = self.layout.chunk_entry_offset(chunk)?;
        self.region.replace_u32(entry, 0, owner.saturating_add(1))
    }

    /// Numbers of the chunk's blocks that are in use, and that wait to be cleaned.
    pub(crate) fn fill(&self, chunk: ChunkNo) -> Result<Fill> {
        let word = self
            .region
            .load_u32(self.layout.chunk_entry_offset(chunk)? + 4)?;
        Ok(Fill {
            used: word & ((1 << USED_BITS) - 1),
            waiting: word >> USED_BITS,
        })
    }

    /// Number of the chunk's blocks that have references.
    pub(crate) fn used_blocks(&self, chunk: ChunkNo) -> Result<u32> {
        Ok(self.fill(chunk)?.used)
    }

    /// Sets what `fill` reads. The caller has the catalog lock, and in a pool in which blocks wait
    /// the cleaner lock, too.
    pub(crate) fn set_fill(&self, chunk: ChunkNo, fill: Fill) -> Result<()> {
        let word = fill.used | fill.waiting << USED_BITS;
        self.region
            .store_u32(self.layout.chunk_entry_offset(chunk)? + 4, word)
    }

    /// Changes what `fill` reads, while others may change it, too. A number that a dead process
    /// leaves is never too small: what grows is added before the counts say so, and what shrinks is
    /// subtracted after they do.
    pub(crate) fn change_fill(&self, chunk: ChunkNo, used: i32, waiting: i32) -> Result<()> {
        if used == 0 && waiting == 0 {
            return Ok(());
        }
        // Both numbers stay in their bits: a borrow of one from the other comes back.
        let change = waiting.wrapping_shl(USED_BITS).wrapping_add(used);
        self.region
            .add_u32(self.layout.chunk_entry_offset(chunk)? + 4, change as u32)
    }

    /// Has free blocks of a chunk wait to be cleaned: no holder takes them until then. All words of
    /// `places` must be 0, and no holder may take them now.
    pub(crate) fn let_wait(&self, chunk: ChunkNo, places: &FrameSet) -> Result<()> {
        let before = self.refcounts(chunk)?;
        let mut after = before;
        for place in places.places() {
            after[place.as_usize()] = WAITING;
        }
        let more = (0..after.len()).filter(|index| before[*index] != after[*index]);
        self.change_fill(chunk, 0, more.count() as i32)?;
        self.change_refcounts(chunk, &before, &after)?;
        self.waiting_chunks.add(chunk);
        Ok(())
    }

    /// The blocks of a chunk that wait to be cleaned.
    pub(crate) fn waiting(&self, chunk: ChunkNo) -> Result<Vec<BlockNo>> {
        let counts = self.refcounts(chunk)?;
        let blocks = chunk.blocks().zip(counts);
        Ok(blocks
            .filter(|(_, count)| *count == WAITING)
            .map(|(block, _)| block)
            .collect())
    }

    /// Makes sure that the medium has memory for what a chunk adds to the tables.
    pub(crate) fn provide_tables(&self, chunk: ChunkNo) -> Result<()> {
        self.region
            .provide(self.layout.block_table_offset(chunk)?, BLOCK_SIZE_BYTES)
    }

    pub(crate) fn read_block(
        &self,
        block: BlockNo,
        into: &mut [u8; BLOCK_SIZE_BYTES as usize],
    ) -> Result<()> {
        self.region.read(block.byte_offset(), into)
    }

    pub(crate) fn write_block(&self, block: BlockNo, from: &[u8]) -> Result<()> {
        debug_assert!(from.len() as u64 <= BLOCK_SIZE_BYTES);
        self.region.write(block.byte_offset(), from)
    }

    /// Copies all of a chunk.
    pub(crate) fn copy_chunk(&self, from: ChunkNo, to: ChunkNo) -> Result<()> {
        self.region.copy_chunk(from.byte_offset(), to.byte_offset())
    }

    /// Reads and verifies a node.
    pub(crate) fn node(&self, block: BlockNo, expected: &Expected) -> Result<Node> {
        let mut raw = NodeV1::new_zeroed();
        self.region.read(block.byte_offset(), raw.as_mut_bytes())?;
        open_node(&mut raw, block, expected, &self.layout)
    }

    /// Reads and verifies an inode.
    pub(crate) fn inode(&self, block: BlockNo, slot: u32) -> Result<Inode> {
        let mut raw = InodeV2::new_zeroed();
        self.region.read(block.byte_offset(), raw.as_mut_bytes())?;
        Inode::open(&mut raw, slot, block, &self.layout)
    }

    /// The checksum that an inode's block carries, unverified.
    pub(crate) fn inode_checksum(&self, block: BlockNo) -> Result<u32> {
        self.region
            .load_u32(block.byte_offset() + inode::CHECKSUM_OFFSET)
    }

    pub(crate) fn holder_slot(&self, slot: u32) -> Result<HolderSlotV1> {
        let mut bytes = [0; HOLDER_SLOT_BYTES];
        self.region
            .read(self.layout.holder_slot_offset(slot), &mut bytes)?;
        HolderSlotV1::read_from_bytes(&bytes)
            .map_err(|_| Error::damaged("a holder slot of a wrong size"))
    }

    pub(crate) fn holder_slot_is_used(&self, slot: u32) -> Result<bool> {
        Ok(self.region.load_u32(self.layout.holder_slot_offset(slot))? != 0)
    }

    pub(crate) fn set_holder_slot(&self, slot: u32, content: &HolderSlotV1) -> Result<()> {
        self.region
            .write(self.layout.holder_slot_offset(slot), content.as_bytes())
    }

    /// Frees a slot: the state first, so that no half-cleared slot counts as used.
    pub(crate) fn clear_holder_slot(&self, slot: u32) -> Result<()> {
        self.region
            .store_u32(self.layout.holder_slot_offset(slot), 0)?;
        self.set_holder_slot(slot, &HolderSlotV1::new_zeroed())
    }

    /// Gives a slot that is in use another name.
    pub(crate) fn set_holder_name(&self, slot: u32, name: &str) -> Result<()> {
        let content = HolderSlotV1::used(0, 0, name);
        let offset = self.layout.holder_slot_offset(slot) + NAME_OFFSET as u64;
        self.region
            .write(offset, &content.as_bytes()[NAME_OFFSET..])
    }

    pub(crate) fn set_pin(&self, slot: u32, index: usize, id: u64) -> Result<()> {
        let offset = self.layout.holder_slot_offset(slot) + PINS_OFFSET + index as u64 * 8;
        self.region.write(offset, &id.to_le_bytes())
    }

    /// Shows others how much a holder uses.
    pub(crate) fn set_holder_usage(
        &self,
        slot: u32,
        leases: u32,
        blocks_in_use: u32,
    ) -> Result<()> {
        let offset = self.layout.holder_slot_offset(slot);
        self.region.store_u32(offset + LEASES_OFFSET, leases)?;
        self.region
            .store_u32(offset + BLOCKS_IN_USE_OFFSET, blocks_in_use)
    }

    /// Zeroes blocks and gives their memory back, but that of spare ones: a removal must find it
    /// there on a medium that is full. `blocks` must be sorted.
    pub(crate) fn punch_sorted(&self, blocks: &[BlockNo]) -> Result<()> {
        let spare_end = self.layout.spare_bytes().end;
        let spare = blocks.partition_point(|block| block.byte_offset() < spare_end);
        for block in &blocks[..spare] {
            self.write_block(*block, &[0; BLOCK_SIZE_BYTES as usize])?;
        }
        runs(&blocks[spare..]).try_for_each(|(offset, len)| self.punch(offset, len))
    }

    fn punch(&self, offset: u64, len: u64) -> Result<()> {
        self.times.cleaned(len);
        self.region.punch(offset, len)
    }

    /// Has the medium give memory for the spare blocks again, if it can: pools of older programs
    /// gave it back.
    pub(crate) fn provide_spare(&self) {
        let spare = self.layout.spare_bytes();
        if let Err(error) = self.region.provide(spare.start, spare.end - spare.start) {
            tracing::debug!(%error, "no memory for the pool's spare blocks");
        }
    }

    /// Makes sure that the medium has memory for blocks. `blocks` must be sorted.
    pub(crate) fn provide_sorted(&self, blocks: &[BlockNo]) -> Result<()> {
        runs(blocks).try_for_each(|(offset, len)| self.region.provide(offset, len))
    }

    /// Has the medium give memory for `count` chunks from `first` on, each as one page. Returns
    /// false when some are not.
    pub(crate) fn make_one_page(&self, first: ChunkNo, count: u32) -> Result<bool> {
        let start = first.byte_offset();
        let bytes = u64::from(count) * CHUNK_SIZE_BYTES;
        self.region.make_one_page(start..start + bytes)
    }

    /// True if a chunk is one page of the medium, as far as this process knows.
    pub(crate) fn is_one_page(&self, chunk: ChunkNo) -> bool {
        self.region.is_one_page(chunk.byte_offset())
    }

    /// Gives back all memory of a chunk that nobody uses, where the medium has not done so with its
    /// blocks.
    pub(crate) fn release_empty_chunk(&self, chunk: ChunkNo) -> Result<()> {
        if !self.region.keeps_punched_parts() || !self.layout.is_data_chunk(chunk) {
            return Ok(());
        }
        self.punch(chunk.byte_offset(), CHUNK_SIZE_BYTES)
    }

    /// Zeroes every block without references in a chunk that may hold something.
    pub(crate) fn punch_unreferenced(
        &self,
        chunk: ChunkNo,
        written: &mut WrittenCursor,
    ) -> Result<()> {
        let used = self.used_blocks(chunk)?;
        let bytes = chunk.byte_offset()..chunk.byte_offset() + CHUNK_SIZE_BYTES;
        if used == CHUNK_BLOCKS || !written.overlaps(&*self.region, bytes.clone())? {
            return Ok(());
        }
        if used == 0 {
            return self.punch(bytes.start, CHUNK_SIZE_BYTES);
        }
        let counts = self.refcounts(chunk)?;
        let mut leftover = written.blocks_in(&*self.region, bytes)?;
        leftover.retain(|block| counts[block.index_in_chunk().as_usize()] == 0);
        self.punch_sorted(&leftover)
    }

    /// True when a block that may be written reads as zero.
    pub(crate) fn is_zero(&self, block: BlockNo) -> Result<bool> {
        let mut bytes = [0; BLOCK_SIZE_BYTES as usize];
        self.read_block(block, &mut bytes)?;
        Ok(bytes.iter().all(|byte| *byte == 0))
    }
}

/// Blocks in pieces that are of one chunk each.
pub(crate) fn by_chunk(blocks: &[BlockNo]) -> impl Iterator<Item = &[BlockNo]> {
    blocks.chunk_by(|left, right| left.chunk() == right.chunk())
}

/// Offset and length in bytes of the runs of neighbours among sorted blocks.
pub(crate) fn runs(blocks: &[BlockNo]) -> impl Iterator<Item = (u64, u64)> {
    blocks
        .chunk_by(|left, right| left.get().checked_add(1) == Some(right.get()))
        .map(|run| (run[0].byte_offset(), run.len() as u64 * BLOCK_SIZE_BYTES))
}

/// Answers for ascending ranges whether they may have been written. Asks the medium once per
/// stretch, as finding the end of one may take a look at each page.
#[derive(Debug)]
pub(crate) struct WrittenCursor {
    /// The end of all ranges that will be asked for.
    end: u64,
    asked: bool,
    next: Option<Range<u64>>,
}

impl WrittenCursor {
    pub(crate) fn until(end: u64) -> WrittenCursor {
        WrittenCursor {
            end,
            asked: false,
            next: None,
        }
    }

    pub(crate) fn overlaps(&mut self, region: &dyn Region, range: Range<u64>) -> Result<bool> {
        let behind = self
            .next
            .as_ref()
            .is_some_and(|next| next.end <= range.start);
        if !self.asked || behind {
            self.asked = true;
            self.next = region.next_written(range.start..self.end)?;
        }
        Ok(self
            .next
            .as_ref()
            .is_some_and(|next| next.start < range.end && range.start < next.end))
    }

    /// The blocks of a range that the medium does not know to be empty. Others are not worth
    /// reading, and a page that was read may count as written from then on.
    pub(crate) fn blocks_in(
        &mut self,
        region: &dyn Region,
        range: Range<u64>,
    ) -> Result<Vec<BlockNo>> {
        let mut blocks = Vec::new();
        let mut at = range.start;
        while at < range.end && self.overlaps(region, at..range.end)? {
            let Some(written) = &self.next else { break };
            let first = written.start.max(at) / BLOCK_SIZE_BYTES;
            let after = written.end.min(range.end).div_ceil(BLOCK_SIZE_BYTES);
            let offsets = (first..after).map(|number| number * BLOCK_SIZE_BYTES);
            blocks.extend(offsets.filter_map(BlockNo::from_byte_offset));
            at = after * BLOCK_SIZE_BYTES;
        }
        Ok(blocks)
    }
}
