//! Replicas of a VM in an object store, as `nvvmm replicate` tells the VM of them.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::error::VmError;

/// Replicas of a VM in a store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaStatus {
    /// URL of the store.
    pub store: String,
    /// True until `nvvmm replicate` ends in good order. It may have been killed.
    pub running: bool,
    /// Interval from one replica to the next, in microseconds.
    pub every_us: u64,
    /// The newest replica in the store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub newest: Option<String>,
    /// Time since the instant that the newest replica is of, in microseconds. Without one, time
    /// since replication began.
    pub lag_us: u64,
    /// Reason why there is no newer one, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<VmError>,
}

impl ReplicaStatus {
    /// The lag while replication goes on.
    pub fn lag(&self) -> Option<Duration> {
        self.running.then(|| Duration::from_micros(self.lag_us))
    }
}

/// The status that was told last, and when.
#[derive(Clone, Debug)]
pub struct ToldReplica {
    status: ReplicaStatus,
    at: Instant,
}

impl ToldReplica {
    /// A status that is told now.
    pub fn now(status: ReplicaStatus) -> Self {
        Self {
            status,
            at: Instant::now(),
        }
    }

    /// The status, with the lag of this moment.
    pub fn status(&self) -> ReplicaStatus {
        let since = u64::try_from(self.at.elapsed().as_micros()).unwrap_or(u64::MAX);
        ReplicaStatus {
            lag_us: self.status.lag_us.saturating_add(since),
            ..self.status.clone()
        }
    }
}
