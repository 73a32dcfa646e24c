//! Media on which a chunk is one page (hugetlbfs): it is mapped, armed and copied as a whole.
//!
//! **No writes to unarmed blocks.** A private mapping takes a huge page of its own for a write that
//! comes before it is armed, and there may be none: the kernel would kill the writer. So the
//! snapshot's chunks are mapped shared and armed before the guest runs, while nobody writes. Each
//! run of neighbours in the pool takes one mapping and one call to arm it. Chunks that the guest
//! touches later are holes, and get a fresh chunk that is the VM's own.

use nvvmm_snapshot::{ChunkIndex, ChunkMap, ChunkNo};

use super::{
    RedirectEngine,
    chunk::{KnownChunk, LiveChunk},
};
use crate::cow::{CowError, RamOrigin, counters::lock};

/// Guest chunks behind which lie neighbours in the pool.
struct ChunkRun {
    index: ChunkIndex,
    first: ChunkNo,
    count: u32,
}

impl ChunkRun {
    fn continues_with(&self, index: ChunkIndex, chunk: ChunkNo) -> bool {
        index.get() == self.index.get() + self.count && chunk.get() == self.first.get() + self.count
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
            let known = self.known_as_mapped(index, chunk);
            *lock(self.chunks.get(index)) = LiveChunk::Known(Box::new(known));
            match &mut run {
                Some(run) if run.continues_with(index, chunk) => run.count += 1,
                _ => {
                    if let Some(complete) = run.replace(ChunkRun {
                        index,
                        first: chunk,
                        count: 1,
                    }) {
                        self.map_armed(&complete)?;
                    }
                }
            }
        }
        run.map_or(Ok(()), |last| self.map_armed(&last))
    }

    fn map_armed(&self, run: &ChunkRun) -> Result<(), CowError> {
        self.mapping
            .map_armed(run.index, run.count as usize, run.first)
    }

    /// A chunk of a snapshot that is mapped shared and armed, counted as that.
    pub(super) fn known_as_mapped(&self, index: ChunkIndex, chunk: ChunkNo) -> KnownChunk {
        let known = KnownChunk::mapped_shared(chunk);
        let budget = self.mapping.budget();
        budget.chunk_mapped(index, self.mapping.chunks());
        budget.changed(0, known.mappings_now());
        known
    }
}
