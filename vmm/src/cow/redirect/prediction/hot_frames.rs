//! Frames of a chunk that the guest writes in epoch after epoch.
//!
//! Frames written in two epochs running are hot: after the next snapshots they are copied before
//! the guest writes them. A copy made ahead hides whether the guest would have written. So now and
//! then nothing is copied ahead for one epoch, the *probe*, and its faults show what is hot still.
//! If the frames are hot still, it takes longer until the next probe.

use nvvmm_snapshot::FrameSet;

/// Epochs from one probe to the next, at most. For a guest that has just stopped writing so many
/// epochs of copies are made in vain.
const SPAN_MAX: u32 = 64;
/// Factor by which the time to the next probe grows, if the frames are hot still.
const SPAN_GROWTH: u32 = 4;

/// Frames of one chunk, by the epochs in which they were written.
#[derive(Clone, Debug, Default)]
pub(super) struct HotFrames {
    /// The last epoch in which the chunk was written.
    epoch: u64,
    /// Frames that the guest itself had made the VM's own in it.
    written: FrameSet,
    hot: FrameSet,
    /// Frames copied ahead in the epoch under way.
    ahead: FrameSet,
    /// Epochs from one probe to the next.
    span: u32,
    /// Epochs that are left until the next probe.
    left: u32,
}

impl HotFrames {
    /// Ends an epoch, in which frames `own` are the VM's own now.
    pub fn end_epoch(&mut self, epoch: u64, own: &FrameSet) {
        if self.epoch + 1 != epoch {
            *self = Self::default();
        }
        self.epoch = epoch;
        let written = own.minus(&self.ahead);
        let before = self.written.union(&self.hot);
        if self.left > 0 {
            self.left -= 1;
            self.hot = self.hot.union(&written.intersection(&self.written));
        } else {
            let hot = written.intersection(&before);
            let stable = hot.count() * 2 > self.hot.count();
            self.span = match (hot.is_empty(), stable) {
                (true, _) => 0,
                (false, true) => (self.span * SPAN_GROWTH).clamp(1, SPAN_MAX),
                (false, false) => 1,
            };
            self.left = self.span;
            self.hot = hot;
        }
        self.written = written;
        self.ahead = FrameSet::EMPTY;
    }

    /// Frames that are to be copied ahead in the epoch under way.
    pub fn expected(&self) -> FrameSet {
        if self.left > 0 {
            self.hot
        } else {
            FrameSet::EMPTY
        }
    }

    /// Notes that frames were copied ahead.
    pub fn copied_ahead(&mut self, frames: &FrameSet) {
        self.ahead = self.ahead.union(frames);
    }
}

#[cfg(test)]
#[path = "hot_frames_test.rs"]
mod hot_frames_test;
