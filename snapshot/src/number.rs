//! Numbers of blocks, chunks and snapshots as types of their own.

use std::fmt;

use serde::Serialize;

/// Bytes of a block, the unit of the pool.
pub const BLOCK_SIZE_BYTES: u64 = 4096;
/// Blocks of a chunk.
pub const CHUNK_BLOCKS: u32 = 512;
/// Bytes of a chunk (2 MiB).
pub const CHUNK_SIZE_BYTES: u64 = BLOCK_SIZE_BYTES * CHUNK_BLOCKS as u64;

/// A block of the pool: block `b` is at byte `b * 4096` of the pool's file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct BlockNo(u32);

impl BlockNo {
    /// The block with this number.
    pub const fn new(number: u32) -> BlockNo {
        BlockNo(number)
    }

    /// The block that starts at this byte of the pool, if one does.
    pub fn from_byte_offset(offset_bytes: u64) -> Option<BlockNo> {
        if !offset_bytes.is_multiple_of(BLOCK_SIZE_BYTES) {
            return None;
        }
        u32::try_from(offset_bytes / BLOCK_SIZE_BYTES)
            .ok()
            .map(BlockNo)
    }

    /// The number.
    pub const fn get(self) -> u32 {
        self.0
    }

    /// Byte offset of the block in the pool's file.
    pub const fn byte_offset(self) -> u64 {
        self.0 as u64 * BLOCK_SIZE_BYTES
    }

    /// The chunk that the block is in.
    pub const fn chunk(self) -> ChunkNo {
        ChunkNo(self.0 / CHUNK_BLOCKS)
    }

    /// The place of the block among its chunk's 512.
    pub const fn index_in_chunk(self) -> FrameIndex {
        FrameIndex::new(self.0)
    }
}

impl fmt::Display for BlockNo {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "block {}", self.0)
    }
}

/// A chunk of the pool: 512 blocks, aligned to 2 MiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct ChunkNo(u32);

impl ChunkNo {
    /// The last possible chunk: a pool ends at 16 TiB.
    pub const LAST: ChunkNo = ChunkNo(u32::MAX / CHUNK_BLOCKS);

    /// The chunk with this number, if a pool can have it.
    pub fn new(number: u32) -> Option<ChunkNo> {
        (number <= Self::LAST.0).then_some(ChunkNo(number))
    }

    /// The number.
    pub const fn get(self) -> u32 {
        self.0
    }

    /// Byte offset of the chunk in the pool's file.
    pub const fn byte_offset(self) -> u64 {
        self.0 as u64 * CHUNK_SIZE_BYTES
    }

    /// The first of its blocks.
    pub const fn first_block(self) -> BlockNo {
        BlockNo(self.0 * CHUNK_BLOCKS)
    }

    /// The block at this place of the chunk.
    pub fn block(self, place: impl Into<FrameIndex>) -> BlockNo {
        BlockNo(self.0 * CHUNK_BLOCKS + place.into().get())
    }

    /// All 512 blocks, in order.
    pub fn blocks(self) -> impl Iterator<Item = BlockNo> {
        FrameIndex::all().map(move |place| self.block(place))
    }
}

impl fmt::Display for ChunkNo {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "chunk {}", self.0)
    }
}

/// A chunk of a file's map, such as a guest's memory: 512 frames, from byte `index * 2 MiB` of what
/// is mapped on. (A chunk of the pool is a [`ChunkNo`].)
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize)]
#[serde(transparent)]
pub struct ChunkIndex(u32);

impl ChunkIndex {
    /// The first chunk of a map.
    pub const FIRST: ChunkIndex = ChunkIndex(0);

    /// The chunk with this index.
    pub const fn new(index: u32) -> ChunkIndex {
        ChunkIndex(index)
    }

    /// The chunk that this byte of what is mapped is in; the last possible one for a byte behind
    /// it.
    pub fn at_byte(offset_bytes: u64) -> ChunkIndex {
        ChunkIndex(u32::try_from(offset_bytes / CHUNK_SIZE_BYTES).unwrap_or(u32::MAX))
    }

    /// The index.
    pub const fn get(self) -> u32 {
        self.0
    }

    /// The first byte of the chunk, counted from the beginning of what is mapped.
    pub const fn byte_offset(self) -> u64 {
        self.0 as u64 * CHUNK_SIZE_BYTES
    }

    /// The number of one of its frames, counted from the beginning of what is mapped.
    pub const fn frame_number(self, frame: FrameIndex) -> u64 {
        self.0 as u64 * CHUNK_BLOCKS as u64 + frame.0 as u64
    }

    /// The chunks of this range of indices, in order.
    pub fn range(indices: std::ops::Range<u32>) -> impl DoubleEndedIterator<Item = ChunkIndex> {
        indices.map(ChunkIndex)
    }
}

impl From<u32> for ChunkIndex {
    fn from(index: u32) -> ChunkIndex {
        ChunkIndex(index)
    }
}

impl fmt::Display for ChunkIndex {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, out)
    }
}

/// One of the 512 places of a chunk: a frame of a map's chunk, or a block of a pool's chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize)]
#[serde(transparent)]
pub struct FrameIndex(u16);

impl FrameIndex {
    /// The first place of a chunk.
    pub const FIRST: FrameIndex = FrameIndex(0);
    /// The last place of a chunk.
    pub const LAST: FrameIndex = FrameIndex(CHUNK_BLOCKS as u16 - 1);

    /// The place with this index, which is taken modulo 512.
    pub const fn new(index: u32) -> FrameIndex {
        FrameIndex((index % CHUNK_BLOCKS) as u16)
    }

    /// The place in its chunk of a frame that is counted from the beginning of a map.
    pub const fn of_frame_number(number: u64) -> FrameIndex {
        FrameIndex((number % CHUNK_BLOCKS as u64) as u16)
    }

    /// The place in its chunk of the frame that this byte of what is mapped is in.
    pub const fn at_byte(offset_bytes: u64) -> FrameIndex {
        FrameIndex::of_frame_number(offset_bytes / BLOCK_SIZE_BYTES)
    }

    /// The index, less than 512.
    pub const fn get(self) -> u32 {
        self.0 as u32
    }

    /// The index, to index an array of 512 with.
    pub const fn as_usize(self) -> usize {
        self.0 as usize
    }

    /// The first byte of the place, counted from the beginning of its chunk.
    pub const fn byte_offset(self) -> u64 {
        self.0 as u64 * BLOCK_SIZE_BYTES
    }

    /// All 512 places, in order.
    pub fn all() -> impl DoubleEndedIterator<Item = FrameIndex> + ExactSizeIterator + Clone {
        (0..CHUNK_BLOCKS as u16).map(FrameIndex)
    }

    /// The places of this range of indices, in order; none behind the chunk's end.
    pub fn range(
        indices: std::ops::Range<u32>,
    ) -> impl DoubleEndedIterator<Item = FrameIndex> + Clone {
        (indices.start..indices.end.min(CHUNK_BLOCKS)).map(FrameIndex::new)
    }
}

impl From<u32> for FrameIndex {
    /// The place with this index, which is taken modulo 512.
    fn from(index: u32) -> FrameIndex {
        FrameIndex::new(index)
    }
}

impl fmt::Display for FrameIndex {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, out)
    }
}

/// A snapshot of the pool. Ids are never used twice in a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct SnapshotId(u64);

impl SnapshotId {
    /// The snapshot with this id; 0 is no id.
    pub fn new(id: u64) -> Option<SnapshotId> {
        (id != 0).then_some(SnapshotId(id))
    }

    /// The id.
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for SnapshotId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}", self.0)
    }
}

/// A set of the 512 places of a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FrameSet([u64; 8]);

impl FrameSet {
    /// All 512 places.
    pub const FULL: FrameSet = FrameSet([u64::MAX; 8]);
    /// No place.
    pub const EMPTY: FrameSet = FrameSet([0; 8]);

    /// The set whose place `index` is bit `index % 64` of word `index / 64`.
    pub const fn from_words(words: [u64; 8]) -> FrameSet {
        FrameSet(words)
    }

    /// The set as words, see [`FrameSet::from_words`].
    pub const fn words(&self) -> [u64; 8] {
        self.0
    }

    /// The places that are in either set.
    pub fn union(&self, other: &FrameSet) -> FrameSet {
        FrameSet(std::array::from_fn(|word| self.0[word] | other.0[word]))
    }

    /// The places that are in both sets.
    pub fn intersection(&self, other: &FrameSet) -> FrameSet {
        FrameSet(std::array::from_fn(|word| self.0[word] & other.0[word]))
    }

    /// The places of this set that are not in `other`.
    pub fn minus(&self, other: &FrameSet) -> FrameSet {
        FrameSet(std::array::from_fn(|word| self.0[word] & !other.0[word]))
    }

    /// True when the place is in the set.
    pub fn contains(&self, place: impl Into<FrameIndex>) -> bool {
        let index = place.into().as_usize();
        self.0[index / 64] >> (index % 64) & 1 == 1
    }

    /// Adds the place; false when it was in the set already.
    pub fn insert(&mut self, place: impl Into<FrameIndex>) -> bool {
        let index = place.into().as_usize();
        let word = &mut self.0[index / 64];
        let before = *word;
        *word |= 1 << (index % 64);
        *word != before
    }

    /// Takes the place out; false when it was not in the set.
    pub fn remove(&mut self, place: impl Into<FrameIndex>) -> bool {
        let index = place.into().as_usize();
        let word = &mut self.0[index / 64];
        let before = *word;
        *word &= !(1 << (index % 64));
        *word != before
    }

    /// The number of places in the set.
    pub fn count(&self) -> u32 {
        self.0.iter().map(|word| word.count_ones()).sum()
    }

    /// True when no place is in the set.
    pub fn is_empty(&self) -> bool {
        self.0 == [0; 8]
    }

    /// True when all 512 places are in the set.
    pub fn is_full(&self) -> bool {
        self.0 == [u64::MAX; 8]
    }

    /// The places in the set, in order.
    pub fn places(&self) -> impl Iterator<Item = FrameIndex> + '_ {
        FrameIndex::all().filter(|place| self.contains(*place))
    }

    /// The indices of the places in the set, in order, as bare numbers.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.places().map(FrameIndex::get)
    }

    /// The indices of the places that are not in the set, in order, as bare numbers.
    pub fn iter_absent(&self) -> impl Iterator<Item = u32> + '_ {
        (0..CHUNK_BLOCKS).filter(|index| !self.contains(*index))
    }
}

#[cfg(test)]
#[path = "number_test.rs"]
mod number_test;
