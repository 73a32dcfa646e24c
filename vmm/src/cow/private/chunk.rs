//! What the engine knows of one 2 MiB chunk of guest RAM.

use nvvmm_snapshot::{BlockNo, ChunkMap, FrameSet};

use crate::cow::frames::put_blocks;

/// One chunk.
#[derive(Debug, Default)]
pub(super) struct Chunk {
    /// Frames that were written after their content was last copied to a block. Kept apart from
    /// what is known: to note a write must not fail.
    pub dirty: FrameSet,
    /// In the list of chunks that the next snapshot has to say something about.
    pub listed: bool,
    /// Nothing: as in the snapshot that the VM came from.
    pub known: Option<Box<KnownChunk>>,
}

/// A chunk that somebody has looked at.
#[derive(Debug)]
pub(super) struct KnownChunk {
    /// The block that the next snapshot will have for every frame, once its content is there.
    pub map: ChunkMap,
    /// Frames whose blocks came from a snapshot that this VM consumed. They are in no snapshot,
    /// and the guest may be looking at them.
    pub own: FrameSet,
    /// Frames whose blocks are copies made for the next snapshot. The guest does not see these
    /// blocks.
    pub copied: FrameSet,
    /// The guest has its own memory here.
    pub mapped: bool,
}

impl Chunk {
    /// Frames that are in no snapshot as they are now.
    pub fn unshared(&self) -> FrameSet {
        match &self.known {
            None => self.dirty,
            Some(known) => self.dirty.union(&known.mine()),
        }
    }
}

impl KnownChunk {
    /// Frames whose blocks are this VM's alone: they may be written to.
    pub fn mine(&self) -> FrameSet {
        self.own.union(&self.copied)
    }

    /// Gives frames fresh blocks for copies, in order. Returns how many frames had no block at all
    /// before.
    pub fn add_copies(&mut self, frames: &FrameSet, blocks: &[BlockNo]) -> u32 {
        let newly_backed = frames
            .iter()
            .filter(|frame| self.map.block(*frame).is_none())
            .count() as u32;
        put_blocks(
            &mut self.map,
            frames.iter().zip(blocks.iter().map(|block| Some(*block))),
        );
        self.copied = self.copied.union(frames);
        newly_backed
    }

    /// Takes all copies out of the map. What was behind these frames before is not known any more:
    /// they must be dirty.
    pub fn remove_copies(&mut self) -> Vec<BlockNo> {
        let copied = std::mem::take(&mut self.copied);
        let blocks = copied
            .iter()
            .filter_map(|frame| self.map.block(frame))
            .collect();
        put_blocks(&mut self.map, copied.iter().map(|frame| (frame, None)));
        blocks
    }
}
