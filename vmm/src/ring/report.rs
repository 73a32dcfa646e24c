//! What a ring does, and what a rewind did; printed as text and with `--json`.

use serde::{Deserialize, Serialize};

use crate::{checkpoint::report::PhaseTime, error::VmError};

/// What a ring of checkpoints is doing, or did until it ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RingStatus {
    /// It goes on. If not, it was stopped, or failed.
    pub running: bool,
    /// Why it ended by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<VmError>,
    /// Time between the beginnings of two checkpoints, in microseconds; 0: one begins when the one
    /// before is done.
    pub every_us: u64,
    /// How many are kept.
    pub keep: u32,
    /// How many it has taken.
    pub taken: u64,
    /// How many more there would be, had each begun in time and found the guest running.
    pub missed: u64,
    /// Name of the newest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub newest: Option<String>,
    /// How many are in the pool, unless somebody else has removed some.
    pub kept: u32,
    /// Time since it began, in microseconds.
    pub lasted_us: f64,
    /// How long the vCPUs stood still, in microseconds: the mean of all checkpoints.
    pub pause_us_mean: f64,
    /// The longest of these pauses.
    pub pause_us_max: f64,
    /// Time from the beginning of a checkpoint to its commit, in microseconds: the mean.
    pub total_us_mean: f64,
    /// Each phase's part of it: the mean.
    pub phases_mean: Vec<PhaseTime>,
}

/// What a rewind did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RewindReport {
    /// Name of the VM.
    pub vm: String,
    /// The snapshot that it is at again.
    pub snapshot: String,
    /// Time from the request until the guest ran again, or was ready to, in microseconds.
    pub total_us: f64,
    /// Of this, how long there was no guest.
    pub stopped_us: f64,
    /// The VM was paused, and is so again.
    pub paused: bool,
}
