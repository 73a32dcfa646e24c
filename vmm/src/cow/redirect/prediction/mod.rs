//! Frames that the guest is likely to write next, by what it wrote before.
//!
//! The time from one snapshot to the next is an *epoch*. Of each chunk the engine remembers
//! ([`WriteHistory`]):
//! * frames that are written in epoch after epoch: they are copied ahead of the guest;
//! * a frame that was written alone: it is copied alone;
//! * the last cluster that was copied: a fault at its end takes twice as many frames.
//!
//! Of all of memory it remembers stretches that the guest touches for the first time, one frame
//! after the other ([`FreshRuns`]), and those that it writes so ([`DenseWrites`]).

mod dense;
mod fresh;
mod hot_frames;
mod single_frame;

use std::{
    ops::Range,
    sync::{Mutex, MutexGuard},
    time::{Duration, Instant},
};

use nvvmm_snapshot::{ChunkIndex, FrameIndex, FrameSet};

use self::{
    dense::DenseWrites, fresh::FreshRuns, hot_frames::HotFrames, single_frame::SingleFrame,
};
use super::mapping::aligned_around;
use crate::cow::{Budget, CHUNK_FRAMES, Techniques, counters::lock};

/// Longer epochs are forgotten: a copy that is not needed costs memory, and a fault in seconds
/// costs nothing.
const EPOCH_MAX: Duration = Duration::from_secs(2);
/// Own frames of a chunk from which on the guest is taken to write most of the others, too.
const DENSE_OWN_FRAMES: u32 = CHUNK_FRAMES / 2;
/// Frames to copy at once from which on all of the chunk is copied.
const DENSE_COPY_FRAMES: u32 = CHUNK_FRAMES * 3 / 4;
/// Both, where the copy is likely to be one huge page. It costs less than faults for half of the
/// other frames would, and wrong guesses copy no more than four times what was wanted.
const DENSE_FOR_ONE_PAGE: u32 = CHUNK_FRAMES / 4;

/// Counts epochs, and remembers chunks with hot frames.
#[derive(Debug)]
pub(super) struct Prediction {
    techniques: Techniques,
    rhythm: Mutex<Rhythm>,
    fresh: Mutex<FreshRuns>,
    dense: Mutex<DenseWrites>,
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
            dense: Mutex::default(),
        }
    }

    /// Frames, a power of two, that a write to frame number `at` is likely to begin.
    pub fn frames_ahead(&self, at: u64) -> u32 {
        if self.techniques.dense_chunks {
            lock(&self.dense).frames_ahead(at)
        } else {
            1
        }
    }

    /// Notes that all frames from `at` to `end` are copied, since frame `at` was written.
    pub fn note_copied(&self, at: u64, end: u64) {
        lock(&self.dense).note(at, end);
    }

    /// Notes that all frames from `from` to `end` are copied, too, which nobody has written yet.
    pub fn note_copied_next(&self, from: u64, end: u64) {
        lock(&self.dense).extend(from, end);
    }

    /// True if a chunk is likely to be written so densely that it is best copied as a whole: `own`
    /// frames of it were copied since the snapshot, and `wanted` others are to be copied now. The
    /// copy is likely to be `one_page`.
    pub fn is_dense(&self, own: u32, wanted: u32, one_page: bool) -> bool {
        // A copy that was never snapshotted may write little in all, and is to take little memory.
        let (least_own, least_wanted) = if one_page && lock(&self.rhythm).epoch > 0 {
            (DENSE_FOR_ONE_PAGE, DENSE_FOR_ONE_PAGE)
        } else {
            (DENSE_OWN_FRAMES, DENSE_COPY_FRAMES)
        };
        // If nothing is left afterwards, only what is wanted needs a copy.
        let goes_on = own >= least_own && own + wanted < CHUNK_FRAMES;
        self.techniques.dense_chunks && (goes_on || wanted >= least_wanted)
    }

    /// True if chunks may be copied as a whole.
    pub fn copies_densely(&self) -> bool {
        self.techniques.dense_chunks
    }

    /// True if chunks may be copied before the guest writes them.
    pub fn copies_next(&self) -> bool {
        self.techniques.next_chunks
    }

    /// Notes that a chunk of `chunks` was copied whole, when `frames` were to be copied.
    pub fn go_on_behind(&self, index: ChunkIndex, frames: u32, chunks: u32) {
        lock(&self.dense).go_on_behind(index, frames, chunks);
    }

    /// The next chunk that is to be copied before the guest writes it, and the number of those
    /// behind it. Each is returned once.
    pub fn take_next(&self) -> Option<(ChunkIndex, u32)> {
        lock(&self.dense).take_next()
    }

    /// Ends copying the next chunks, until the next fault.
    pub fn stop_next(&self) {
        lock(&self.dense).stop();
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
    ///
    /// `ahead` is the number of frames that the write is likely to begin.
    pub fn frames_to_copy(&mut self, frame: FrameIndex, ahead: u32, budget: &Budget) -> Range<u32> {
        if self.single.is_expected(frame) && budget.allows_single_frames() {
            return frame.get()..frame.get() + 1;
        }
        let cluster = self.cluster_around(frame, budget);
        if ahead > cluster.len() as u32 {
            self.last_cluster = aligned_around(frame, ahead.min(CHUNK_FRAMES));
        }
        self.last_cluster.clone()
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
