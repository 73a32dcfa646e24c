//! Empties chunks that the guest does not use. The guest runs.

use nvvmm_snapshot::{BlockNo, ChunkIndex, ChunkMap, FrameSet};

use super::PrivateEngine;
use crate::{
    cow::{
        CHUNK_SIZE_BYTES, CowError,
        counters::{Counters, lock},
        error::os,
    },
    sys::patiently,
};

impl PrivateEngine {
    /// Gives the memory of a chunk back to the host, and its own blocks to the pool: it holds
    /// zeroes then. Returns the number of frames that had a block or were written.
    ///
    /// A log of writes may name frames of the chunk later. They are dirty then and hold zeroes: the
    /// next snapshot copies zeroes, which is what they hold.
    pub(super) fn release_chunk(&self, index: ChunkIndex) -> Result<u32, CowError> {
        let mut chunk = lock(self.table.get(index));
        let dirty = chunk.dirty;
        // It is not worth fetching.
        if !self.origin().is_here(index) {
            return Ok(0);
        }
        let known = self.know(index, &mut chunk)?;
        let present = known.map.present();
        if known.mapped {
            let start = self.ram_offset(index, 0);
            patiently(|| self.reservation().map_anonymous(start, CHUNK_SIZE_BYTES))
                .map_err(os("map empty memory"))?;
            if known.mappings == 0 {
                self.budget.chunk_mapped(index, self.chunks());
            }
            self.budget.changed(known.mappings, 1);
            known.mappings = 1;
        }
        let own = known.own();
        let blocks: Vec<BlockNo> = { own.iter() }
            .filter_map(|frame| known.map.block(frame))
            .collect();
        known.map = ChunkMap::Hole;
        (known.consumed, known.copied) = (FrameSet::EMPTY, FrameSet::EMPTY);
        chunk.dirty = FrameSet::EMPTY;
        self.list(index, &mut chunk);
        Counters::sub(&self.counters.frames_mapped, present.count().into());
        self.holder.free_blocks(&blocks);
        Ok(present.union(&dirty).count())
    }
}
