//! State of one 2 MiB chunk of guest RAM.

use nvvmm_snapshot::{BlockNo, ChunkMap, FrameSet};

use crate::cow::frames::put_blocks;

/// One chunk.
#[derive(Debug, Default)]
pub(super) struct Chunk {
    /// Frames that were written after their content was last copied to a block. They are kept
    /// apart from `known`, because to note a write must not fail.
    pub dirty: FrameSet,
    /// True if the chunk is in the list of those that the next snapshot gets.
    pub listed: bool,
    /// The blocks; `None` while the chunk is as in the snapshot that the VM came from.
    pub known: Option<Box<KnownChunk>>,
}

/// A chunk that somebody has looked at.
#[derive(Debug)]
pub(super) struct KnownChunk {
    /// The block that the next snapshot will have for every frame, once its content is there.
    pub map: ChunkMap,
    /// Frames whose blocks came from a snapshot that this VM consumed. They are in no snapshot,
    /// and the guest may see them.
    pub consumed: FrameSet,
    /// Frames whose blocks are copies made for the next snapshot. The guest does not see these
    /// blocks.
    pub copied: FrameSet,
    /// True if the chunk was touched: the guest has its own memory here.
    pub mapped: bool,
    /// Mappings of its own that the first touch has made, as the budget counts them.
    pub mappings: usize,
}

impl Chunk {
    /// Frames that are in no snapshot as they are now.
    pub fn unshared(&self) -> FrameSet {
        match &self.known {
            None => self.dirty,
            Some(known) => self.dirty.union(&known.own()),
        }
    }
}

impl KnownChunk {
    /// Frames whose blocks are the VM's own: they may be written to.
    pub fn own(&self) -> FrameSet {
        self.consumed.union(&self.copied)
    }

    /// Puts fresh blocks for copies behind frames, in order. Returns the number of frames that had
    /// no block at all before.
    pub fn add_copies(&mut self, frames: &FrameSet, blocks: &[BlockNo]) -> u32 {
        let newly_backed = frames
            .iter()
            .filter(|frame| self.map.block(*frame).is_none())
            .count() as u32;
        put_blocks(
            &mut self.map,
            frames.places().zip(blocks.iter().map(|block| Some(*block))),
        );
        self.copied = self.copied.union(frames);
        newly_backed
    }

    /// Removes all copies from the map and returns their blocks. What was behind these frames
    /// before is not known any more: they must be dirty.
    pub fn remove_copies(&mut self) -> Vec<BlockNo> {
        let copied = std::mem::take(&mut self.copied);
        let blocks = copied
            .iter()
            .filter_map(|frame| self.map.block(frame))
            .collect();
        put_blocks(&mut self.map, copied.places().map(|frame| (frame, None)));
        blocks
    }
}
