//! How many frames one copy-on-write takes along, and how many mappings guest RAM may cost.

use std::{
    fs,
    sync::atomic::{AtomicU64, Ordering},
};

use super::CHUNK_FRAMES;

/// `vm.max_map_count` where it cannot be read.
const MAX_MAP_COUNT_DEFAULT: u64 = 65_530;
/// Frames copied by the first fault in a neighbourhood: 64 KiB. The hand-over to the fault thread costs more than
/// copying these.
const CLUSTER_FRAMES_MIN: u32 = 16;

/// Counts the mappings (VMAs) that guest RAM takes against the kernel's limit for the process.
#[derive(Debug)]
pub struct Budget {
    mappings: AtomicU64,
    limit: u64,
}

impl Budget {
    /// Half of what the kernel allows this process: the other half is for everything else in it, and for the
    /// moments within an `mmap` when ranges are split before they merge.
    pub fn of_this_process() -> Self {
        let max_map_count = fs::read_to_string("/proc/sys/vm/max_map_count")
            .ok()
            .and_then(|text| text.trim().parse().ok())
            .unwrap_or(MAX_MAP_COUNT_DEFAULT);
        Self::with_limit(max_map_count / 2)
    }

    /// A budget of `limit` mappings.
    pub fn with_limit(limit: u64) -> Self {
        Self { mappings: AtomicU64::new(0), limit: limit.max(1) }
    }

    /// A chunk that took `before` mappings takes `after` now.
    pub fn changed(&self, before: usize, after: usize) {
        if after >= before {
            self.mappings.fetch_add((after - before) as u64, Ordering::Relaxed);
        } else {
            self.mappings.fetch_sub((before - after) as u64, Ordering::Relaxed);
        }
    }

    /// Mappings counted now.
    pub fn mappings(&self) -> u64 {
        self.mappings.load(Ordering::Relaxed)
    }

    /// Frames that one write fault copies: `sequential` is what the last fault of the chunk suggests. Grows as the
    /// budget runs out; `CHUNK_FRAMES` means that the whole chunk is to become one mapping.
    pub fn cluster_frames(&self, sequential: u32) -> u32 {
        let floor = match self.mappings() * 8 / self.limit {
            0..=3 => CLUSTER_FRAMES_MIN,
            4 | 5 => CLUSTER_FRAMES_MIN * 4,
            6 => CLUSTER_FRAMES_MIN * 16,
            _ => CHUNK_FRAMES,
        };
        floor.max(sequential).min(CHUNK_FRAMES)
    }

    /// Nothing of the budget is left: a chunk that is touched must end as one mapping.
    pub fn is_spent(&self) -> bool {
        self.mappings() * 8 >= self.limit * 7
    }
}
