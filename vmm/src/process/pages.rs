//! Blocks of the pages of an image.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use nvvmm_snapshot::{BlockNo, CHUNK_BLOCKS, ChunkIndex, ChunkMap, FrameIndex, LeafBlocks};

/// The pages of an image that is being made.
#[derive(Debug, Default)]
pub(super) struct ImagePages {
    chunks: BTreeMap<ChunkIndex, LeafBlocks>,
    end: u64,
}

impl ImagePages {
    /// Puts a block behind a page, in place of the one before; none for a page of zeroes.
    pub fn set(&mut self, page: u64, block: Option<BlockNo>) {
        let chunk = ChunkIndex::new((page / u64::from(CHUNK_BLOCKS)) as u32);
        let leaf = self.chunks.entry(chunk).or_default();
        leaf.set(FrameIndex::of_frame_number(page), block);
        self.end = self.end.max(page + 1);
    }

    /// The number behind that of the last page.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// All its blocks.
    pub fn blocks(&self) -> HashSet<BlockNo> {
        let present = self.chunks.values().flat_map(LeafBlocks::iter_present);
        present.map(|(_, block)| block).collect()
    }

    /// The pages as changes of a snapshot's map.
    pub fn changes(&self) -> Vec<(ChunkIndex, ChunkMap)> {
        let as_map = |leaf: &LeafBlocks| ChunkMap::Frames(Arc::new(leaf.clone())).simplified();
        self.chunks
            .iter()
            .map(|(index, leaf)| (*index, as_map(leaf)))
            .collect()
    }
}
