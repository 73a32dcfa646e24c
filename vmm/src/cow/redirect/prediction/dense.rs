//! Guests that write most of their memory, one chunk after the other.
//!
//! For example, a guest rewrites a table of 1 GiB from its start to its end. After a snapshot each
//! of its chunks is copied anyway, so it is best copied as a whole, before the guest comes to it. A
//! *run* is memory that the guest has written without a gap since the snapshot. A fault at the end
//! of a run copies half as many frames as the run has. What is copied in vain is then at most half
//! of what was written, and a cluster.
//!
//! A snapshot interrupts a run: the guest goes on somewhere in the cluster that was copied last,
//! and finds it shared. From there the run goes on, but as a short one: who writes at random may
//! come there, too.
//!
//! Chunks beyond that of the fault are copied after the guest goes on: it writes one chunk while
//! the next one is copied.

use std::ops::Range;

use nvvmm_snapshot::ChunkIndex;

use crate::cow::CHUNK_FRAMES;

/// Runs that are remembered: more than one vCPU may write.
const RUNS: usize = 8;
/// Frames of a run, at most, that goes on after a snapshot: it copies one chunk at once.
const INTERRUPTED_MAX: u64 = 2 * CHUNK_FRAMES as u64;

/// Chunks copied for one fault, that of the fault included: 16 MiB.
const CHUNKS_AT_ONCE: u32 = 8;

/// Frames that were copied without a gap, by number in RAM.
#[derive(Clone, Copy, Debug, Default)]
struct Run {
    start: u64,
    /// The last frame that was written, and the end of what was copied for it.
    at: u64,
    end: u64,
}

impl Run {
    /// The run that a write to frame `at` goes on with, if it is this one.
    fn reaching(&self, at: u64) -> Option<Run> {
        let interrupted = self.at < at && at < self.end;
        (self.end == at || interrupted).then(|| Run {
            start: if interrupted {
                self.start.max(at.saturating_sub(INTERRUPTED_MAX))
            } else {
                self.start
            },
            ..*self
        })
    }
}

/// Runs of written memory, the newest first, and chunks that are to be copied next.
#[derive(Debug, Default)]
pub(super) struct DenseWrites {
    runs: [Run; RUNS],
    next: Range<u32>,
}

impl DenseWrites {
    /// Frames, a power of two, to copy for a write to frame number `at` that is held.
    pub fn frames_ahead(&self, at: u64) -> u32 {
        let run = self.runs.iter().find_map(|run| run.reaching(at));
        let half = run.map_or(0, |run| (at - run.start) / 2);
        half.checked_ilog2().map_or(1, |log| 1 << log.min(30))
    }

    /// Notes that frames from `at` to `end` were copied, since frame `at` was written.
    pub fn note(&mut self, at: u64, end: u64) {
        let known = self.runs.iter().position(|run| run.reaching(at).is_some());
        let run = known.and_then(|place| self.runs[place].reaching(at));
        let start = run.map_or(at, |run| run.start);
        self.runs[..=known.unwrap_or(RUNS - 1)].rotate_right(1);
        self.runs[0] = Run { start, at, end };
    }

    /// Notes that frames from `from` to `end` were copied, too, which nobody has written yet.
    pub fn extend(&mut self, from: u64, end: u64) {
        if let Some(run) = self.runs.iter_mut().find(|run| run.end == from) {
            run.end = end;
        }
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
