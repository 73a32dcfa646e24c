//! Reports of snapshots and restores, with the time of each phase; printed as a table and with
//! `--json`.

use nvvmm_snapshot::Durability;
use serde::{Deserialize, Serialize};

pub use crate::stats::{PhaseTime, RamCounters};

/// A disk that the guest can write, and whose content is not in the snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutsideDisk {
    /// Path of the disk on the host.
    pub path: String,
    /// True if a restore can tell that the disk was written since. Of a block device it cannot.
    pub checked: bool,
}

/// State of the guest's time of day after a restore.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GuestClock {
    /// Goes on from the time of the snapshot, as asked for.
    #[default]
    Kept,
    /// The guest's agent has set it to the host's.
    Set,
    /// The guest's agent sets it when it answers, if there is one. Nobody waits for that.
    Expected,
    /// The guest's agent has not answered yet. It sets the clock when it does.
    NotSet,
    /// No agent was there to set it: the guest had no driver for the vsock device at the snapshot.
    NoAgent,
    /// The agent could not set it.
    Failed,
}

/// State of the guest's connections to other machines, after a restore that was to keep them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GuestConnections {
    /// No agent of the guest has asked yet if it is to end them.
    Awaited,
    /// Connections stay: the guest's agent knows that, or there was none.
    Kept,
    /// The guest's agent is too old to keep them, and ends them.
    Ended,
}

/// Report of a snapshot.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SnapshotReport {
    /// Name of the new snapshot.
    pub name: String,
    /// True for a snapshot of the disks of the pool only.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub disks_only: bool,
    /// Phases in the order they ran.
    pub phases: Vec<PhaseTime>,
    /// Time the vCPUs stood still, in microseconds.
    pub pause_us: f64,
    /// Longest time that a guest access was held between the request and the commit, in
    /// microseconds: from the reading of the event until the waiting thread was woken.
    #[serde(default)]
    pub held_us_max: f64,
    /// Time from request to commit, in microseconds.
    pub total_us: f64,
    /// Frames the snapshot's memory map holds.
    pub frames_mapped: u64,
    /// Frames that were not in the previous snapshot of this VM.
    pub frames_new: u64,
    /// Frames whose content was copied for the snapshot; a frame counts each time it was copied. 0
    /// with the redirect engine, whose guests write blocks themselves. With the private engine the
    /// frames that were written since the last snapshot.
    pub frames_copied: u64,
    /// Of these, copied while the vCPUs stood still.
    pub frames_copied_paused: u64,
    /// ioctl(2) calls on guest RAM while everything stood still: one for each piece that was armed.
    #[serde(default)]
    pub ioctls_paused: u64,
    /// mmap(2) calls over guest RAM while everything stood still.
    #[serde(default)]
    pub mmaps_paused: u64,
    /// Bytes of saved machine state.
    pub state_bytes: u64,
    /// Blocks written for metadata (maps, inode, state).
    pub metadata_blocks: u64,
    /// Digests that were made before the answer, when that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digests_made: Option<u64>,
    /// Disks that are not in the snapshot, and that its guest can write.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub outside_disks: Vec<OutsideDisk>,
    /// Durability of the snapshot: the strongest that the pool has.
    pub durability: Durability,
}

/// Report of a restore, until the guest ran.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RestoreReport {
    /// Snapshot restored.
    pub snapshot: String,
    /// Name of the new VM.
    pub vm: String,
    /// Phases in the order they ran.
    pub phases: Vec<PhaseTime>,
    /// Time from the start of the restore to the first entry into the guest, in microseconds.
    pub first_instruction_us: f64,
    /// Frames the snapshot holds.
    pub frames_mapped: u64,
    /// The snapshot was consumed (`--once`).
    pub once: bool,
    /// Page tables were filled first (`--prefault`).
    pub prefault: bool,
    /// The guest's time of day.
    #[serde(default)]
    pub clock: GuestClock,
    /// Connections that are to stay; absent where the agent is to end them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections: Option<GuestConnections>,
    /// Notes for the user.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

impl RestoreReport {
    /// The guest's agent is waited for, as it has not answered yet.
    pub fn awaits_agent(&self) -> bool {
        self.clock == GuestClock::NotSet || self.connections == Some(GuestConnections::Awaited)
    }
}

/// KVM's dirty log since the last snapshot, held against what the COW engine says, and what that
/// says against memory. For tests: the log must be switched on when the VM starts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditReport {
    /// Frames that KVM has seen written.
    pub dirty_frames: u64,
    /// Of these, frames that the engine had not made writable (numbers in RAM order; the first
    /// hundred).
    pub not_own: Vec<u64>,
    /// Of these, frames behind which there is still the block of the last snapshot (the first
    /// hundred).
    pub still_shared: Vec<u64>,
    /// Frames that do not hold what the engine believes (the first hundred): a write to them was
    /// lost track of.
    pub stale: Vec<u64>,
}
