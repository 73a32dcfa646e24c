//! Frames that the guest is likely to write next, by what it wrote before.
//!
//! The time from one snapshot to the next is an *epoch*. Of each chunk the engine remembers
//! ([`WriteHistory`]):
//! * frames that are written in epoch after epoch: they are copied ahead of the guest;
//! * a frame that was written alone: it is copied alone;
//! * the last cluster that was copied: a fault at its end takes twice as many frames.
//!
//! Of all of memory it remembers stretches that the guest touches for the first time, one frame
//! after the other ([`FreshRuns`]).

mod fresh;
mod hot_frames;
mod single_frame;

use std::{
    ops::Range,
    sync::{Mutex, MutexGuard},
    time::{Duration, Instant},
};

use nvvmm_snapshot::{ChunkIndex, FrameIndex, FrameSet};

use self::{fresh::FreshRuns, hot_frames::HotFrames, single_frame::SingleFrame};
use super::mapping::aligned_around;
use crate::cow::{Budget, Techniques, counters::lock};

/// Longer epochs are forgotten: a copy that is not needed costs memory, and a fault in seconds
/// costs nothing.
const EPOCH_MAX: Duration = Duration::from_secs(2);

/// Counts epochs, and remembers chunks with hot frames.
#[derive(Debug)]
pub(super) struct Prediction {
    techniques: Techniques,
    rhythm: Mutex<Rhythm>,
    fresh: Mutex<FreshRuns>,
}

/// Snapshots in a rhythm.
#[derive(Debug, Default)]
struct Rhythm {
    /// Number of the epoch that ended last. A long one counts twice, so that the epoch before it is
    /// no neighbour.
    epoch: u64,
    ended: Option<Instant>,
    /// True if the last epoch was no long one.
    quick: bool,
    /// Chunks with hot frames, to be copied ahead.
    hot: Vec<ChunkIndex>,
}

/// The end of an epoch: each chunk that was written is told of it.
pub(super) struct EpochEnd<'a> {
    rhythm: MutexGuard<'a, Rhythm>,
    copy_hot: bool,
}

impl Prediction {
    pub fn new(techniques: Techniques) -> Self {
        Self {
            techniques,
            rhythm: Mutex::default(),
            fresh: Mutex::default(),
        }
    }

    /// Frames, a power of two, that get memory for the first touch of frame number `at`.
    pub fn fresh_frames(&self, at: u64, budget: &Budget) -> u32 {
        let ahead = lock(&self.fresh).frames_ahead(at);
        // The budget makes a cluster twice as large as the last one, if it makes any larger.
        budget.cluster_frames((ahead > 1).then_some(ahead / 2))
    }

    /// Notes that all frames from `at` to `end` have memory, since frame `at` was touched.
    pub fn note_fresh(&self, at: u64, end: u64) {
        lock(&self.fresh).note(at, end);
    }

    /// True if frames may be armed ahead of a snapshot.
    pub fn arms_ahead(&self) -> bool {
        self.techniques.arm_ahead
    }

    /// True if hot frames are copied ahead of the guest.
    #[cfg(test)]
    pub fn copies_hot(&self) -> bool {
        self.techniques.copy_hot
    }

    /// True if snapshots come in a quick rhythm.
    pub fn is_quick(&self) -> bool {
        lock(&self.rhythm).quick
    }

    /// Ends an epoch now.
    pub fn end_epoch(&self) -> EpochEnd<'_> {
        let mut rhythm = lock(&self.rhythm);
        let now = Instant::now();
        let short = rhythm.ended.is_some_and(|ended| now - ended <= EPOCH_MAX);
        rhythm.ended = Some(now);
        rhythm.quick = short;
        rhythm.epoch += if short { 1 } else { 2 };
        rhythm.hot.clear();
        EpochEnd {
            rhythm,
            copy_hot: self.techniques.copy_hot,
        }
    }

    /// Chunks with hot frames, which are to be copied ahead in this epoch. Each is returned once.
    pub fn take_hot_chunks(&self) -> Vec<ChunkIndex> {
        std::mem::take(&mut lock(&self.rhythm).hot)
    }
}

impl EpochEnd<'_> {
    /// Ends the epoch for a chunk, of which frames are own now.
    pub fn of_chunk(&mut self, index: ChunkIndex, history: &mut WriteHistory, own: &FrameSet) {
        history.single.end_epoch();
        if self.copy_hot {
            history.hot.end_epoch(self.rhythm.epoch, own);
            if !history.expected().is_empty() {
                self.rhythm.hot.push(index);
            }
        }
    }
}

/// Writes of the guest to one chunk.
#[derive(Clone, Debug, Default)]
pub(super) struct WriteHistory {
    hot: HotFrames,
    single: SingleFrame,
    /// Frames that the last write fault dealt with.
    last_cluster: Range<u32>,
}

impl WriteHistory {
    /// Frames that are to be copied ahead in the epoch under way.
    pub fn expected(&self) -> FrameSet {
        self.hot.expected()
    }

    /// Notes that frames were copied ahead: nobody knows whether the guest would have written
    /// them.
    pub fn copied_ahead(&mut self, frames: &FrameSet) {
        self.hot.copied_ahead(frames);
    }

    /// Frames to copy for a write to `frame` that is held: the frame alone if it is likely to be
    /// the chunk's only one in this epoch, else a cluster.
    pub fn frames_to_copy(&mut self, frame: FrameIndex, budget: &Budget) -> Range<u32> {
        if self.single.is_expected(frame) && budget.allows_single_frames() {
            frame.get()..frame.get() + 1
        } else {
            self.cluster_around(frame, budget)
        }
    }

    /// The cluster that a fault at `frame` deals with. It is larger the longer faults go on where
    /// the last ones ended.
    pub fn cluster_around(&mut self, frame: FrameIndex, budget: &Budget) -> Range<u32> {
        let goes_on = self.last_cluster.end == frame.get();
        let last = goes_on.then_some(self.last_cluster.len() as u32);
        self.last_cluster = aligned_around(frame, budget.cluster_frames(last));
        self.last_cluster.clone()
    }
}
