//! Counts of times, by powers of two.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Counter;

/// Buckets with an upper bound; one more is for all that took longer.
const BOUNDED: usize = 25;
/// Buckets in all.
pub const BUCKETS: usize = BOUNDED + 1;

/// Counts times by their length: bucket `n` has those of at most 2^n µs that are in none before it,
/// the last one those of more than 16.8 s.
#[derive(Debug, Default)]
pub struct Histogram {
    counts: [Counter; BUCKETS],
    sum_ns: Counter,
}

impl Histogram {
    /// Counts one more time.
    pub fn record(&self, took: Duration) {
        let ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.counts[bucket_of(ns)].one();
        self.sum_ns.add(ns);
    }

    /// The counts so far. A time that is recorded at this moment may be in the counts and not yet
    /// in the sum.
    pub fn buckets(&self) -> Buckets {
        Buckets {
            counts: self.counts.iter().map(Counter::get).collect(),
            sum_us: self.sum_ns.get() as f64 / 1e3,
        }
    }
}

/// The first bucket whose bound is not less.
fn bucket_of(ns: u64) -> usize {
    let us = ns.div_ceil(1000);
    let power = u64::BITS - us.saturating_sub(1).leading_zeros();
    (power as usize).min(BOUNDED)
}

/// A [`Histogram`] at one moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Buckets {
    /// Number of times in bucket n: of at most 2^n µs, and more than half of that unless n is 0.
    /// The last bucket, number 25, has no bound.
    pub counts: Vec<u64>,
    /// All times together, in microseconds.
    pub sum_us: f64,
}

impl Buckets {
    /// Those that came after `before`.
    pub fn since(&self, before: &Self) -> Self {
        let earlier = before.counts.iter().copied().chain(std::iter::repeat(0));
        let counts = self.counts.iter().zip(earlier);
        Self {
            counts: counts.map(|(now, before)| now - before).collect(),
            sum_us: self.sum_us - before.sum_us,
        }
    }

    /// Number of all times.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The mean in microseconds; `None` when there are none.
    pub fn mean_us(&self) -> Option<f64> {
        let count = self.count();
        (count > 0).then(|| self.sum_us / count as f64)
    }

    /// The largest time that bucket `index` counts, in microseconds; `None`: it counts any.
    pub fn bound_us(index: usize) -> Option<u64> {
        (index < BOUNDED).then(|| 1 << index)
    }

    /// The bound below which `share` (0 to 1) of the times are, in microseconds: no more than twice
    /// what it was. `None` when there are none, or when it is beyond the last bound.
    pub fn bound_of_share_us(&self, share: f64) -> Option<u64> {
        let wanted = (self.count() as f64 * share).ceil().max(1.0) as u64;
        let mut seen = 0;
        let found = self.counts.iter().position(|count| {
            seen += count;
            seen >= wanted
        });
        found.and_then(Self::bound_us)
    }
}

#[cfg(test)]
#[path = "histogram_test.rs"]
mod histogram_test;
