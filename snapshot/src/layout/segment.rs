//! Segments: a pool is made of one, and each growth adds one behind the last.

use std::mem::size_of;

use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::CHUNK_TABLE_BLOCK;
use crate::number::{BLOCK_SIZE_BYTES, BlockNo, CHUNK_BLOCKS, ChunkNo};

/// Rows of the superblock's table of segments.
pub(crate) const SEGMENTS_MAX: usize = 64;
/// Bytes of an entry of a chunk table: owner, used blocks.
pub(crate) const CHUNK_ENTRY_BYTES: u64 = 8;
/// Bytes of a word of a block table: a reference count or a digest.
pub(crate) const BLOCK_WORD_BYTES: u64 = 4;
/// Reference count of a block that waits to be cleaned: no parent refers to it, and it may hold
/// anything.
pub(crate) const WAITING: u32 = 1 << 31;
/// Bits of the blocks in use in the second word of a chunk's entry; those that wait are above.
pub(crate) const USED_BITS: u32 = 16;
/// Owner of a chunk that is leased for a moment by whoever has the catalog lock or the cleaner
/// lock, and by no holder.
pub(crate) const OWNER_LOCKED: u32 = u32::MAX - 1;
/// Offset of the digests in a block of the block table.
pub(crate) const DIGESTS_OFFSET: u64 = CHUNK_BLOCKS as u64 * BLOCK_WORD_BYTES;

const _: () = assert!(2 * DIGESTS_OFFSET == BLOCK_SIZE_BYTES);

/// A row of the superblock's table of segments. A zeroed row is unused.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub(crate) struct SegmentV2 {
    pub(crate) first_chunk: U32,
    pub(crate) chunks: U32,
    pub(crate) chunk_table_block: U32,
    pub(crate) block_table_block: U32,
    pub(crate) data_first_chunk: U32,
    pub(crate) reserved: U32,
}

const _: () = assert!(size_of::<SegmentV2>() == 24);

/// A range of chunks with their tables in front. All of it follows from where it starts and how
/// long it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) first_chunk: u32,
    pub(crate) chunks: u32,
    /// Its chunk table: an entry for each chunk.
    pub(crate) chunk_table_block: u32,
    /// Its block table: a block for each chunk, with the chunk's counts and digests.
    pub(crate) block_table_block: u32,
    pub(crate) data_first_chunk: u32,
}

impl Segment {
    /// The segment of these chunks, which must lie in a pool of the largest size; none when nothing
    /// but tables fits.
    pub(crate) fn new(first_chunk: u32, chunks: u32) -> Option<Segment> {
        let first_block = first_chunk * CHUNK_BLOCKS;
        // The first segment has the pool's fixed areas in front.
        let chunk_table_block = if first_chunk == 0 {
            CHUNK_TABLE_BLOCK
        } else {
            first_block
        };
        let chunk_table_blocks =
            (u64::from(chunks) * CHUNK_ENTRY_BYTES).div_ceil(BLOCK_SIZE_BYTES) as u32;
        let block_table_block = chunk_table_block.checked_add(chunk_table_blocks)?;
        let data_first_chunk = block_table_block
            .checked_add(chunks)?
            .div_ceil(CHUNK_BLOCKS);
        (data_first_chunk < first_chunk + chunks).then_some(Segment {
            first_chunk,
            chunks,
            chunk_table_block,
            block_table_block,
            data_first_chunk,
        })
    }

    /// The first chunk behind the segment.
    pub(crate) fn end_chunk(&self) -> u32 {
        self.first_chunk + self.chunks
    }

    /// The blocks in front of the first data chunk: first, and how many.
    pub(crate) fn fixed_blocks(&self) -> (BlockNo, u64) {
        let chunks = self.data_first_chunk - self.first_chunk;
        let first = BlockNo::new(self.first_chunk * CHUNK_BLOCKS);
        (first, u64::from(chunks) * u64::from(CHUNK_BLOCKS))
    }

    /// True when the chunk is one of its data chunks.
    pub(crate) fn is_data_chunk(&self, chunk: ChunkNo) -> bool {
        (self.data_first_chunk..self.end_chunk()).contains(&chunk.get())
    }

    /// The chunk table: byte offset and length.
    pub(crate) fn chunk_table(&self) -> (u64, u64) {
        let blocks = self.block_table_block - self.chunk_table_block;
        let start = BlockNo::new(self.chunk_table_block).byte_offset();
        (start, u64::from(blocks) * BLOCK_SIZE_BYTES)
    }

    /// Byte offset of the chunk table's entry of one of its chunks.
    pub(crate) fn chunk_entry_offset(&self, chunk: ChunkNo) -> u64 {
        let index = u64::from(chunk.get() - self.first_chunk);
        BlockNo::new(self.chunk_table_block).byte_offset() + index * CHUNK_ENTRY_BYTES
    }

    /// Byte offset of the block of the block table that belongs to one of its chunks.
    pub(crate) fn block_table_offset(&self, chunk: ChunkNo) -> u64 {
        BlockNo::new(self.block_table_block + (chunk.get() - self.first_chunk)).byte_offset()
    }

    /// Byte offset of the block table's end.
    pub(crate) fn block_table_end(&self) -> u64 {
        BlockNo::new(self.block_table_block).byte_offset()
            + u64::from(self.chunks) * BLOCK_SIZE_BYTES
    }

    /// The row of the superblock's table.
    pub(crate) fn to_row(self) -> SegmentV2 {
        SegmentV2 {
            first_chunk: self.first_chunk.into(),
            chunks: self.chunks.into(),
            chunk_table_block: self.chunk_table_block.into(),
            block_table_block: self.block_table_block.into(),
            data_first_chunk: self.data_first_chunk.into(),
            reserved: 0.into(),
        }
    }
}
