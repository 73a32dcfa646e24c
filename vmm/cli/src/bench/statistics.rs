//! Median and range of repeated measurements.

use serde::{Deserialize, Serialize};

/// Median, smallest and largest of several measurements.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// The middle one; between two middle ones, half way.
    pub median: f64,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
    /// Number of measurements.
    pub count: usize,
}

impl Spread {
    /// Computes the spread of these measurements; `None` when there are none.
    pub fn of(measured: &[f64]) -> Option<Self> {
        let mut sorted = measured.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let middle = sorted.len() / 2;
        let median = if sorted.len() % 2 == 1 {
            sorted[middle]
        } else {
            f64::midpoint(sorted[middle - 1], sorted[middle])
        };
        Some(Self {
            median,
            min,
            max,
            count: sorted.len(),
        })
    }
}

/// Ratios of the first to the second, repetition by repetition: what disturbs a repetition
/// as a whole disturbs both.
pub fn ratios(of: &[f64], to: &[f64]) -> Vec<f64> {
    of.iter().zip(to).map(|(of, to)| of / to).collect()
}

#[cfg(test)]
#[path = "statistics_test.rs"]
mod statistics_test;
