//! Time for which the pool's locks were held and waited for, and work that was done under them.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

thread_local! {
    /// True while this thread has the catalog lock of some pool.
    static HAS_CATALOG_LOCK: Cell<bool> = const { Cell::new(false) };
}

/// Measurements of one process since it opened a pool.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LockUse {
    /// The longest time for which it had the catalog lock.
    pub longest_held: Duration,
    /// The longest time that it waited for the catalog lock.
    pub longest_wait: Duration,
    /// The number of times that it took the catalog lock.
    pub times_taken: u64,
    /// Bytes of freed blocks that it punched or zeroed.
    pub bytes_cleaned: u64,
    /// Those of them that it punched or zeroed while it had the catalog lock.
    pub bytes_cleaned_locked: u64,
}

/// Counts it.
#[derive(Debug, Default)]
pub(crate) struct LockTimes {
    longest_held_ns: AtomicU64,
    longest_wait_ns: AtomicU64,
    times_taken: AtomicU64,
    bytes_cleaned: AtomicU64,
    bytes_cleaned_locked: AtomicU64,
}

/// A time for which the catalog lock is held, by this thread.
#[derive(Debug)]
pub(crate) struct Held {
    since: Instant,
}

impl LockTimes {
    /// The lock was taken, after a wait since `asked`.
    pub(crate) fn taken(&self, asked: Instant) -> Held {
        HAS_CATALOG_LOCK.set(true);
        let since = Instant::now();
        longest(&self.longest_wait_ns, since - asked);
        self.times_taken.fetch_add(1, Ordering::Relaxed);
        Held { since }
    }

    /// The lock is given back.
    pub(crate) fn given_back(&self, held: &Held) {
        HAS_CATALOG_LOCK.set(false);
        longest(&self.longest_held_ns, held.since.elapsed());
    }

    /// Freed blocks were punched or zeroed.
    pub(crate) fn cleaned(&self, bytes: u64) {
        self.bytes_cleaned.fetch_add(bytes, Ordering::Relaxed);
        if HAS_CATALOG_LOCK.get() {
            self.bytes_cleaned_locked
                .fetch_add(bytes, Ordering::Relaxed);
        }
    }

    pub(crate) fn so_far(&self) -> LockUse {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        LockUse {
            longest_held: Duration::from_nanos(get(&self.longest_held_ns)),
            longest_wait: Duration::from_nanos(get(&self.longest_wait_ns)),
            times_taken: get(&self.times_taken),
            bytes_cleaned: get(&self.bytes_cleaned),
            bytes_cleaned_locked: get(&self.bytes_cleaned_locked),
        }
    }
}

fn longest(counter: &AtomicU64, time: Duration) {
    let ns = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    counter.fetch_max(ns, Ordering::Relaxed);
}
