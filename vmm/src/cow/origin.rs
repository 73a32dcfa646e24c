//! Content of chunks that the guest has not touched yet.

use std::sync::Arc;

use nvvmm_snapshot::{ChunkIndex, ChunkMap, FrameMap};

use super::{Arrival, CowError};

/// Source of the memory of a VM, for chunks that it has not touched.
#[derive(Debug)]
pub enum RamOrigin {
    /// A new guest: zeroes.
    Empty,
    /// The memory of a pinned snapshot.
    Snapshot {
        /// Its map.
        frames: FrameMap,
        /// Frames that it has.
        frames_mapped: u64,
    },
    /// The memory of a snapshot that arrives.
    Arriving(Arc<Arrival>),
}

impl RamOrigin {
    /// Frames that have a block.
    pub(super) fn frames_mapped(&self) -> u64 {
        match self {
            Self::Empty => 0,
            Self::Snapshot { frames_mapped, .. } => *frames_mapped,
            Self::Arriving(arrival) => arrival.frames_mapped(),
        }
    }

    /// Blocks of an untouched chunk.
    ///
    /// The map is used for untouched chunks even after later snapshots have replaced its pin and it
    /// was removed. That is sound. The leaf of a chunk that was never touched is the same in all of
    /// these snapshots. An inner node that a later snapshot wrote anew is on the path to a chunk
    /// that was touched, so the map had read it while it was pinned. (After a rewind the map has
    /// read all inner nodes: [`RewindTo::new`](super::RewindTo::new).)
    pub(super) fn chunk(&self, index: ChunkIndex) -> Result<ChunkMap, CowError> {
        match self {
            Self::Empty => Ok(ChunkMap::Hole),
            Self::Snapshot { frames, .. } => Ok(frames.chunk(index)?),
            Self::Arriving(arrival) => arrival.chunk(index),
        }
    }

    /// False for a chunk that has to arrive before anything is known of it.
    pub(super) fn is_here(&self, index: ChunkIndex) -> bool {
        match self {
            Self::Empty | Self::Snapshot { .. } => true,
            Self::Arriving(arrival) => arrival.is_here(index),
        }
    }

    /// The arrival, if there is one.
    pub(super) fn arrival(&self) -> Option<&Arc<Arrival>> {
        match self {
            Self::Empty | Self::Snapshot { .. } => None,
            Self::Arriving(arrival) => Some(arrival),
        }
    }

    /// The chunks that have blocks.
    pub(super) fn present_chunks(&self) -> Result<Vec<ChunkIndex>, CowError> {
        let Self::Snapshot { frames, .. } = self else {
            return Ok(Vec::new());
        };
        let present = frames.iter_present();
        Ok(present
            .map(|chunk| chunk.map(|(index, _)| index))
            .collect::<nvvmm_snapshot::Result<_>>()?)
    }
}
