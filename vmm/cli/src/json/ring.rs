//! Rings of checkpoints, and rewinds.

use nvvmm::ring::{RewindReport, RingStatus};
use serde::{Deserialize, Serialize};

use super::{Failure, Phase, whole_us};

/// Ring of checkpoints, at work or ended. `checkpoint --watch` prints it again and again.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Ring {
    /// Name of the VM.
    vm: String,
    /// True while the ring goes on.
    running: bool,
    /// Reason for which it ended by itself.
    failure: Option<Failure>,
    /// Time between the beginnings of two checkpoints. 0: the next one begins at once.
    every_us: u64,
    /// Checkpoints that it keeps at most.
    keep_count: u32,
    /// Checkpoints that it has taken.
    taken_count: u64,
    /// Checkpoints that did not begin in time, or whose guest stood still.
    missed_count: u64,
    /// Checkpoints that are in the pool.
    kept_count: u32,
    /// Name of the newest checkpoint.
    newest_snapshot: Option<String>,
    /// Time since the ring began.
    lasted_us: u64,
    /// Time for which the vCPUs stood still for a checkpoint: the mean.
    pause_mean_us: u64,
    /// The longest of these times.
    pause_max_us: u64,
    /// Longest time that an access of the guest to its memory was held during a checkpoint.
    held_max_us: u64,
    /// Time from the beginning of a checkpoint to its commit: the mean.
    total_mean_us: u64,
    /// Phases of a checkpoint: the mean of each.
    phases_mean: Vec<Phase>,
}

impl Ring {
    /// Ring of the VM of this name.
    pub fn of(vm: &str, status: &RingStatus) -> Self {
        Self {
            vm: vm.to_owned(),
            running: status.running,
            failure: status.failure.as_ref().map(Failure::of),
            every_us: status.every_us,
            keep_count: status.keep,
            taken_count: status.taken,
            missed_count: status.missed,
            kept_count: status.kept,
            newest_snapshot: status.newest.clone(),
            lasted_us: whole_us(status.lasted_us),
            pause_mean_us: whole_us(status.pause_us_mean),
            pause_max_us: whole_us(status.pause_us_max),
            held_max_us: whole_us(status.held_us_max),
            total_mean_us: whole_us(status.total_us_mean),
            phases_mean: Phase::all(&status.phases_mean),
        }
    }
}

/// Report of a rewind. The benchmark reads it, too.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Rewind {
    /// Name of the VM.
    pub vm: String,
    /// Name of the snapshot that the VM is at again.
    pub snapshot: String,
    /// Time from the request until the guest ran again, or was ready to.
    pub total_us: u64,
    /// Part of this time in which the guest stood still.
    pub pause_us: u64,
    /// True if the VM is paused, as it was before.
    pub paused: bool,
    /// Parts of the rewind. None for one that built the machine anew.
    #[serde(default)]
    pub phases: Vec<Phase>,
}

impl Rewind {
    /// JSON of a report.
    pub fn of(report: &RewindReport) -> Self {
        Self {
            vm: report.vm.clone(),
            snapshot: report.snapshot.clone(),
            total_us: whole_us(report.total_us),
            pause_us: whole_us(report.stopped_us),
            paused: report.paused,
            phases: Phase::all(&report.phases),
        }
    }
}
