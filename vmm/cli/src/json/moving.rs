//! Snapshots sent and received.

use std::time::Duration;

use nvvmm_snapshot::{ReceiveReport, SendReport};
use serde::Serialize;

use super::{blocks_bytes, word};
use crate::migrate::{Host, Sums};

/// Report of a snapshot that was sent.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Sent {
    /// Name of the snapshot.
    snapshot: String,
    /// Identity that it has in any pool.
    identity: String,
    /// Root of the hash tree over memory and state.
    content_root: String,
    /// Name of the snapshot since which the changes were sent.
    since: Option<String>,
    /// Memory whose content is in the stream.
    sent_bytes: u64,
    /// Memory that has become zeros since the other snapshot.
    emptied_bytes: u64,
    /// Memory that is as in the other snapshot.
    shared_bytes: u64,
    /// Memory of zeros, which is not sent.
    zero_bytes: u64,
    /// Memory and state in the stream, before compression.
    raw_bytes: u64,
    /// Size of the stream.
    stream_bytes: u64,
}

impl Sent {
    /// JSON of a report.
    pub fn of(report: &SendReport) -> Self {
        Self {
            snapshot: report.name.clone(),
            identity: word(&report.identity),
            content_root: word(&report.content_root),
            since: report.since.clone(),
            sent_bytes: blocks_bytes(report.frames_sent),
            emptied_bytes: blocks_bytes(report.frames_emptied),
            shared_bytes: blocks_bytes(report.frames_shared),
            zero_bytes: blocks_bytes(report.frames_zero),
            raw_bytes: report.bytes_raw,
            stream_bytes: report.bytes_stream,
        }
    }
}

/// Report of a snapshot that was received.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Received {
    /// Name of the new snapshot.
    snapshot: String,
    /// Id of the snapshot in this pool.
    snapshot_id: u64,
    /// Identity that it has in any pool.
    identity: String,
    /// Root of the hash tree over memory and state. Null if it was not computed.
    content_root: Option<String>,
    /// Name of the snapshot of this pool that the stream builds on.
    since: Option<String>,
    /// Name of another snapshot of this pool that was searched for equal memory.
    like: Option<String>,
    /// True if it went on with what an interrupted reception had stored.
    resumed: bool,
    /// Memory whose content was in the stream.
    received_bytes: u64,
    /// Memory that was written to the pool for it.
    stored_bytes: u64,
    /// Memory of the stream that was in the pool already.
    found_bytes: u64,
    /// Memory that is shared with the snapshot that the stream builds on.
    shared_bytes: u64,
    /// Memory and state in the stream, before compression.
    raw_bytes: u64,
    /// Size of the stream.
    stream_bytes: u64,
}

impl Received {
    /// JSON of a report.
    pub fn of(report: &ReceiveReport) -> Self {
        Self {
            snapshot: report.name.clone(),
            snapshot_id: report.id.get(),
            identity: word(&report.identity),
            content_root: report.content_root.map(|root| word(&root)),
            since: report.since.clone(),
            like: report.like.clone(),
            resumed: report.resumed,
            received_bytes: blocks_bytes(report.frames_received),
            stored_bytes: blocks_bytes(report.frames_stored),
            found_bytes: blocks_bytes(report.frames_found),
            shared_bytes: blocks_bytes(report.frames_shared),
            raw_bytes: report.bytes_raw,
            stream_bytes: report.bytes_stream,
        }
    }
}

/// Report of a VM that was moved to another host.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Migrated {
    /// Name of the VM.
    vm: String,
    /// The host that the VM is on now.
    to_host: String,
    /// Snapshots that were sent, with the last one.
    round_count: u32,
    /// Size of all streams.
    stream_bytes: u64,
    /// Size of the stream that was sent while the VM stood still.
    stream_paused_bytes: u64,
    /// Time from the pause here until the VM ran there.
    downtime_us: u64,
    /// Time of all.
    total_us: u64,
}

impl Migrated {
    /// JSON of a report.
    pub fn of(vm: &str, host: &Host, sums: &Sums) -> Self {
        Self {
            vm: vm.to_owned(),
            to_host: host.to_string(),
            round_count: sums.rounds,
            stream_bytes: sums.bytes_sent,
            stream_paused_bytes: sums.bytes_sent_paused,
            downtime_us: micros(sums.downtime),
            total_us: micros(sums.total),
        }
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
