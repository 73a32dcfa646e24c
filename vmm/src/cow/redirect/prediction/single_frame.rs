//! Chunks in which the guest writes a single frame in each epoch, as an idle guest does.
//!
//! With a cluster around that frame, each snapshot would be sixteen times as large as what was
//! written. So a frame is copied alone if its fault is the chunk's first one in this epoch, and was
//! the only one in the last epoch that had faults. If others follow, that guess has cost one fault,
//! and the next guesses are made more and more seldom.

use nvvmm_snapshot::FrameIndex;

/// Epochs without a guess after a wrong one, at most.
const SPAN_MAX: u32 = 64;
/// Factor by which that time grows with each wrong guess in turn.
const SPAN_GROWTH: u32 = 4;

/// A chunk's write faults in one epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Faults {
    #[default]
    None,
    One(FrameIndex),
    Many,
}

/// Write faults of one chunk, as far as they tell whether a single frame is written.
#[derive(Clone, Debug, Default)]
pub(super) struct SingleFrame {
    /// Faults in the last epoch that had any.
    before: Faults,
    /// Faults in the epoch under way.
    now: Faults,
    guessed: bool,
    /// Epochs with faults that pass without a guess after the next wrong one.
    span: u32,
    /// Epochs that are left until a guess is made again.
    left: u32,
}

impl SingleFrame {
    /// Notes that the guest's write to `frame` is held. Returns true if the frame is likely to be
    /// the chunk's only one in this epoch.
    pub fn is_expected(&mut self, frame: FrameIndex) -> bool {
        let first = self.now == Faults::None;
        self.now = if first {
            Faults::One(frame)
        } else {
            Faults::Many
        };
        let expected = first && self.left == 0 && self.before == Faults::One(frame);
        self.guessed |= expected;
        expected
    }

    /// Ends an epoch.
    pub fn end_epoch(&mut self) {
        if self.now == Faults::None {
            return;
        }
        if self.guessed && self.now == Faults::Many {
            self.span = (self.span * SPAN_GROWTH).clamp(1, SPAN_MAX);
            self.left = self.span;
        } else {
            self.left = self.left.saturating_sub(1);
            if self.guessed {
                self.span = 0;
            }
        }
        self.guessed = false;
        self.before = std::mem::take(&mut self.now);
    }
}

#[cfg(test)]
#[path = "single_frame_test.rs"]
mod single_frame_test;
