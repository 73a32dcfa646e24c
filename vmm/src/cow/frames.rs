//! A set of frames of one chunk.

use std::ops::Range;

use super::CHUNK_FRAMES;

const WORD_BITS: usize = u64::BITS as usize;
const WORDS: usize = CHUNK_FRAMES / WORD_BITS;

/// Which of a chunk's 512 frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FrameSet([u64; WORDS]);

impl FrameSet {
    /// No frame.
    pub const EMPTY: Self = Self([0; WORDS]);
    /// Every frame.
    pub const ALL: Self = Self([u64::MAX; WORDS]);

    /// The set with these bits, lowest frame first.
    pub fn from_words(words: [u64; WORDS]) -> Self {
        Self(words)
    }

    /// Whether `frame` is in the set.
    pub fn contains(&self, frame: usize) -> bool {
        self.0[frame / WORD_BITS] & (1 << (frame % WORD_BITS)) != 0
    }

    /// Adds `frame`.
    pub fn insert(&mut self, frame: usize) {
        self.0[frame / WORD_BITS] |= 1 << (frame % WORD_BITS);
    }

    /// Takes `frame` out.
    pub fn remove(&mut self, frame: usize) {
        self.0[frame / WORD_BITS] &= !(1 << (frame % WORD_BITS));
    }

    /// Number of frames in the set.
    pub fn len(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Whether no frame is in the set.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    /// The frames in rising order.
    pub fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        (0..CHUNK_FRAMES).filter(|frame| self.contains(*frame))
    }

    /// The frames as ranges without gaps, in rising order.
    pub fn runs(&self) -> Vec<Range<usize>> {
        let mut runs: Vec<Range<usize>> = Vec::new();
        for frame in self.iter() {
            match runs.last_mut() {
                Some(run) if run.end == frame => run.end += 1,
                _ => runs.push(frame..frame + 1),
            }
        }
        runs
    }
}

impl FromIterator<usize> for FrameSet {
    fn from_iter<I: IntoIterator<Item = usize>>(frames: I) -> Self {
        let mut set = Self::EMPTY;
        for frame in frames {
            set.insert(frame);
        }
        set
    }
}
