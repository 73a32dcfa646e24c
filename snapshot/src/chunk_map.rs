//! The blocks that hold the 512 frames of a chunk of a map.

use std::sync::Arc;

use crate::number::{BlockNo, CHUNK_BLOCKS, ChunkNo, FrameIndex, FrameSet};

/// The blocks of 512 frames, one by one.
#[derive(Clone, PartialEq, Eq)]
pub struct LeafBlocks([u32; CHUNK_BLOCKS as usize]);

impl LeafBlocks {
    /// 512 holes.
    pub fn new() -> LeafBlocks {
        LeafBlocks([0; CHUNK_BLOCKS as usize])
    }

    /// The 512 blocks of a chunk, in order.
    pub fn of_chunk(chunk: ChunkNo) -> LeafBlocks {
        let mut blocks = LeafBlocks::new();
        for frame in FrameIndex::all() {
            blocks.set(frame, Some(chunk.block(frame)));
        }
        blocks
    }

    /// The numbers of the blocks, 0 for a hole.
    pub(crate) fn numbers(&self) -> &[u32; CHUNK_BLOCKS as usize] {
        &self.0
    }

    pub(crate) fn numbers_mut(&mut self) -> &mut [u32; CHUNK_BLOCKS as usize] {
        &mut self.0
    }

    /// The block of a frame; none when it was never written.
    pub fn get(&self, frame: impl Into<FrameIndex>) -> Option<BlockNo> {
        let number = self.0[frame.into().as_usize()];
        (number != 0).then_some(BlockNo::new(number))
    }

    /// Sets the block of a frame.
    pub fn set(&mut self, frame: impl Into<FrameIndex>, block: Option<BlockNo>) {
        self.0[frame.into().as_usize()] = block.map_or(0, BlockNo::get);
    }

    /// The frames that have a block, with it, in order.
    pub fn iter_present(&self) -> impl Iterator<Item = (FrameIndex, BlockNo)> + '_ {
        FrameIndex::all().filter_map(|frame| self.get(frame).map(|block| (frame, block)))
    }

    /// The number of frames that have a block.
    pub fn count(&self) -> u32 {
        self.0.iter().filter(|number| **number != 0).count() as u32
    }

    /// The chunk whose 512 blocks these are, in order, if they are that.
    pub fn as_chunk(&self) -> Option<ChunkNo> {
        let first = self.get(FrameIndex::FIRST)?;
        let in_row = self
            .0
            .iter()
            .zip(first.get()..)
            .all(|(number, expected)| *number == expected);
        (first.index_in_chunk() == FrameIndex::FIRST && in_row).then_some(first.chunk())
    }
}

impl Default for LeafBlocks {
    fn default() -> LeafBlocks {
        LeafBlocks::new()
    }
}

impl std::fmt::Debug for LeafBlocks {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_map()
            .entries(
                self.iter_present()
                    .map(|(index, block)| (index, block.get())),
            )
            .finish()
    }
}

/// The blocks of a chunk of a map.
#[derive(Debug, Clone)]
pub enum ChunkMap {
    /// Nothing: all 512 frames read as zero.
    Hole,
    /// The 512 blocks of one pool chunk, in order.
    Whole(ChunkNo),
    /// A block, or none, for each frame.
    Frames(Arc<LeafBlocks>),
}

impl ChunkMap {
    /// The block of a frame; none when it was never written.
    pub fn block(&self, frame: impl Into<FrameIndex>) -> Option<BlockNo> {
        match self {
            ChunkMap::Hole => None,
            ChunkMap::Whole(chunk) => Some(chunk.block(frame)),
            ChunkMap::Frames(blocks) => blocks.get(frame),
        }
    }

    /// The number of frames that have a block.
    pub fn count(&self) -> u32 {
        match self {
            ChunkMap::Hole => 0,
            ChunkMap::Whole(_) => CHUNK_BLOCKS,
            ChunkMap::Frames(blocks) => blocks.count(),
        }
    }

    /// The frames that have a block.
    pub fn present(&self) -> FrameSet {
        let mut set = FrameSet::default();
        for (frame, _) in self.iter_present() {
            set.insert(frame);
        }
        set
    }

    /// The frames that have a block, with it, in order.
    pub fn iter_present(&self) -> impl Iterator<Item = (FrameIndex, BlockNo)> + '_ {
        FrameIndex::all().filter_map(|frame| self.block(frame).map(|block| (frame, block)))
    }

    /// The shortest form of the same: a hole or a whole chunk where it is one.
    pub fn simplified(&self) -> ChunkMap {
        match self {
            ChunkMap::Frames(blocks) if blocks.count() == 0 => ChunkMap::Hole,
            ChunkMap::Frames(blocks) => blocks
                .as_chunk()
                .map_or_else(|| self.clone(), ChunkMap::Whole),
            other => other.clone(),
        }
    }

    /// The same frames one by one.
    pub fn to_leaf(&self) -> LeafBlocks {
        match self {
            ChunkMap::Hole => LeafBlocks::new(),
            ChunkMap::Whole(chunk) => LeafBlocks::of_chunk(*chunk),
            ChunkMap::Frames(blocks) => LeafBlocks::clone(blocks),
        }
    }
}

impl PartialEq for ChunkMap {
    /// Equal when every frame has the same block, in whatever form.
    fn eq(&self, other: &ChunkMap) -> bool {
        match (self.simplified(), other.simplified()) {
            (ChunkMap::Hole, ChunkMap::Hole) => true,
            (ChunkMap::Whole(left), ChunkMap::Whole(right)) => left == right,
            (ChunkMap::Frames(left), ChunkMap::Frames(right)) => left == right,
            _ => false,
        }
    }
}

impl Eq for ChunkMap {}
