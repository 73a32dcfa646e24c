//! Chunks of a disk's map whose blocks are remembered.

use std::collections::HashMap;
use std::sync::Mutex;

use super::head::locked;
use crate::chunk_map::ChunkMap;
use crate::error::Result;
use crate::frame_map::FrameMap;
use crate::number::ChunkIndex;

/// Chunks that are remembered at most: 8 MiB.
const CHUNKS_MAX: usize = 4096;

/// Remembered chunks of one map. Any number of threads may use it.
#[derive(Default)]
pub(super) struct Leaves(Mutex<HashMap<ChunkIndex, ChunkMap>>);

impl Leaves {
    /// The blocks of a chunk of the map.
    pub fn get(&self, map: &FrameMap, index: ChunkIndex) -> Result<ChunkMap> {
        if let Some(known) = locked(&self.0).get(&index) {
            return Ok(known.clone());
        }
        let leaf = map.chunk(index)?;
        let mut known = locked(&self.0);
        if known.len() >= CHUNKS_MAX {
            known.clear();
        }
        known.insert(index, leaf.clone());
        Ok(leaf)
    }

    /// Forgets chunks of the map, which have changed.
    pub fn forget(&self, chunks: impl Iterator<Item = ChunkIndex>) {
        let mut known = locked(&self.0);
        chunks.for_each(|index| drop(known.remove(&index)));
    }

    /// Forgets all of the map, which is another one.
    pub fn forget_all(&self) {
        locked(&self.0).clear();
    }
}
