//! Which frames of a chunk the guest writes in epoch after epoch, an epoch being the time from one
//! snapshot to the next.
//!
//! Frames written in two epochs running are hot: the next snapshots have them copied before the
//! guest writes them. A copy made ahead hides whether the guest would have written, so now and then
//! an epoch goes without, and its faults tell. If the frames are hot still, it takes longer until
//! the next such look.

use nvvmm_snapshot::FrameSet;

/// Epochs from one look to the next, at most: so many copies are made for a guest that has just
/// stopped writing.
const SPAN_MAX: u32 = 64;
/// How much longer it takes until the next look, if the frames are hot still.
const SPAN_GROWTH: u32 = 4;

/// What is known of one chunk's frames.
#[derive(Clone, Debug, Default)]
pub(super) struct Heat {
    /// The last epoch in which the chunk was written.
    epoch: u64,
    /// Frames that the guest itself had made the VM's own in it.
    written: FrameSet,
    hot: FrameSet,
    /// Frames copied ahead in the epoch under way.
    ahead: FrameSet,
    /// Epochs from one look to the next.
    span: u32,
    /// Those that are left.
    left: u32,
}

impl Heat {
    /// An epoch ends, with these frames the VM's own.
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

    /// What is to be copied ahead in the epoch under way.
    pub fn expected(&self) -> FrameSet {
        if self.left > 0 {
            self.hot
        } else {
            FrameSet::EMPTY
        }
    }

    /// These were copied, and nobody knows whether the guest would have written them.
    pub fn copied_ahead(&mut self, frames: &FrameSet) {
        self.ahead = self.ahead.union(frames);
    }
}

#[cfg(test)]
#[path = "heat_test.rs"]
mod heat_test;
