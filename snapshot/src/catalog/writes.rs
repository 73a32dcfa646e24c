//! Counters of what commits write.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

/// Writes of commits through one [`Pool`](crate::Pool) value since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolWrites {
    /// Commits made: of snapshots and images, removals of them, consumptions.
    pub commits: u64,
    /// Bytes of metadata that commits wrote, also those that failed: map nodes, inodes, states,
    /// the catalog's nodes and superblocks. Reference counts and digests follow from these and
    /// are not counted.
    pub metadata_bytes: u64,
}

/// Counts them.
#[derive(Debug, Default)]
pub(crate) struct WriteCounters {
    commits: AtomicU64,
    metadata_bytes: AtomicU64,
}

impl WriteCounters {
    pub(crate) fn wrote(&self, bytes: usize) {
        self.metadata_bytes
            .fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn committed(&self) {
        self.commits.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn so_far(&self) -> PoolWrites {
        PoolWrites {
            commits: self.commits.load(Ordering::Relaxed),
            metadata_bytes: self.metadata_bytes.load(Ordering::Relaxed),
        }
    }
}
