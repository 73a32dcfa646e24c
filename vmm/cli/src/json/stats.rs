//! Counters of a VM.

use nvvmm::stats::{Buckets, KernelCalls, SnapshotStats, VmStats};
use nvvmm_snapshot::PoolWrites;
use serde::Serialize;

use super::vm::Ram;
use super::{blocks_bytes, whole_us};

/// Counters of a VM. Those of memory and snapshots begin with the last start of the guest (a boot,
/// a reboot or a restore), those of the pool with the start of the VM process.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Stats {
    /// Name of the VM.
    vm: String,
    /// Time since the VM process built the VM.
    uptime_us: u64,
    /// Counters of guest RAM.
    ram: Ram,
    /// Calls to the kernel for guest RAM.
    kernel_calls: Calls,
    /// Times for which guest accesses were held.
    fault_times: Histogram,
    /// Longest time for which a guest access was held.
    held_max_us: u64,
    /// Snapshots of the whole VM, all together.
    snapshot_totals: SnapshotTotals,
    /// Commits to the pool by this VM process.
    pool_commits: PoolCommits,
    /// Age of the newest replica in an object store, while 'nvvmm replicate' makes some.
    replica_lag_us: Option<u64>,
}

impl Stats {
    /// JSON of the counters.
    pub fn of(stats: &VmStats) -> Self {
        Self {
            vm: stats.name.clone(),
            uptime_us: stats.uptime_ms.saturating_mul(1000),
            ram: Ram::of(&stats.ram),
            kernel_calls: Calls::of(&stats.kernel_calls),
            fault_times: Histogram::of(&stats.fault_latency),
            held_max_us: whole_us(stats.held_us_max),
            snapshot_totals: SnapshotTotals::of(&stats.snapshots),
            pool_commits: PoolCommits::of(&stats.pool),
            replica_lag_us: stats.replica_lag_ms.map(|ms| ms.saturating_mul(1000)),
        }
    }
}

/// Calls to the kernel for guest RAM.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Calls {
    /// UFFDIO_WRITEPROTECT: memory armed or disarmed.
    protect_count: u64,
    /// UFFDIO_REGISTER: a new mapping registered.
    register_count: u64,
    /// UFFDIO_WAKE: a held access answered.
    wake_count: u64,
    /// UFFDIO_COPY and UFFDIO_ZEROPAGE: pages filled.
    fill_count: u64,
    /// mmap(2): something else behind guest addresses.
    mmap_count: u64,
}

impl Calls {
    fn of(calls: &KernelCalls) -> Self {
        Self {
            protect_count: calls.protect,
            register_count: calls.register,
            wake_count: calls.wake,
            fill_count: calls.fill,
            mmap_count: calls.mmap,
        }
    }
}

/// Cost of the snapshots of a VM, all together.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct SnapshotTotals {
    /// Snapshots taken.
    taken_count: u64,
    /// Snapshots that were refused or failed.
    failed_count: u64,
    /// Memory that was not in the snapshot before.
    new_bytes: u64,
    /// Memory copied for snapshots while the guest ran.
    copied_ahead_bytes: u64,
    /// Memory copied for snapshots while the guest stood still.
    copied_paused_bytes: u64,
    /// ioctl(2) calls on guest RAM while the guest stood still.
    ioctl_paused_count: u64,
    /// mmap(2) calls over guest RAM while the guest stood still.
    mmap_paused_count: u64,
    /// Times for which a running guest stood still for a snapshot.
    pause_times: Histogram,
    /// Times for which memory was copied ahead of a pause.
    copy_ahead_times: Histogram,
}

impl SnapshotTotals {
    fn of(stats: &SnapshotStats) -> Self {
        Self {
            taken_count: stats.taken,
            failed_count: stats.failed,
            new_bytes: blocks_bytes(stats.frames_new),
            copied_ahead_bytes: blocks_bytes(stats.frames_copied_ahead),
            copied_paused_bytes: blocks_bytes(stats.frames_copied_paused),
            ioctl_paused_count: stats.ioctls_paused,
            mmap_paused_count: stats.mmaps_paused,
            pause_times: Histogram::of(&stats.pause),
            copy_ahead_times: Histogram::of(&stats.copy_ahead),
        }
    }
}

/// Commits of a VM process to its pool.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct PoolCommits {
    /// Commits made.
    commit_count: u64,
    /// Metadata that they wrote.
    metadata_bytes: u64,
}

impl PoolCommits {
    fn of(writes: &PoolWrites) -> Self {
        Self {
            commit_count: writes.commits,
            metadata_bytes: writes.metadata_bytes,
        }
    }
}

/// Times, counted by their length.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Histogram {
    /// Number of all times.
    count: u64,
    /// All times together.
    sum_us: u64,
    /// Buckets, from the shortest to the longest time.
    buckets: Vec<Bucket>,
}

/// Times that are longer than those of the bucket before, and not longer than a bound.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Bucket {
    /// The bound. The last bucket has none.
    at_most_us: Option<u64>,
    /// Number of times in this bucket alone.
    count: u64,
}

impl Histogram {
    fn of(buckets: &Buckets) -> Self {
        let bucket = |(index, count): (usize, &u64)| Bucket {
            at_most_us: Buckets::bound_us(index),
            count: *count,
        };
        Self {
            count: buckets.count(),
            sum_us: whole_us(buckets.sum_us),
            buckets: buckets.counts.iter().enumerate().map(bucket).collect(),
        }
    }
}
