//! In which order a vCPU writes its frames: a pure function of seed and write number, and its
//! inverse.
//!
//! Writes go in rounds: each round visits every frame of the slice once. So the last write to a
//! frame before write number `n` is in this round or in the one before, and is found without
//! remembering anything.

use crate::mix::mix;

/// The ways to walk a slice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pattern {
    /// Ascending.
    Seq,
    /// A new random permutation in each round.
    Rand,
    /// 15 of 16 writes go to the first sixteenth of the slice, the rest to the remainder; both
    /// permuted.
    Hot,
    /// Consecutive writes go to consecutive chunks (512 frames apart).
    Stride,
}

impl Pattern {
    /// The pattern's name on the console.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Seq => "seq",
            Self::Rand => "rand",
            Self::Hot => "hot",
            Self::Stride => "stride",
        }
    }

    /// The pattern with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Seq, Self::Rand, Self::Hot, Self::Stride]
            .into_iter()
            .find(|p| p.name() == name)
    }

    /// The pattern's number in the journal.
    pub const fn code(self) -> u64 {
        self as u64
    }

    /// The pattern with this number.
    pub fn from_code(code: u64) -> Option<Self> {
        [Self::Seq, Self::Rand, Self::Hot, Self::Stride]
            .into_iter()
            .find(|p| p.code() == code)
    }
}

/// The order in which one vCPU writes the `len` frames of its slice.
#[derive(Debug, Clone, Copy)]
pub struct Order {
    hot: Cycle,
    /// The frames from `hot.len` on; empty but for [`Pattern::Hot`].
    cold: Cycle,
}

/// Every 16th write of [`Pattern::Hot`] is a cold one.
const COLD_EVERY: u64 = 16;

impl Order {
    /// The order for a slice of `len` frames on a machine with `vcpus` vCPUs. `len` must not be 0.
    pub fn new(pattern: Pattern, seed: u64, len: u64, vcpus: u64) -> Self {
        let cycle = |walk, len| Cycle { walk, seed, len };
        let none = cycle(Walk::Ascending, 0);
        match pattern {
            Pattern::Seq => Self {
                hot: cycle(Walk::Ascending, len),
                cold: none,
            },
            Pattern::Rand => Self {
                hot: cycle(Walk::Permuted, len),
                cold: none,
            },
            Pattern::Stride => {
                let step = (512 / vcpus.max(1)).clamp(1, len.max(1));
                Self {
                    hot: cycle(Walk::Columns { step }, len),
                    cold: none,
                }
            }
            Pattern::Hot => {
                let hot = len.div_ceil(COLD_EVERY);
                Self {
                    hot: cycle(Walk::Permuted, hot),
                    cold: cycle(Walk::Permuted, len - hot),
                }
            }
        }
    }

    /// The frame (index in the slice) that write number `n` goes to.
    pub fn at(&self, n: u64) -> u64 {
        if self.cold.len == 0 {
            self.hot.at(n)
        } else if n.is_multiple_of(COLD_EVERY) {
            self.hot.len + self.cold.at(n / COLD_EVERY)
        } else {
            self.hot.at(n - n / COLD_EVERY - 1)
        }
    }

    /// The last write to frame `index` among writes `0..n`.
    pub fn last_before(&self, index: u64, n: u64) -> Option<u64> {
        if self.cold.len == 0 {
            return self.hot.last_before(index, n);
        }
        let cold_done = n.div_ceil(COLD_EVERY);
        if index >= self.hot.len {
            return self
                .cold
                .last_before(index - self.hot.len, cold_done)
                .map(|k| k * COLD_EVERY);
        }
        let k = self.hot.last_before(index, n - cold_done)?;
        Some(k / (COLD_EVERY - 1) * COLD_EVERY + k % (COLD_EVERY - 1) + 1)
    }
}

/// Rounds over `len` items.
#[derive(Debug, Clone, Copy)]
struct Cycle {
    walk: Walk,
    seed: u64,
    len: u64,
}

#[derive(Debug, Clone, Copy)]
enum Walk {
    Ascending,
    Permuted,
    /// Down the columns of a matrix that is `step` wide.
    Columns {
        step: u64,
    },
}

impl Cycle {
    fn at(&self, n: u64) -> u64 {
        let (round, position) = (n / self.len, n % self.len);
        match self.walk {
            Walk::Ascending => position,
            Walk::Permuted => self.permuted(round, position, false),
            Walk::Columns { step } => {
                let (full_rows, tall_columns) = (self.len / step, self.len % step);
                let tall = tall_columns * (full_rows + 1);
                if position < tall {
                    position % (full_rows + 1) * step + position / (full_rows + 1)
                } else {
                    let rest = position - tall;
                    rest % full_rows * step + tall_columns + rest / full_rows
                }
            }
        }
    }

    fn position(&self, round: u64, index: u64) -> u64 {
        match self.walk {
            Walk::Ascending => index,
            Walk::Permuted => self.permuted(round, index, true),
            Walk::Columns { step } => {
                let (full_rows, tall_columns) = (self.len / step, self.len % step);
                let (row, column) = (index / step, index % step);
                column * full_rows + column.min(tall_columns) + row
            }
        }
    }

    fn last_before(&self, index: u64, n: u64) -> Option<u64> {
        if self.len == 0 {
            return None;
        }
        let (round, done) = (n / self.len, n % self.len);
        let position = self.position(round, index);
        if position < done {
            return Some(round * self.len + position);
        }
        let before = round.checked_sub(1)?;
        Some(before * self.len + self.position(before, index))
    }

    /// A permutation of `0..len` that depends on seed and round: a Feistel network over the next
    /// power of 4, walked until it is back inside (at most a few steps, as the domain is less
    /// than 4 times as large).
    fn permuted(&self, round: u64, value: u64, inverse: bool) -> u64 {
        let half_bits = (64 - self.len.saturating_sub(1).leading_zeros())
            .div_ceil(2)
            .max(1);
        let key = mix(self.seed ^ mix(round));
        let mut value = value;
        loop {
            value = feistel(key, half_bits, value, inverse);
            if value < self.len {
                return value;
            }
        }
    }
}

fn feistel(key: u64, half_bits: u32, value: u64, inverse: bool) -> u64 {
    let mask = (1u64 << half_bits) - 1;
    let (mut left, mut right) = (value >> half_bits, value & mask);
    for step in 0..4u64 {
        if inverse {
            (left, right) = (right ^ (mix(key ^ left ^ ((3 - step) << 60)) & mask), left);
        } else {
            (left, right) = (right, left ^ (mix(key ^ right ^ (step << 60)) & mask));
        }
    }
    (left << half_bits) | right
}

#[cfg(test)]
#[path = "order_test.rs"]
mod order_test;
