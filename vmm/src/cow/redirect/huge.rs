//! Media on which a chunk is one page (hugetlbfs): it is mapped, armed and copied as a whole.
//!
//! **No writes to unarmed blocks.** A private mapping takes a huge page of its own for a write that
//! comes before it is armed, and there may be none: the kernel would kill the writer. So the
//! snapshot's chunks are mapped shared and armed before the guest runs, while nobody writes. Each
//! run of neighbours in the pool takes one mapping and one call to arm it. Chunks that the guest
//! touches later are holes, and get a fresh chunk that is the VM's own.

use std::ops::Range;

use nvvmm_snapshot::{ChunkMap, ChunkNo};

use super::{
    RedirectEngine,
    chunk::{KnownChunk, LiveChunk},
};
use crate::cow::{CowError, RamOrigin, counters::lock};

/// Guest chunks behind which lie neighbours in the pool.
struct ChunkRun {
    indexes: Range<u32>,
    first: ChunkNo,
}

impl ChunkRun {
    fn continues_with(&self, index: u32, chunk: ChunkNo) -> bool {
        index == self.indexes.end && chunk.get() == self.first.get() + self.indexes.len() as u32
    }
}

impl RedirectEngine {
    /// Maps and arms all of the snapshot that the VM comes from. The guest does not run yet.
    ///
    /// # Errors
    /// [`CowError::NotWhole`]; [`CowError::TooManyMappings`] when chunks could become more mappings
    /// than there may be.
    pub(super) fn map_origin(&self) -> Result<(), CowError> {
        let budget = self.mapping.budget();
        budget.covers(u64::from(self.mapping.chunks()))?;
        let RamOrigin::Snapshot { frames, .. } = &*self.chunks.origin() else {
            return Ok(());
        };
        let mut run: Option<ChunkRun> = None;
        for present in frames.iter_present() {
            let (index, map) = present?;
            let ChunkMap::Whole(chunk) = map.simplified() else {
                return Err(CowError::NotWhole { index });
            };
            self.note_origin_mapped(index, chunk);
            match &mut run {
                Some(run) if run.continues_with(index, chunk) => run.indexes.end += 1,
                _ => {
                    if let Some(complete) = run.replace(ChunkRun {
                        indexes: index..index + 1,
                        first: chunk,
                    }) {
                        self.mapping.map_armed(&complete.indexes, complete.first)?;
                    }
                }
            }
        }
        run.map_or(Ok(()), |last| {
            self.mapping.map_armed(&last.indexes, last.first)
        })
    }

    fn note_origin_mapped(&self, index: u32, chunk: ChunkNo) {
        let known = KnownChunk::mapped_shared(chunk);
        let budget = self.mapping.budget();
        budget.chunk_mapped(index, self.mapping.chunks());
        budget.changed(0, known.mappings_now());
        *lock(self.chunks.get(index)) = LiveChunk::Known(Box::new(known));
    }
}
