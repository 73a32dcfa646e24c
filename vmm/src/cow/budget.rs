//! Frames that one copy-on-write takes along, and mappings that guest RAM may cost.

use std::{
    fs,
    sync::{
        Mutex, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

use nvvmm_snapshot::ChunkIndex;

use super::{CHUNK_FRAMES, CowError, counters::lock};

/// `vm.max_map_count` where it cannot be read.
const MAX_MAP_COUNT_DEFAULT: u64 = 65_530;
/// Frames copied by the first fault in a neighbourhood: 64 KiB. To wake the fault thread costs more
/// than to copy these.
const CLUSTER_FRAMES_USUAL: u32 = 16;

/// Number of frames that are copied for one write, and of mappings that this may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopyPolicy {
    /// Frames that a write fault copies, where the budget is not running out: a power of two, a
    /// chunk at most.
    pub cluster_frames: u32,
    /// A fault that goes on where the last one ended copies twice as much as that one did.
    pub clusters_grow: bool,
    /// A frame that is written alone again is copied alone.
    pub single_frames: bool,
    /// Mappings that guest RAM may take; `None`: half of those that the kernel allows this process.
    /// The other half is for everything else in the process, and for the moments within an `mmap`
    /// when ranges are split before they merge.
    pub mappings_max: Option<u64>,
}

impl CopyPolicy {
    /// Copies the same number of frames for each fault, while there are mappings enough.
    pub fn fixed(cluster_frames: u32) -> Self {
        Self {
            cluster_frames,
            clusters_grow: false,
            single_frames: false,
            ..Self::default()
        }
    }
}

impl Default for CopyPolicy {
    fn default() -> Self {
        Self {
            cluster_frames: CLUSTER_FRAMES_USUAL,
            clusters_grow: true,
            single_frames: true,
            mappings_max: None,
        }
    }
}

/// Counts the mappings (VMAs) that guest RAM takes against the kernel's limit for the process.
#[derive(Debug)]
pub struct Budget {
    mappings: AtomicU64,
    limit: u64,
    policy: CopyPolicy,
    /// One bit for each chunk with mappings of its own. The stretches between such chunks are
    /// mappings too.
    mapped_chunks: Mutex<Vec<u64>>,
}

impl Budget {
    /// A budget for guest RAM that is copied by this policy.
    pub fn of(policy: CopyPolicy) -> Self {
        Self {
            // Guest RAM begins as one stretch of nothing.
            mappings: AtomicU64::new(1),
            limit: policy.mappings_max.unwrap_or_else(mappings_usual).max(1),
            mapped_chunks: Mutex::new(Vec::new()),
            policy,
        }
    }

    /// A budget for guest RAM that is copied as usual, in this process.
    pub fn of_this_process() -> Self {
        Self::of(CopyPolicy::default())
    }

    /// A budget of `limit` mappings.
    pub fn with_limit(limit: u64) -> Self {
        Self::of(CopyPolicy {
            mappings_max: Some(limit),
            ..CopyPolicy::default()
        })
    }

    /// Counts a chunk that took `before` mappings and takes `after` now.
    pub fn changed(&self, before: usize, after: usize) {
        if after >= before {
            self.mappings
                .fetch_add((after - before) as u64, Ordering::Relaxed);
        } else {
            self.mappings
                .fetch_sub((before - after) as u64, Ordering::Relaxed);
        }
    }

    /// Counts chunk `index` of `chunks`, which gets mappings of its own out of the untouched
    /// stretch around it.
    pub fn chunk_mapped(&self, index: ChunkIndex, chunks: u32) {
        // The stretch is cut in two, shortened, or gone.
        self.changed(1, self.mark(index, chunks, true));
    }

    /// Counts chunk `index` of `chunks`, which becomes part of the untouched stretch around it.
    pub fn chunk_unmapped(&self, index: ChunkIndex, chunks: u32) {
        self.changed(self.mark(index, chunks, false), 1);
    }

    /// Notes that a chunk has mappings of its own, or none. Returns the number of its untouched
    /// neighbours.
    fn mark(&self, index: ChunkIndex, chunks: u32, has_mappings: bool) -> usize {
        let index = index.get();
        let mut mapped = lock(&self.mapped_chunks);
        let (word, bit) = (index as usize / 64, index % 64);
        if mapped.len() <= word {
            mapped.resize(word + 1, 0);
        }
        match has_mappings {
            true => mapped[word] |= 1 << bit,
            false => mapped[word] &= !(1 << bit),
        }
        let is_mapped = |index: u32| {
            mapped
                .get(index as usize / 64)
                .is_some_and(|w| w >> (index % 64) & 1 == 1)
        };
        let left = index > 0 && !is_mapped(index - 1);
        let right = index + 1 < chunks && !is_mapped(index + 1);
        usize::from(left) + usize::from(right)
    }

    /// Checks that guest RAM may take that many mappings.
    ///
    /// # Errors
    /// [`CowError::TooManyMappings`].
    pub(super) fn covers(&self, needed: u64) -> Result<(), CowError> {
        if needed > self.limit {
            return Err(CowError::TooManyMappings {
                needed,
                limit: self.limit,
            });
        }
        Ok(())
    }

    /// Mappings counted now: never less than there are, as some that are counted apart may have
    /// merged.
    pub fn mappings(&self) -> u64 {
        self.mappings.load(Ordering::Relaxed)
    }

    /// Mappings that guest RAM may take.
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// Frames that one write fault copies. `last` is the number that the fault before copied, if
    /// this one goes on at its end. The number grows as the budget runs out; `CHUNK_FRAMES` means
    /// that the whole chunk is to become one mapping.
    pub fn cluster_frames(&self, last: Option<u32>) -> u32 {
        let usual = self.policy.cluster_frames;
        let floor = match self.mappings() * 8 / self.limit {
            0..=3 => usual,
            4 | 5 => usual * 4,
            6 => usual * 16,
            _ => CHUNK_FRAMES,
        };
        let grown = match last {
            Some(last) if self.policy.clusters_grow => last * 2,
            _ => 0,
        };
        floor.max(grown).min(CHUNK_FRAMES)
    }

    /// True if a frame may be copied without its neighbours, which makes three mappings of one.
    pub fn allows_single_frames(&self) -> bool {
        self.policy.single_frames && self.mappings() * 8 / self.limit <= 3
    }

    /// Mappings that a chunk may take before it is filled by a copy of its blocks instead. One or
    /// two are a small part of the budget; many cost as much time as the copy.
    pub fn mappings_for_a_chunk(&self) -> usize {
        match self.mappings() * 8 / self.limit {
            0..=3 => 64,
            4 | 5 => 8,
            6 => 2,
            _ => 0,
        }
    }

    /// True if there may be no mapping more: only copies that make a chunk one mapping are
    /// possible.
    pub fn is_exceeded(&self) -> bool {
        self.mappings() >= self.limit
    }

    /// True if the budget is used up: a chunk that is written must become one mapping.
    pub fn is_spent(&self) -> bool {
        self.mappings() * 8 >= self.limit * 7
    }
}

/// Half of the mappings that the kernel allows this process.
fn mappings_usual() -> u64 {
    max_map_count() / 2
}

/// The kernel's limit, as it was when this process asked first.
pub(super) fn max_map_count() -> u64 {
    static KNOWN: OnceLock<u64> = OnceLock::new();
    *KNOWN.get_or_init(|| {
        fs::read_to_string("/proc/sys/vm/max_map_count")
            .ok()
            .and_then(|text| text.trim().parse().ok())
            .unwrap_or(MAX_MAP_COUNT_DEFAULT)
    })
}
