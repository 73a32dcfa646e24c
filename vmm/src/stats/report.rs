//! Counts of a VM at one moment.

use nvvmm_snapshot::PoolWrites;
use serde::{Deserialize, Serialize};

use super::Buckets;

/// All counts of a VM. Those of memory and snapshots begin with the guest's last start (a boot, a
/// reboot or a restore), those of the pool with the start of the VM process.
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
    /// Times for which guest accesses were held: from the fault thread's reading of the event until
    /// the waiting thread was woken. Waiting for space in a full pool is included.
    pub fault_latency: Buckets,
    /// The longest of these times, in microseconds.
    #[serde(default)]
    pub held_us_max: f64,
    /// Snapshots of the whole VM.
    pub snapshots: SnapshotStats,
    /// Writes of this process to the pool's catalog.
    pub pool: PoolWrites,
    /// Age of the newest replica in an object store, in milliseconds, while there are replicas.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replica_lag_ms: Option<u64>,
}

/// Copy-on-write and mapping counts of a running VM.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RamCounters {
    /// Frames backed by a block.
    pub frames_mapped: u64,
    /// Frames that are this VM's own: in no snapshot as they are now.
    pub frames_own: u64,
    /// Frames that belong to a snapshot.
    pub frames_shared: u64,
    /// Frames that hold nothing: the guest never used them, or gave them back.
    #[serde(default)]
    pub frames_empty: u64,
    /// Frames in the guest's balloon, as the guest says.
    #[serde(default)]
    pub frames_ballooned: u64,
    /// Frames that the guest gave back so far: reported free, or put into the balloon.
    #[serde(default)]
    pub frames_released: u64,
    /// Write faults on shared frames.
    pub write_faults: u64,
    /// First touches of a chunk.
    pub chunk_faults: u64,
    /// Frames copied: by copy-on-write with the redirect engine, for snapshots with the private
    /// one (whose copies on write are the kernel's).
    pub frames_copied: u64,
    /// Of these, frames copied ahead of the guest, which had written them after each of the last
    /// snapshots.
    #[serde(default)]
    pub frames_copied_hot: u64,
    /// Chunks that were copied as a whole, on write or ahead of it.
    #[serde(default)]
    pub chunks_copied: u64,
    /// Of these, chunks that were copied behind those that the guest was writing.
    #[serde(default)]
    pub chunks_copied_next: u64,
    /// Chunks for guest RAM that the kernel made one huge page of a tmpfs (`MADV_COLLAPSE`).
    #[serde(default)]
    pub huge_pages: u64,
    /// Mappings (VMAs) that guest RAM takes, as the budget counts them.
    pub mappings: u64,
    /// Mappings that it may take.
    #[serde(default)]
    pub mappings_limit: u64,
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

/// Cost of the snapshots of a VM, all together.
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
    /// Times for which a running guest stood still for a snapshot, also for one that failed.
    pub pause: Buckets,
    /// Times for which the engine copied ahead of the pause (private engine).
    pub copy_ahead: Buckets,
}
