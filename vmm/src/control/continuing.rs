//! Requests to go on from a snapshot: to go back to it, or to take over a VM that stands by for it.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Choice of the snapshot that a VM goes back to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "which", rename_all = "snake_case")]
pub enum RewindRequest {
    /// A checkpoint of its ring.
    Back {
        /// 1: the newest; 2: the one before.
        checkpoints: u32,
        /// Go back with the disks as they are, also if they were written after the checkpoint.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        stale_disks: bool,
        /// The guest's time of day goes on from the checkpoint's.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        keep_clock: bool,
        /// Connections of the guest to other machines stay as they are.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        keep_connections: bool,
    },
    /// Any snapshot of the VM.
    To {
        /// Name of the snapshot.
        name: String,
        /// Go back with the disks as they are, also if they were written after the snapshot.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        stale_disks: bool,
        /// The guest's time of day goes on from the snapshot's.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        keep_clock: bool,
        /// Connections of the guest to other machines stay as they are.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        keep_connections: bool,
    },
}

impl From<&str> for RewindRequest {
    fn from(snapshot: &str) -> Self {
        Self::To {
            name: snapshot.to_owned(),
            stale_disks: false,
            keep_clock: false,
            keep_connections: false,
        }
    }
}

impl RewindRequest {
    /// Orders for the guest's agent afterwards. Nobody waits for it.
    pub fn agent_orders(&self) -> AgentOrders {
        let (Self::Back {
            keep_clock,
            keep_connections,
            ..
        }
        | Self::To {
            keep_clock,
            keep_connections,
            ..
        }) = self;
        AgentOrders {
            time_of_day: match keep_clock {
                true => TimeOfDay::Keep,
                false => TimeOfDay::Step,
            },
            keep_connections: *keep_connections,
        }
    }
}

/// Orders for the agent of a guest that goes on from a snapshot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentOrders {
    /// The guest's time of day.
    #[serde(default)]
    pub time_of_day: TimeOfDay,
    /// Connections of the guest to other machines stay as they are. By default the agent ends
    /// them.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub keep_connections: bool,
}

/// The guest's time of day after a restore or a rewind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TimeOfDay {
    /// The agent in the guest sets it to the host's when it answers. Nobody waits for that.
    #[default]
    Step,
    /// The same, and whoever restores waits for it.
    StepAwaited,
    /// The time goes on from the snapshot's.
    Keep,
}

/// Request to a VM that stands by to go on as this VM. It fits if its pool, its snapshot and its
/// version are these.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TakeRequest {
    /// Version of the program of whoever asks.
    pub program: String,
    /// The pool.
    pub pool: PathBuf,
    /// Name of the snapshot.
    pub snapshot: String,
    /// Name of the VM from now on.
    pub name: String,
    /// Path of its console socket from now on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub console: Option<PathBuf>,
    /// Orders for the guest's agent.
    #[serde(flatten)]
    pub agent_orders: AgentOrders,
    /// The guest does not run until it is resumed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub paused: bool,
}
