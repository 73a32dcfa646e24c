//! Blocks that a guest sees at its frames.

use nvvmm_snapshot::BlockNo;

/// The blocks that a window shows, one frame after the other.
#[derive(Debug)]
pub struct ShownBlocks {
    first_gfn: u64,
    blocks: Vec<u32>,
}

impl ShownBlocks {
    /// Blocks that are shown in frames from `first_gfn` on.
    pub(super) fn new(first_gfn: u64, blocks: Vec<u32>) -> Self {
        Self { first_gfn, blocks }
    }

    /// The blocks in `frames` frames from `gfn` on; `None` unless all of them are shown here.
    pub fn in_frames(&self, gfn: u64, frames: u32) -> Option<impl Iterator<Item = BlockNo>> {
        let from = usize::try_from(gfn.checked_sub(self.first_gfn)?).ok()?;
        let to = from.checked_add(frames as usize)?;
        let blocks = self.blocks.get(from..to)?;
        Some(blocks.iter().map(|block| BlockNo::new(*block)))
    }
}

#[cfg(test)]
#[path = "shown_test.rs"]
mod shown_test;
