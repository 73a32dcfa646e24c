//! What is different where a chunk is one page of the medium (hugetlbfs): it is mapped, armed and
//! copied as a whole.
//!
//! **No early writes.** A private mapping takes a huge page of its own for a write that comes
//! before it is armed, and nothing promises that there is one: the writer would be killed. So the
//! snapshot's chunks are mapped shared and armed before the guest runs, while nobody writes: one
//! mapping, and one arming, for each run of neighbours in the pool. Chunks that the guest touches
//! later are holes, and get a fresh chunk that is the VM's own.

use std::ops::Range;

use nvvmm_snapshot::{ChunkMap, ChunkNo, FaultPoint, FrameSet, fault_point};

use super::{
    RedirectEngine,
    chunk::{KnownChunk, LiveChunk},
};
use crate::{
    cow::{
        CHUNK_SIZE_BYTES, CowError, Origin,
        engine::{lock, os},
    },
    sys::reservation::Sharing,
};

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
        self.budget.covers(u64::from(self.chunks()))?;
        let Origin::Snapshot { frames, .. } = &*self.origin() else {
            return Ok(());
        };
        let mut run: Option<ChunkRun> = None;
        for present in frames.iter_present() {
            let (index, map) = present?;
            let index = index.get();
            let ChunkMap::Whole(chunk) = map.simplified() else {
                return Err(CowError::NotWhole { index });
            };
            self.note_mapped(index, chunk);
            match &mut run {
                Some(run) if run.continues_with(index, chunk) => run.indexes.end += 1,
                _ => {
                    if let Some(complete) = run.replace(ChunkRun {
                        indexes: index..index + 1,
                        first: chunk,
                    }) {
                        self.map_armed(&complete)?;
                    }
                }
            }
        }
        run.map_or(Ok(()), |last| self.map_armed(&last))
    }

    fn note_mapped(&self, index: u32, chunk: ChunkNo) {
        let mut known = KnownChunk::unmapped(ChunkMap::Whole(chunk), FrameSet::EMPTY);
        known.mapped = true;
        self.budget.chunk_mapped(index, self.chunks());
        self.budget.changed(0, known.mappings_now());
        *lock(self.chunk(index)) = LiveChunk::Known(Box::new(known));
    }

    fn map_armed(&self, run: &ChunkRun) -> Result<(), CowError> {
        let (offset, size_bytes) = (
            self.ram_offset(run.indexes.start, 0),
            run.indexes.len() * CHUNK_SIZE_BYTES,
        );
        let from = run.first.byte_offset();
        self.reservation()
            .map_file(offset, size_bytes, self.pool_fd(), from, Sharing::Shared)
            .map_err(os("map a snapshot"))?;
        let start = self.address(run.indexes.start, 0);
        self.uffd
            .register_write_protect(start, size_bytes)
            .map_err(os("register a snapshot"))?;
        self.uffd
            .protect(start, size_bytes, true)
            .map_err(os("arm a snapshot"))
            .inspect(|()| fault_point(FaultPoint::RedirectOriginMapped))
    }
}
