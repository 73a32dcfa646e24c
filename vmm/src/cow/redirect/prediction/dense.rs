//! Guests that write most of their memory, one chunk after the other.
//!
//! For example, a guest rewrites a table of 1 GiB from its start to its end. After a snapshot each
//! of its chunks is copied anyway, so it is best copied as a whole, before the guest comes to it. A
//! *run* is memory that the guest has written without a gap since the snapshot. A fault at the end
//! of a run copies half as many frames as the run has. What is copied in vain is then at most half
//! of what was written, and a cluster.
//!
//! Chunks beyond that of the fault are copied after the guest goes on: it writes one chunk while
//! the next one is copied.

use std::ops::Range;

use nvvmm_snapshot::ChunkIndex;

use super::fresh::FreshRuns;
use crate::cow::CHUNK_FRAMES;

/// Chunks copied for one fault, that of the fault included: 16 MiB.
const CHUNKS_AT_ONCE: u32 = 8;

/// Runs of written memory, and chunks that are to be copied next.
#[derive(Debug, Default)]
pub(super) struct DenseWrites {
    runs: FreshRuns,
    next: Range<u32>,
}

impl DenseWrites {
    /// Frames, a power of two, to copy for a write to frame number `at` that is held.
    pub fn frames_ahead(&self, at: u64) -> u32 {
        self.runs.frames_ahead(at)
    }

    /// Notes that frames from `at` to `end` were copied, since frame `at` was written.
    pub fn note(&mut self, at: u64, end: u64) {
        self.runs.note(at, end);
    }

    /// Notes that a chunk was copied whole since its first frame was written, as half of the run
    /// has `frames`. The chunks behind it are next, as far as `frames` go.
    pub fn go_on_behind(&mut self, index: ChunkIndex, frames: u32, chunks: u32) {
        let count = (frames / CHUNK_FRAMES).min(CHUNKS_AT_ONCE);
        let first = index.get() + 1;
        self.next = first..(index.get() + count).min(chunks).max(first);
    }

    /// The next chunk to be copied ahead, and the number of those behind it. Each is returned once.
    pub fn take_next(&mut self) -> Option<(ChunkIndex, u32)> {
        let next = self.next.next()?;
        Some((ChunkIndex::new(next), self.next.len() as u32))
    }

    /// Ends copying ahead, until the next fault.
    pub fn stop(&mut self) {
        self.next = 0..0;
    }
}

#[cfg(test)]
#[path = "dense_test.rs"]
mod dense_test;
