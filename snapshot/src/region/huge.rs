//! Huge pages of a tmpfs: a chunk that the medium gives as one page of 2 MiB.
//!
//! A chunk of 512 small pages costs 512 faults of whoever maps it, a huge page costs one. Linux
//! makes a huge page of a mapped range when it is asked to, whatever the mount option `huge` says
//! (`MADV_COLLAPSE` of madvise(2), Linux 6.1). Holes in the range get memory, and read as zero.
//!
//! A kernel or a mount that cannot do that answers EINVAL, and one that has no huge page ENOMEM. To
//! ask may take long where memory is scattered, so after each refusal more and more needs are
//! passed over before the kernel is asked again.
//!
//! The kernel first has all processors put pages away that they are about to list (its
//! `lru_add_drain_all`). A processor that is busy does that in its next pause, some milliseconds
//! later. So several chunks are asked for at once, and no chunk twice.
//!
//! A virtual host may first have to get the memory from its own hypervisor: 6 ms for 2 MiB was
//! seen, and small pages take as long there. An answer that took longer than that counts like a
//! refusal for the next needs: the kernel then moves pages about to make room for a large one.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;

use crate::number::CHUNK_SIZE_BYTES;

/// Needs that are passed over after a refusal, and after the last one of many in a row.
const PASS_OVER_MIN: u32 = 16;
const PASS_OVER_MAX: u32 = 4096;
/// Longest time in which memory for a huge page is found where the kernel moves no pages about.
const WORTH: Duration = Duration::from_millis(8);

/// Time for a huge page from which on it is the memory that takes long, and not the call: pages are
/// asked for one by one then, so that nobody waits for several.
const SLOW: Duration = Duration::from_millis(1);

/// Asks the kernel for huge pages, and remembers its answers.
#[derive(Debug)]
pub(super) struct HugePages {
    wanted: AtomicBool,
    /// Needs that are left to pass over.
    left: AtomicU32,
    /// Needs that were passed over after the last refusal.
    span: AtomicU32,
    made: AtomicU64,
    /// True if the last page took long.
    slow: AtomicBool,
    /// Offsets of chunks that became a huge page. Another process may have split it meanwhile: that
    /// costs time and nothing else.
    known: Mutex<BTreeSet<u64>>,
}

impl HugePages {
    pub(super) fn new() -> HugePages {
        HugePages {
            wanted: AtomicBool::new(true),
            left: AtomicU32::new(0),
            span: AtomicU32::new(0),
            made: AtomicU64::new(0),
            slow: AtomicBool::new(false),
            known: Mutex::default(),
        }
    }

    /// Sets whether the kernel is asked at all.
    pub(super) fn want(&self, wanted: bool) {
        self.wanted.store(wanted, Ordering::Relaxed);
    }

    /// Chunks that became a huge page, or were one when the kernel was asked.
    pub(super) fn made(&self) -> u64 {
        self.made.load(Ordering::Relaxed)
    }

    /// True if it is worth asking. After a refusal this must be called some times first.
    pub(super) fn may_ask(&self) -> bool {
        self.wanted.load(Ordering::Relaxed) && !self.passes_over()
    }

    /// True if a chunk that is asked for now is likely to become one page.
    pub(super) fn are_likely(&self) -> bool {
        self.wanted.load(Ordering::Relaxed) && self.left.load(Ordering::Relaxed) == 0
    }

    /// Chunks that are best asked for at once, of `wanted`.
    pub(super) fn at_once(&self, wanted: usize) -> usize {
        match self.slow.load(Ordering::Relaxed) {
            true => wanted.min(1),
            false => wanted,
        }
    }

    /// Makes the chunks of a range one page each, by a call of `collapse`, which returns the time
    /// that it took. Returns true if they are.
    pub(super) fn make(
        &self,
        range: Range<u64>,
        collapse: impl FnOnce() -> nix::Result<Duration>,
    ) -> bool {
        let took = match collapse() {
            Ok(took) => took,
            Err(errno) => {
                tracing::debug!(%errno, "no huge page for a chunk of the pool");
                self.ask_less();
                return false;
            }
        };
        let mut made = 0;
        for chunk in range.step_by(CHUNK_SIZE_BYTES as usize) {
            self.known().insert(chunk);
            made += 1;
        }
        self.made.fetch_add(u64::from(made), Ordering::Relaxed);
        self.slow.store(took > SLOW * made, Ordering::Relaxed);
        if took > WORTH * made {
            self.ask_less();
        } else {
            self.span.store(0, Ordering::Relaxed);
        }
        true
    }

    /// Passes over four times as many needs as the last time.
    fn ask_less(&self) {
        let span = self.span.load(Ordering::Relaxed) * 4;
        let span = span.clamp(PASS_OVER_MIN, PASS_OVER_MAX);
        self.span.store(span, Ordering::Relaxed);
        self.left.store(span, Ordering::Relaxed);
    }

    /// True if the chunk at `offset` became a huge page and nothing of it was punched here since.
    pub(super) fn is_known(&self, offset: u64) -> bool {
        self.known().contains(&offset)
    }

    /// Notes that a range was punched.
    pub(super) fn forget(&self, range: Range<u64>) {
        let first = range.start / CHUNK_SIZE_BYTES * CHUNK_SIZE_BYTES;
        let mut known = self.known();
        let gone: Vec<u64> = known.range(first..range.end.max(first)).copied().collect();
        gone.iter().for_each(|chunk| _ = known.remove(chunk));
    }

    fn known(&self) -> MutexGuard<'_, BTreeSet<u64>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn passes_over(&self) -> bool {
        let less = |left: u32| left.checked_sub(1);
        self.left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, less)
            .is_ok()
    }
}

/// Makes each of the mapped chunks from `place` on one page. Returns the time that it took.
///
/// # Safety
/// `bytes` are mapped at `place`; both are multiples of a chunk's size.
pub(super) unsafe fn collapse(place: *mut u8, bytes: usize) -> nix::Result<Duration> {
    let began = Instant::now();
    // SAFETY: the caller vouches for the range; the call changes pages and no content.
    let answer = unsafe { libc::madvise(place.cast(), bytes, libc::MADV_COLLAPSE) };
    Errno::result(answer).map(|_| began.elapsed())
}

#[cfg(test)]
#[path = "huge_test.rs"]
mod huge_test;
