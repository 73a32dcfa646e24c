//! Reports of rings and rewinds; printed as text and with `--json`.

use serde::{Deserialize, Serialize};

use crate::{checkpoint::report::PhaseTime, error::VmError};

/// State of a ring of checkpoints, at work or ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RingStatus {
    /// True if the ring goes on. If not, it was stopped, or failed.
    pub running: bool,
    /// Reason for which it ended by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<VmError>,
    /// Time between the beginnings of two checkpoints, in microseconds; 0: one begins when the one
    /// before is done.
    pub every_us: u64,
    /// Number of checkpoints that are kept.
    pub keep: u32,
    /// Number of checkpoints that it has taken.
    pub taken: u64,
    /// Number of checkpoints that were missed: they did not begin in time, or the guest stood
    /// still.
    pub missed: u64,
    /// Name of the newest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub newest: Option<String>,
    /// Number of checkpoints in the pool, unless somebody else has removed some.
    pub kept: u32,
    /// Time since it began, in microseconds.
    pub lasted_us: f64,
    /// Time for which the vCPUs stood still, in microseconds: the mean of all checkpoints.
    pub pause_us_mean: f64,
    /// The longest of these pauses.
    pub pause_us_max: f64,
    /// Longest time that a guest access was held between the beginning of a checkpoint and its
    /// commit, in microseconds.
    #[serde(default)]
    pub held_us_max: f64,
    /// Time from the beginning of a checkpoint to its commit, in microseconds: the mean.
    pub total_us_mean: f64,
    /// Each phase's part of it: the mean.
    pub phases_mean: Vec<PhaseTime>,
}

/// Report of a rewind.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RewindReport {
    /// Name of the VM.
    pub vm: String,
    /// The snapshot that it is at again.
    pub snapshot: String,
    /// Time from the request until the guest ran again, or was ready to, in microseconds.
    pub total_us: f64,
    /// Part of this time in which there was no guest.
    pub stopped_us: f64,
    /// True if the VM was paused, and is paused again.
    pub paused: bool,
    /// Parts of the rewind. None for one that built the machine anew.
    #[serde(default)]
    pub phases: Vec<PhaseTime>,
}
