//! Counters and locks that both engines use.

use std::sync::{
    Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU64, Ordering},
};

/// Counts of frames and faults of one VM. `frames_mapped` and `frames_own` are levels; the others
/// only grow.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub frames_mapped: AtomicU64,
    pub frames_own: AtomicU64,
    pub write_faults: AtomicU64,
    pub chunk_faults: AtomicU64,
    pub frames_copied: AtomicU64,
    pub frames_copied_hot: AtomicU64,
    /// Private pages of this process that were moved to blocks.
    pub frames_moved: AtomicU64,
    /// Chunks that were copied whole at or before their first touch.
    pub chunks_prepared: AtomicU64,
    /// Chunks that were mapped at the first touch of a chunk before them.
    pub chunks_along: AtomicU64,
    pub chunks_copied: AtomicU64,
    pub chunks_copied_next: AtomicU64,
}

impl Counters {
    /// Counters of a VM whose memory has `frames_mapped` blocks as it starts.
    pub fn starting_with(frames_mapped: u64) -> Self {
        Self {
            frames_mapped: AtomicU64::new(frames_mapped),
            ..Self::default()
        }
    }

    /// Begins anew, for a VM that goes back to a snapshot of `frames_mapped` blocks.
    pub fn start_again_with(&self, frames_mapped: u64) {
        let Self {
            frames_mapped: mapped,
            frames_own,
            write_faults,
            chunk_faults,
            frames_copied,
            frames_copied_hot,
            frames_moved,
            // Tells for ever if there may be such chunks.
            chunks_prepared: _,
            chunks_along,
            chunks_copied,
            chunks_copied_next,
        } = self;
        mapped.store(frames_mapped, Ordering::Relaxed);
        for counter in [
            frames_own,
            write_faults,
            chunk_faults,
            frames_copied,
            frames_copied_hot,
            frames_moved,
            chunks_along,
            chunks_copied,
            chunks_copied_next,
        ] {
            counter.store(0, Ordering::Relaxed);
        }
    }

    pub fn add(counter: &AtomicU64, frames: u32) {
        counter.fetch_add(u64::from(frames), Ordering::Relaxed);
    }

    pub fn sub(counter: &AtomicU64, frames: u64) {
        counter.fetch_sub(frames, Ordering::Relaxed);
    }

    pub fn get(counter: &AtomicU64) -> u64 {
        counter.load(Ordering::Relaxed)
    }
}

/// Locks `mutex`. A panic elsewhere does not matter: the state behind these locks is changed only
/// in whole steps.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
