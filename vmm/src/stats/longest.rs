//! The longest of many times.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// Keeps the longest time of all, and the longest since somebody began to watch.
#[derive(Debug, Default)]
pub struct Longest {
    all_ns: AtomicU64,
    watched_ns: AtomicU64,
}

impl Longest {
    /// Notes one more time.
    pub fn record(&self, took: Duration) {
        let ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.all_ns.fetch_max(ns, Ordering::Relaxed);
        self.watched_ns.fetch_max(ns, Ordering::Relaxed);
    }

    /// The longest so far, in microseconds; 0 when there were none.
    pub fn all_us(&self) -> f64 {
        self.all_ns.load(Ordering::Relaxed) as f64 / 1e3
    }

    /// Forgets what was watched so far. One watches at a time.
    pub fn watch(&self) {
        self.watched_ns.store(0, Ordering::Relaxed);
    }

    /// The longest since [`Longest::watch`], in microseconds; 0 when there were none.
    pub fn watched_us(&self) -> f64 {
        self.watched_ns.load(Ordering::Relaxed) as f64 / 1e3
    }
}

#[cfg(test)]
#[path = "longest_test.rs"]
mod longest_test;
