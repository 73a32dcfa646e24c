//! Where everything is in a pool, and how each structure looks (docs/format.md has the tables).

pub(crate) mod holder_slot;
pub(crate) mod inode;
pub(crate) mod node;
pub(crate) mod runtime;
pub(crate) mod superblock;

#[cfg(test)]
mod format_test;
#[cfg(test)]
mod node_test;

use crate::error::{Error, Result};
use crate::number::{BLOCK_SIZE_BYTES, BlockNo, CHUNK_BLOCKS, CHUNK_SIZE_BYTES, ChunkNo};

/// Version of everything on the pool.
pub(crate) const FORMAT_VERSION: u32 = 1;
/// Smallest pool: four chunks.
pub(crate) const SIZE_BYTES_MIN: u64 = 4 * CHUNK_SIZE_BYTES;
/// Largest pool: block numbers have 32 bits.
pub(crate) const SIZE_BYTES_MAX: u64 = (u32::MAX as u64 + 1) * BLOCK_SIZE_BYTES;
/// The two superblock slots.
pub(crate) const SUPERBLOCK_BLOCKS: [u32; 2] = [0, 1];
/// The runtime block.
pub(crate) const RUNTIME_BLOCK: u32 = 2;
/// First block of the holder table.
pub(crate) const HOLDER_TABLE_BLOCK: u32 = 16;
/// Slots of the holder table.
pub(crate) const HOLDER_SLOTS: u32 = 256;
/// First of the spare blocks.
pub(crate) const SPARE_FIRST_BLOCK: u32 = 64;
/// Blocks set aside for the metadata of a removal in a pool that is full.
pub(crate) const SPARE_BLOCKS: u32 = 256;
/// First block of the chunk table.
pub(crate) const CHUNK_TABLE_BLOCK: u32 = SPARE_FIRST_BLOCK + SPARE_BLOCKS;
/// Bytes of an entry of the chunk table: owner, used blocks.
pub(crate) const CHUNK_ENTRY_BYTES: u64 = 8;
/// Bytes of a reference count.
pub(crate) const REFCOUNT_BYTES: u64 = 4;

/// Where the areas of a pool of one size are. A pure function of the size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) size_bytes: u64,
    pub(crate) refcount_block: u32,
    pub(crate) data_first_chunk: u32,
    pub(crate) chunks: u32,
}

impl Layout {
    /// The layout of a pool of this size, if a pool can have it.
    pub(crate) fn for_size(size_bytes: u64) -> Result<Layout> {
        let refused = |why| Err(Error::InvalidSize { size_bytes, why });
        if !size_bytes.is_multiple_of(CHUNK_SIZE_BYTES) {
            return refused("the size must be a multiple of 2 MiB");
        }
        if size_bytes < SIZE_BYTES_MIN {
            return refused("the smallest pool has 8 MiB");
        }
        if size_bytes > SIZE_BYTES_MAX {
            return refused("the largest pool has 16 TiB");
        }
        let chunks = (size_bytes / CHUNK_SIZE_BYTES) as u32;
        let table_blocks = (u64::from(chunks) * CHUNK_ENTRY_BYTES).div_ceil(BLOCK_SIZE_BYTES) as u32;
        // A chunk's 512 counts take 2048 bytes.
        let refcount_blocks = chunks.div_ceil(2);
        let refcount_block = CHUNK_TABLE_BLOCK + table_blocks;
        let data_first_chunk = (refcount_block + refcount_blocks).div_ceil(CHUNK_BLOCKS);
        Ok(Layout {
            size_bytes,
            refcount_block,
            data_first_chunk,
            chunks,
        })
    }

    /// Blocks of the pool.
    pub(crate) fn blocks(&self) -> u64 {
        u64::from(self.chunks) * u64::from(CHUNK_BLOCKS)
    }

    /// Blocks in front of the first data chunk.
    pub(crate) fn fixed_blocks(&self) -> u64 {
        u64::from(self.data_first_chunk) * u64::from(CHUNK_BLOCKS)
    }

    /// The chunks that data can be in.
    pub(crate) fn data_chunks(&self) -> impl Iterator<Item = ChunkNo> + use<> {
        (self.data_first_chunk..self.chunks).filter_map(ChunkNo::new)
    }

    /// How many chunks data can be in.
    pub(crate) fn data_chunk_count(&self) -> u32 {
        self.chunks - self.data_first_chunk
    }

    /// The spare blocks.
    pub(crate) fn spare_blocks(&self) -> impl Iterator<Item = BlockNo> + use<> {
        (SPARE_FIRST_BLOCK..SPARE_FIRST_BLOCK + SPARE_BLOCKS).map(BlockNo::new)
    }

    /// Whether the block can be part of a snapshot or of the catalog.
    pub(crate) fn is_usable(&self, block: BlockNo) -> bool {
        let spare = SPARE_FIRST_BLOCK..SPARE_FIRST_BLOCK + SPARE_BLOCKS;
        spare.contains(&block.get()) || self.is_data_chunk(block.chunk())
    }

    /// Whether the chunk is one of the data chunks.
    pub(crate) fn is_data_chunk(&self, chunk: ChunkNo) -> bool {
        (self.data_first_chunk..self.chunks).contains(&chunk.get())
    }

    /// Where the entry of a chunk in the chunk table is.
    pub(crate) fn chunk_entry_offset(&self, chunk: ChunkNo) -> u64 {
        BlockNo::new(CHUNK_TABLE_BLOCK).byte_offset() + u64::from(chunk.get()) * CHUNK_ENTRY_BYTES
    }

    /// Where the reference count of a block is.
    pub(crate) fn refcount_offset(&self, block: BlockNo) -> u64 {
        BlockNo::new(self.refcount_block).byte_offset() + u64::from(block.get()) * REFCOUNT_BYTES
    }

    /// Where a holder's slot is.
    pub(crate) fn holder_slot_offset(&self, slot: u32) -> u64 {
        BlockNo::new(HOLDER_TABLE_BLOCK).byte_offset()
            + u64::from(slot) * holder_slot::HOLDER_SLOT_BYTES as u64
    }
}
