//! Chunks in which this process has let freed blocks wait to be cleaned.

use std::collections::BTreeSet;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::number::ChunkNo;

/// A list of them, and a thread that may wait for it to fill.
#[derive(Debug, Default)]
pub(crate) struct WaitingChunks {
    chunks: Mutex<BTreeSet<ChunkNo>>,
    added: Condvar,
}

impl WaitingChunks {
    fn chunks(&self) -> MutexGuard<'_, BTreeSet<ChunkNo>> {
        self.chunks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn add(&self, chunk: ChunkNo) {
        self.chunks().insert(chunk);
    }

    /// Wakes the threads that wait in [`WaitingChunks::wait`].
    pub(crate) fn tell(&self) {
        // Who is about to wait has the lock.
        drop(self.chunks());
        self.added.notify_all();
    }

    /// Takes the first one from the list whose number is at least `from`.
    pub(crate) fn take(&self, from: u32) -> Option<ChunkNo> {
        let mut chunks = self.chunks();
        let chunk = *chunks.range(ChunkNo::new(from)?..).next()?;
        chunks.remove(&chunk);
        Some(chunk)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.chunks().is_empty()
    }

    /// Waits until there is one, or it was told of something: as long as `go_on` says so, and no
    /// longer than `time`.
    pub(crate) fn wait(&self, time: Duration, go_on: impl Fn() -> bool) {
        let chunks = self.chunks();
        if chunks.is_empty() && go_on() {
            drop(self.added.wait_timeout(chunks, time));
        }
    }
}
