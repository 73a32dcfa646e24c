//! What a VM has counted, at one moment.

use nvvmm_snapshot::PoolWrites;
use serde::{Deserialize, Serialize};

use super::Buckets;
use crate::checkpoint::report::RamCounters;

/// All that a VM counts. Its memory and snapshots count from the guest's last start (a boot, a
/// reboot or a restore), writes to the pool from the start of the VM process.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct VmStats {
    /// Name of the VM.
    pub name: String,
    /// Time since the VM process built it, in milliseconds.
    pub uptime_ms: u64,
    /// Guest RAM.
    pub ram: RamCounters,
    /// Calls to the kernel for guest RAM.
    pub kernel_calls: KernelCalls,
    /// How long guest accesses were held: from when the fault thread heard of one until whoever
    /// waited was woken. What waits for space in a full pool is in it too.
    pub fault_latency: Buckets,
    /// Snapshots of the whole VM.
    pub snapshots: SnapshotStats,
    /// What this process has written to the pool's catalog.
    pub pool: PoolWrites,
}

/// Calls to the kernel that guest RAM has cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelCalls {
    /// UFFDIO_WRITEPROTECT: frames armed or disarmed.
    pub protect: u64,
    /// UFFDIO_REGISTER: a new mapping made fit for that.
    pub register: u64,
    /// UFFDIO_WAKE: a held access answered.
    pub wake: u64,
    /// UFFDIO_COPY and UFFDIO_ZEROPAGE: pages filled.
    pub fill: u64,
    /// mmap(2): something else behind guest addresses.
    pub mmap: u64,
}

impl KernelCalls {
    /// Those that are ioctl(2).
    pub fn ioctls(&self) -> u64 {
        self.protect + self.register + self.wake + self.fill
    }

    /// Those that came after `before`.
    pub fn since(&self, before: &Self) -> Self {
        Self {
            protect: self.protect - before.protect,
            register: self.register - before.register,
            wake: self.wake - before.wake,
            fill: self.fill - before.fill,
            mmap: self.mmap - before.mmap,
        }
    }
}

/// What snapshots of a VM cost, all together.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SnapshotStats {
    /// Snapshots taken.
    pub taken: u64,
    /// Those that were refused or failed.
    pub failed: u64,
    /// Frames that were not in the snapshot before.
    pub frames_new: u64,
    /// Frames copied for snapshots while the guest ran (private engine).
    pub frames_copied_ahead: u64,
    /// Frames copied for snapshots while the guest stood still (private engine).
    pub frames_copied_paused: u64,
    /// ioctl(2) on guest RAM while everything stood still: arming.
    pub ioctls_paused: u64,
    /// mmap(2) over guest RAM while everything stood still.
    pub mmaps_paused: u64,
    /// How long a running guest stood still for a snapshot, also for one that failed.
    pub pause: Buckets,
    /// How long was copied ahead of the pause (private engine).
    pub copy_ahead: Buckets,
}
