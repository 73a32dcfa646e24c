//! Limits of bytes and of requests per second: token buckets, filled at a steady pace.
//!
//! A request that finds too little in a bucket stays in its ring, and its queue waits. Nothing
//! blocks: a timer wakes the queue when the bucket has enough. Of several queues that wait, one
//! request each is served in turn.

use std::collections::VecDeque;
use std::io;
use std::num::NonZeroU64;
use std::os::fd::RawFd;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::sys::Timer;

const NS_PER_S: i128 = 1_000_000_000;
/// Time for a queue that was woken to ask again. One that does not was reset by the guest.
const GRACE: Duration = Duration::from_millis(50);

/// Most that a disk does in a second; none: as much as it can.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskRate {
    /// Bytes that are read and written, zeros included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_per_s: Option<NonZeroU64>,
    /// Requests of any kind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests_per_s: Option<NonZeroU64>,
}

impl DiskRate {
    /// True when nothing is limited.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

/// Tokens, of which so many come in each second. Those of one second can be saved up. Amounts are
/// in tokens times nanoseconds, so that no time is too short to count.
#[derive(Debug)]
struct Bucket {
    per_s: i128,
    /// Negative after a request that costs more than the bucket has room for.
    level: i128,
    filled_at: Duration,
}

impl Bucket {
    fn new(per_s: NonZeroU64, now: Duration) -> Self {
        let per_s = i128::from(per_s.get());
        Self {
            per_s,
            level: per_s * NS_PER_S,
            filled_at: now,
        }
    }

    fn fill(&mut self, now: Duration) {
        let passed = now.saturating_sub(self.filled_at).as_nanos();
        let passed_ns = i128::try_from(passed.min(u128::from(u64::MAX))).unwrap_or(0);
        self.level = (self.level + self.per_s * passed_ns).min(self.per_s * NS_PER_S);
        self.filled_at = now;
    }

    /// Time until a request with this cost can begin. One that costs more than the bucket has room
    /// for needs a full one.
    fn wait(&self, cost: u64) -> Duration {
        let needed = (i128::from(cost) * NS_PER_S).min(self.per_s * NS_PER_S);
        let missing = (needed - self.level).max(0);
        let wait_ns = (missing + self.per_s - 1) / self.per_s;
        Duration::from_nanos(u64::try_from(wait_ns).unwrap_or(u64::MAX))
    }

    fn take(&mut self, cost: u64) {
        self.level -= i128::from(cost) * NS_PER_S;
    }
}

/// The buckets of one device, and the queues that wait for them.
pub(super) struct Throttle {
    bytes: Option<Bucket>,
    requests: Option<Bucket>,
    began: Instant,
    timer: Timer,
    /// Queues with a request that was refused, in the order of their turns.
    waiting: VecDeque<usize>,
    /// The first of them was woken and has not asked since.
    is_called: bool,
    wakes: u64,
}

impl Throttle {
    /// # Errors
    /// The host has no timer.
    pub(super) fn new(rate: DiskRate) -> io::Result<Self> {
        let bucket = |per_s: Option<NonZeroU64>| per_s.map(|n| Bucket::new(n, Duration::ZERO));
        Ok(Self {
            bytes: bucket(rate.bytes_per_s),
            requests: bucket(rate.requests_per_s),
            began: Instant::now(),
            timer: Timer::new()?,
            waiting: VecDeque::new(),
            is_called: false,
            wakes: 0,
        })
    }

    /// Readable when a queue can go on.
    pub(super) fn events(&self) -> RawFd {
        self.timer.fd()
    }

    /// Asks for a request of `queue`. False when it has to stay in its ring: the queue is woken
    /// later.
    pub(super) fn admit(&mut self, queue: usize, bytes: u64) -> bool {
        self.admit_at(queue, bytes, self.began.elapsed())
    }

    fn admit_at(&mut self, queue: usize, bytes: u64, now: Duration) -> bool {
        match self.waiting.front() {
            Some(&first) if first != queue => {
                if !self.waiting.contains(&queue) {
                    self.waiting.push_back(queue);
                }
                return false;
            }
            first => self.is_called &= first.is_none(),
        }
        let wait = self.wait(bytes, now);
        if !wait.is_zero() && self.wake_after(wait) {
            if self.waiting.is_empty() {
                self.waiting.push_back(queue);
            }
            return false;
        }
        { self.bytes.iter_mut() }.for_each(|bucket| bucket.take(bytes));
        { self.requests.iter_mut() }.for_each(|bucket| bucket.take(1));
        if self.waiting.pop_front().is_some() {
            self.call_first();
        }
        true
    }

    fn wait(&mut self, bytes: u64, now: Duration) -> Duration {
        let buckets = [(&mut self.bytes, bytes), (&mut self.requests, 1)];
        let waits = buckets.into_iter().filter_map(|(bucket, cost)| {
            let bucket = bucket.as_mut()?;
            bucket.fill(now);
            Some(bucket.wait(cost))
        });
        waits.max().unwrap_or_default()
    }

    /// False when there is no timer for it: nobody may wait then.
    fn wake_after(&self, wait: Duration) -> bool {
        let set = self.timer.set(wait);
        if let Err(error) = &set {
            tracing::error!(%error, "a device's rate cannot be limited");
        }
        set.is_ok()
    }

    /// Wakes the queue whose turn it is.
    fn call_first(&mut self) {
        if let Some(&first) = self.waiting.front() {
            self.wakes |= 1_u64 << first;
            self.is_called = self.wake_after(GRACE);
        }
    }

    /// The timer has fired.
    pub(super) fn on_timer(&mut self) {
        self.timer.stop();
        if std::mem::take(&mut self.is_called) {
            // It asks again if it has requests after all.
            self.waiting.pop_front();
        }
        self.call_first();
    }

    pub(super) fn take_wakes(&mut self) -> u64 {
        std::mem::take(&mut self.wakes)
    }

    /// The guest has reset the device.
    pub(super) fn reset(&mut self) {
        self.waiting.clear();
        self.is_called = false;
        self.wakes = 0;
    }
}

#[cfg(test)]
#[path = "rate_test.rs"]
mod rate_test;
