//! The output of `nvvmm replicate`: a line for each replica, each failure, and now and then for a
//! push that takes long.

use std::time::Duration;

use nvvmm::VmError;
use nvvmm::control::ReplicaStatus;
use nvvmm_snapshot::TimeText;

use super::message::Sums;
use crate::json::Failure;
use crate::json::remote::{PushedReplica, Replication};
use crate::output;

/// State that is told at one moment.
#[derive(Debug, Clone)]
pub struct Told {
    pub vm: String,
    pub store: String,
    /// False: the VM has ended.
    pub running: bool,
    /// The newest replica in the store.
    pub newest: Option<String>,
    /// Age of the newest replica; of the one before, when one was pushed just now. Before there is
    /// one, time since the beginning.
    pub lag: Duration,
    /// Replicas in the store.
    pub kept: usize,
    /// Sums of the push, if one has succeeded just now.
    pub pushed: Option<Sums>,
    /// Reason why there is no newer one.
    pub failure: Option<VmError>,
}

/// Tells, as text or as JSON.
pub(super) struct Teller {
    json: bool,
}

impl Teller {
    pub(super) fn new(json: bool) -> Self {
        Self { json }
    }

    pub(super) fn tell(&self, told: &Told) -> Result<(), VmError> {
        match self.json {
            true => output::print_json_line(&json_of(told)),
            false => output::print(&text_of(told)),
        }
    }
}

fn json_of(told: &Told) -> Replication {
    Replication {
        vm: told.vm.clone(),
        store: told.store.clone(),
        running: told.running,
        newest_replica: told.newest.clone(),
        lag_us: u64::try_from(told.lag.as_micros()).unwrap_or(u64::MAX),
        kept_count: told.kept as u64,
        pushed: told.pushed.map(|sums| PushedReplica {
            read_bytes: sums.read_bytes,
            new_content_bytes: sums.new_bytes,
            sent_bytes: sums.sent_bytes,
            requests_count: sums.requests,
        }),
        failure: told.failure.as_ref().map(Failure::of),
    }
}

fn text_of(told: &Told) -> String {
    let lag = TimeText(told.lag);
    let newest = told.newest.as_deref();
    match (&told.pushed, &told.failure, newest) {
        (Some(sums), _, Some(newest)) => format!(
            "{newest}: {} new, {} sent; the lag was {lag}; {} kept\n",
            output::size(sums.new_bytes),
            output::size(sums.sent_bytes),
            told.kept
        ),
        (_, Some(failure), _) => format!("lag {lag}, {}: {}\n", word(newest), failure.message),
        _ if !told.running => format!("{} has ended; lag {lag}, {}\n", told.vm, word(newest)),
        _ => format!("lag {lag}, {}: a push is under way\n", word(newest)),
    }
}

fn word(newest: Option<&str>) -> String {
    match newest {
        Some(newest) => format!("the newest replica is {newest}"),
        None => "no replica yet".to_owned(),
    }
}

/// Line of `nvvmm ps` about a VM's replicas; none once replication has ended in good order.
pub fn ps_line(vm: &str, status: &ReplicaStatus) -> String {
    let Some(lag) = status.lag() else {
        return String::new();
    };
    let failure = status.failure.as_ref();
    let failure = failure.map_or_else(String::new, |failure| format!(": {}", failure.message));
    format!(
        "{vm}: replicated to {}; lag {}, {}{failure}\n",
        status.store,
        TimeText(lag),
        word(status.newest.as_deref())
    )
}

#[cfg(test)]
#[path = "told_test.rs"]
mod told_test;
