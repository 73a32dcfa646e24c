//! Places and encodings of all structures of a pool (docs/formats/pool.md has the
//! tables).

pub(crate) mod holder_slot;
pub(crate) mod inode;
pub(crate) mod node;
pub(crate) mod runtime;
pub(crate) mod segment;
pub(crate) mod superblock;

#[cfg(test)]
mod format_test;
#[cfg(test)]
mod node_test;

use std::ops::Range;
use std::sync::OnceLock;

use self::segment::{BLOCK_WORD_BYTES, SEGMENTS_MAX, Segment};
use crate::error::{Error, Result};
use crate::number::{BLOCK_SIZE_BYTES, BlockNo, CHUNK_BLOCKS, CHUNK_SIZE_BYTES, ChunkNo};
use crate::wording::SizeText;

/// Version of everything on the pool.
pub(crate) const FORMAT_VERSION: u32 = 7;
/// The oldest version that is opened. The first commit that needs a newer one sets it.
pub(crate) const FORMAT_VERSION_MIN: u32 = 5;
/// The first version in which freed blocks wait to be cleaned, and leases are taken without a lock.
pub(crate) const FORMAT_VERSION_WAITING: u32 = 7;
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
/// First block of the first segment's chunk table.
pub(crate) const CHUNK_TABLE_BLOCK: u32 = SPARE_FIRST_BLOCK + SPARE_BLOCKS;
/// The areas of a pool: a list of segments, which can only grow and whose segments never
/// change, so that readers need no lock.
#[derive(Debug, Default)]
pub(crate) struct Layout {
    segments: Segments,
}

#[derive(Debug)]
struct Segments([OnceLock<Segment>; SEGMENTS_MAX]);

impl Default for Segments {
    fn default() -> Segments {
        Segments([const { OnceLock::new() }; SEGMENTS_MAX])
    }
}

impl Layout {
    /// The layout of a new pool of this size, if a pool can have it.
    pub(crate) fn for_size(size_bytes: u64) -> Result<Layout> {
        let layout = Layout::default();
        layout.add(layout.next_segment(size_bytes)?)?;
        Ok(layout)
    }

    /// The segment that would bring the pool to this size.
    pub(crate) fn next_segment(&self, size_bytes: u64) -> Result<Segment> {
        let refused = |why: &str| Error::InvalidSize {
            size_bytes,
            why: why.to_owned(),
        };
        let size_before = self.size_bytes();
        if !size_bytes.is_multiple_of(CHUNK_SIZE_BYTES) {
            return Err(refused("the size must be a multiple of 2 MiB"));
        }
        if size_bytes < SIZE_BYTES_MIN {
            return Err(refused("the smallest pool has 8 MiB"));
        }
        if size_bytes > SIZE_BYTES_MAX {
            return Err(refused("the largest pool has 16 TiB"));
        }
        if size_bytes <= size_before {
            let now = SizeText::of(size_before);
            return Err(refused(&format!(
                "the pool has {now}, and can only be made larger"
            )));
        }
        if self.segments().count() == SEGMENTS_MAX {
            return Err(refused(
                "this pool has been made larger 63 times, which is the limit",
            ));
        }
        let first_chunk = (size_before / CHUNK_SIZE_BYTES) as u32;
        let chunks = ((size_bytes - size_before) / CHUNK_SIZE_BYTES) as u32;
        Segment::new(first_chunk, chunks).ok_or(refused(
            "a pool can only grow by 4 MiB or more: each growth has tables of its own",
        ))
    }

    /// Adds a segment behind the last one.
    pub(crate) fn add(&self, segment: Segment) -> Result<()> {
        let free = self.segments.0.get(self.segments().count());
        if segment.first_chunk != self.chunks()
            || free.is_none_or(|free| free.set(segment).is_err())
        {
            return Err(Error::damaged("a segment does not follow the last one"));
        }
        Ok(())
    }

    /// The segments, in order.
    pub(crate) fn segments(&self) -> impl Iterator<Item = &Segment> {
        self.segments.0.iter().map_while(OnceLock::get)
    }

    fn segment_of(&self, chunk: ChunkNo) -> Result<&Segment> {
        self.segments()
            .find(|segment| chunk.get() < segment.end_chunk())
            .ok_or_else(|| Error::damaged(format!("a reference to {chunk}, behind the pool's end")))
    }

    /// Size of the pool.
    pub(crate) fn size_bytes(&self) -> u64 {
        u64::from(self.chunks()) * CHUNK_SIZE_BYTES
    }

    /// Chunks of the pool, those of tables included.
    pub(crate) fn chunks(&self) -> u32 {
        self.segments().last().map_or(0, Segment::end_chunk)
    }

    /// Blocks of the pool.
    pub(crate) fn blocks(&self) -> u64 {
        u64::from(self.chunks()) * u64::from(CHUNK_BLOCKS)
    }

    /// Blocks outside of all data chunks.
    pub(crate) fn fixed_blocks(&self) -> u64 {
        self.segments()
            .map(|segment| segment.fixed_blocks().1)
            .sum()
    }

    /// The chunks that data can be in.
    pub(crate) fn data_chunks(&self) -> impl Iterator<Item = ChunkNo> {
        self.segments()
            .flat_map(|segment| segment.data_first_chunk..segment.end_chunk())
            .filter_map(ChunkNo::new)
    }

    /// The spare blocks.
    pub(crate) fn spare_blocks(&self) -> impl Iterator<Item = BlockNo> + use<> {
        (SPARE_FIRST_BLOCK..SPARE_FIRST_BLOCK + SPARE_BLOCKS).map(BlockNo::new)
    }

    /// Bytes of the spare blocks.
    pub(crate) fn spare_bytes(&self) -> Range<u64> {
        let first = u64::from(SPARE_FIRST_BLOCK) * BLOCK_SIZE_BYTES;
        first..first + u64::from(SPARE_BLOCKS) * BLOCK_SIZE_BYTES
    }

    /// True when the block can be part of a snapshot or of the catalog.
    pub(crate) fn is_usable(&self, block: BlockNo) -> bool {
        let spare = SPARE_FIRST_BLOCK..SPARE_FIRST_BLOCK + SPARE_BLOCKS;
        spare.contains(&block.get()) || self.is_data_chunk(block.chunk())
    }

    /// True when the chunk is one of the data chunks.
    pub(crate) fn is_data_chunk(&self, chunk: ChunkNo) -> bool {
        self.segment_of(chunk)
            .is_ok_and(|segment| segment.is_data_chunk(chunk))
    }

    /// Byte offset of a chunk's entry in its chunk table.
    pub(crate) fn chunk_entry_offset(&self, chunk: ChunkNo) -> Result<u64> {
        Ok(self.segment_of(chunk)?.chunk_entry_offset(chunk))
    }

    /// Byte offset of the counts and digests of a chunk's blocks, which fill a block.
    pub(crate) fn block_table_offset(&self, chunk: ChunkNo) -> Result<u64> {
        Ok(self.segment_of(chunk)?.block_table_offset(chunk))
    }

    /// Byte offset of a block's reference count.
    pub(crate) fn refcount_offset(&self, block: BlockNo) -> Result<u64> {
        let table = self.block_table_offset(block.chunk())?;
        Ok(table + u64::from(block.index_in_chunk().get()) * BLOCK_WORD_BYTES)
    }

    /// Byte offset of a block's digest.
    pub(crate) fn digest_offset(&self, block: BlockNo) -> Result<u64> {
        Ok(self.refcount_offset(block)? + segment::DIGESTS_OFFSET)
    }

    /// Byte offset of a holder's slot.
    pub(crate) fn holder_slot_offset(&self, slot: u32) -> u64 {
        BlockNo::new(HOLDER_TABLE_BLOCK).byte_offset()
            + u64::from(slot) * holder_slot::HOLDER_SLOT_BYTES as u64
    }
}
