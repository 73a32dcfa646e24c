//! Chunks in which the guest writes a single frame from one snapshot to the next, as an idle guest
//! does.
//!
//! A cluster around that frame would make each snapshot sixteen times as large as what was written.
//! So a frame whose fault was the chunk's only one in the last epoch that had any is copied alone
//! when it is the first one again. If others follow, that guess costs one fault; it is then
//! made more and more seldom.

/// Epochs in which no guess is made after one was wrong, at most.
const SPAN_MAX: u32 = 64;
/// How much longer that is after each wrong guess in turn.
const SPAN_GROWTH: u32 = 4;

/// A chunk's write faults in one epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Faults {
    #[default]
    None,
    One(u32),
    Many,
}

/// What is known of one chunk.
#[derive(Clone, Debug, Default)]
pub(super) struct LoneFrame {
    /// In the last epoch that had any.
    before: Faults,
    /// In the epoch under way.
    now: Faults,
    guessed: bool,
    /// Epochs with faults that go by without a guess after the next wrong one.
    span: u32,
    /// Those that are left.
    left: u32,
}

impl LoneFrame {
    /// The guest's write to `frame` is held. Whether it is likely to be the chunk's only one in
    /// this epoch.
    pub fn is_expected_alone(&mut self, frame: u32) -> bool {
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

    /// An epoch ends.
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
#[path = "lone_test.rs"]
mod lone_test;
