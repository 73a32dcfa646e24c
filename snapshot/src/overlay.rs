//! Changes of a map that no commit has yet.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::chunk_map::{ChunkMap, LeafBlocks};
use crate::number::{BlockNo, CHUNK_BLOCKS, ChunkIndex, FrameIndex, FrameSet};

/// Frames of a map that have other blocks, or none, than the map says.
#[derive(Debug, Clone, Default)]
pub(crate) struct Overlay {
    chunks: BTreeMap<ChunkIndex, OverlayChunk>,
}

/// The same of a chunk of the map.
#[derive(Debug, Clone)]
pub(crate) struct OverlayChunk {
    known: FrameSet,
    blocks: LeafBlocks,
}

impl Overlay {
    pub(crate) fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// Number of chunks of which something is known.
    pub(crate) fn chunks(&self) -> usize {
        self.chunks.len()
    }

    /// The changes of a chunk.
    pub(crate) fn chunk(&self, index: ChunkIndex) -> Option<&OverlayChunk> {
        self.chunks.get(&index)
    }

    /// The chunks of which something is known, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (ChunkIndex, &OverlayChunk)> {
        self.chunks.iter().map(|(index, chunk)| (*index, chunk))
    }

    /// Has `count` frames from a frame on, all in one chunk, have the blocks from `first` on, or
    /// none.
    pub(crate) fn set(&mut self, frame: u64, count: u32, first: Option<BlockNo>) {
        let chunk = self.chunks.entry(chunk_of(frame)).or_insert(OverlayChunk {
            known: FrameSet::EMPTY,
            blocks: LeafBlocks::new(),
        });
        for at in 0..count {
            let place = FrameIndex::new((frame % u64::from(CHUNK_BLOCKS)) as u32 + at);
            chunk.known.insert(place);
            let block = first.map(|first| BlockNo::new(first.get().saturating_add(at)));
            chunk.blocks.set(place, block);
        }
    }

    /// Puts older changes below these.
    pub(crate) fn put_below(&mut self, older: &Overlay) {
        for (index, old) in &older.chunks {
            let Some(new) = self.chunks.get_mut(index) else {
                self.chunks.insert(*index, old.clone());
                continue;
            };
            for place in old
                .known
                .places()
                .filter(|place| !new.known.contains(*place))
                .collect::<Vec<_>>()
            {
                new.known.insert(place);
                new.blocks.set(place, old.blocks.get(place));
            }
        }
    }

    /// The blocks that frames have by it, in the order of the frames.
    pub(crate) fn blocks(&self) -> Vec<BlockNo> {
        let chunks = self.chunks.values();
        chunks
            .flat_map(|chunk| chunk.blocks.iter_present().map(|(_, block)| block))
            .collect()
    }
}

impl OverlayChunk {
    /// The block of a frame, or none, if that is known.
    pub(crate) fn get(&self, place: FrameIndex) -> Option<Option<BlockNo>> {
        self.known.contains(place).then(|| self.blocks.get(place))
    }

    /// The blocks that frames have by it.
    pub(crate) fn blocks(&self) -> &LeafBlocks {
        &self.blocks
    }

    /// The chunk of a map with these changes.
    pub(crate) fn over(&self, below: &ChunkMap) -> ChunkMap {
        let mut leaf = below.to_leaf();
        for place in self.known.places() {
            leaf.set(place, self.blocks.get(place));
        }
        ChunkMap::Frames(Arc::new(leaf)).simplified()
    }
}

/// The chunk that a frame is in.
pub(crate) fn chunk_of(frame: u64) -> ChunkIndex {
    ChunkIndex::new(u32::try_from(frame / u64::from(CHUNK_BLOCKS)).unwrap_or(u32::MAX))
}
