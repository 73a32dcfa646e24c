//! Snapshots in object stores.

use nvvmm_remote::{
    Fault, GcReport, PullReport, PushReport, PushUnderWay, RemoteSnapshot, Removed, Traffic,
    VerifyReport,
};
use serde::Serialize;

use super::{Failure, rfc3339, word};
use crate::snapshot_commands::kind_word;

/// Requests to a store, and bytes of objects.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct StoreTraffic {
    /// Requests. Those that were repeated count once.
    requests_count: u64,
    /// Bytes of objects that were sent.
    sent_bytes: u64,
    /// Bytes of objects that were received.
    received_bytes: u64,
}

impl StoreTraffic {
    fn of(traffic: Traffic) -> Self {
        Self {
            requests_count: traffic.requests,
            sent_bytes: traffic.sent_bytes,
            received_bytes: traffic.received_bytes,
        }
    }
}

/// Report of a snapshot that was pushed.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Pushed {
    /// Name of the snapshot.
    snapshot: String,
    /// Identity that it has in any pool.
    identity: String,
    /// Root of the hash tree over memory and state.
    content_root: String,
    /// True if the store is encrypted.
    encrypted: bool,
    /// True if the store had the same snapshot already.
    was_there: bool,
    /// Pieces that the snapshot is made of.
    pieces_count: u64,
    /// Pieces that the store lacked.
    new_pieces_count: u64,
    /// Memory in pieces, zeros left out.
    content_bytes: u64,
    /// Memory in pieces that the store lacked.
    new_content_bytes: u64,
    /// Packs that were written.
    packs_count: u64,
    /// Traffic of this command.
    traffic: StoreTraffic,
}

impl Pushed {
    /// JSON of a report.
    pub fn of(report: &PushReport, encrypted: bool) -> Self {
        Self {
            snapshot: report.name.clone(),
            identity: word(&report.identity),
            content_root: word(&report.content_root),
            encrypted,
            was_there: report.was_there,
            pieces_count: report.pieces_count,
            new_pieces_count: report.new_pieces_count,
            content_bytes: report.content_bytes,
            new_content_bytes: report.new_content_bytes,
            packs_count: report.packs_count,
            traffic: StoreTraffic::of(report.traffic),
        }
    }
}

/// Replication of a VM. A line comes with each replica, with each failure, and now and then while a
/// push lasts.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Replication {
    /// Name of the VM.
    pub vm: String,
    /// URL of the store.
    pub store: String,
    /// False once the VM has ended.
    pub running: bool,
    /// Name of the newest replica in the store.
    pub newest_replica: Option<String>,
    /// Time since the instant of the newest replica; of the one before, if one was pushed just now.
    /// Before there is one, time since the command began.
    pub lag_us: u64,
    /// Replicas in the store.
    pub kept_count: u64,
    /// Sums of the push, if one has succeeded just now.
    pub pushed: Option<PushedReplica>,
    /// Reason why there is no newer replica, if there is one.
    pub failure: Option<Failure>,
}

/// Sums of the push of a replica.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct PushedReplica {
    /// Memory that was read, in chunks of 2 MiB of which something was written.
    pub read_bytes: u64,
    /// Memory in pieces that the store lacked.
    pub new_content_bytes: u64,
    /// Bytes of objects that were sent.
    pub sent_bytes: u64,
    /// Requests to the store.
    pub requests_count: u64,
}

/// Report of a snapshot that was pulled.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Pulled {
    /// The new snapshot, as a reception reports it. Its stream has no bytes.
    received: super::moving::Received,
    /// Pieces that the snapshot is made of.
    pieces_count: u64,
    /// Pieces that were fetched: the pool lacked them.
    fetched_pieces_count: u64,
    /// Traffic of this command.
    traffic: StoreTraffic,
}

impl Pulled {
    /// JSON of a report.
    pub fn of(report: &PullReport) -> Self {
        Self {
            received: super::moving::Received::of(&report.received),
            pieces_count: report.pieces_count,
            fetched_pieces_count: report.fetched_pieces_count,
            traffic: StoreTraffic::of(report.traffic),
        }
    }
}

/// Snapshot of a store.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Stored {
    /// Name.
    snapshot: String,
    /// Identity that it has in any pool.
    identity: String,
    /// Identity of the snapshot that it was taken after, if it is known.
    parent_identity: Option<String>,
    /// Root of the hash tree over memory and state.
    content_root: Option<String>,
    /// Kind: vm or process.
    kind: String,
    /// Moment at which it was taken.
    taken_at: String,
    /// Size of the memory.
    memory_bytes: u64,
    /// Disks in it.
    disks_count: u64,
    /// Pieces that it is made of.
    pieces_count: u64,
    /// Bytes of its pieces in the store, compressed. Other snapshots may share them.
    stored_bytes: u64,
}

impl Stored {
    /// JSON of all snapshots.
    pub fn all(snapshots: &[RemoteSnapshot]) -> Vec<Self> {
        snapshots.iter().map(Self::of).collect()
    }

    fn of(snapshot: &RemoteSnapshot) -> Self {
        let header = &snapshot.header;
        Self {
            snapshot: header.name.clone(),
            identity: word(&header.identity),
            parent_identity: header.parent.map(|parent| word(&parent)),
            content_root: header.root.map(|root| word(&root)),
            kind: kind_word(header.kind).to_owned(),
            taken_at: rfc3339(header.created_unix_ns),
            memory_bytes: header.memory_bytes,
            disks_count: header.disks.len() as u64,
            pieces_count: snapshot.pieces_count,
            stored_bytes: snapshot.stored_bytes,
        }
    }
}

/// Snapshot that was removed from a store.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct RemovedRemote {
    /// Name.
    snapshot: String,
}

impl RemovedRemote {
    /// JSON of a removal.
    pub fn of(removed: &Removed) -> Self {
        Self {
            snapshot: removed.name.clone(),
        }
    }
}

/// Push whose marker is in a store.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Push {
    /// Identity, for --end-push.
    push: String,
    /// Time since it began, by the clocks of store and host.
    age_us: u64,
}

impl Push {
    fn of(push: &PushUnderWay) -> Self {
        Self {
            push: push.id.to_string(),
            age_us: u64::try_from(push.age.as_micros()).unwrap_or(u64::MAX),
        }
    }
}

/// Report of a collection in a store.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Collection {
    /// Snapshots in the store.
    snapshots_count: u64,
    /// Packs that were there.
    packs_count: u64,
    /// Size of all packs that were there.
    packs_bytes: u64,
    /// Packs that were deleted.
    deleted_count: u64,
    /// Size of the packs that were deleted.
    deleted_bytes: u64,
    /// Packs that no snapshot needs, and that a later collection deletes.
    condemned_count: u64,
    /// Size of these packs.
    condemned_bytes: u64,
    /// Pushes that are under way, or have died.
    pushes: Vec<Push>,
}

impl Collection {
    /// JSON of a report.
    pub fn of(report: &GcReport) -> Self {
        Self {
            snapshots_count: report.snapshots_count,
            packs_count: report.packs_count,
            packs_bytes: report.packs_bytes,
            deleted_count: report.deleted_count,
            deleted_bytes: report.deleted_bytes,
            condemned_count: report.condemned_count,
            condemned_bytes: report.condemned_bytes,
            pushes: report.pushes.iter().map(Push::of).collect(),
        }
    }
}

/// Something in a store that is not what was stored.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct StoreFault {
    /// Finding.
    message: String,
    /// Names of snapshots that need it, as far as they are known.
    needed_by: Vec<String>,
}

impl StoreFault {
    fn of(fault: &Fault) -> Self {
        Self {
            message: fault.what.clone(),
            needed_by: fault.snapshots.clone(),
        }
    }
}

/// Report of a verification of a store.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Verification {
    /// True if nothing is damaged.
    clean: bool,
    /// Snapshots that were read.
    snapshots_count: u64,
    /// Packs that they need.
    packs_count: u64,
    /// Pieces in these packs.
    pieces_count: u64,
    /// Bytes of packs that were read.
    read_bytes: u64,
    /// Findings.
    faults: Vec<StoreFault>,
}

impl Verification {
    /// JSON of a report.
    pub fn of(report: &VerifyReport) -> Self {
        Self {
            clean: report.faults.is_empty(),
            snapshots_count: report.snapshots_count,
            packs_count: report.packs_count,
            pieces_count: report.pieces_count,
            read_bytes: report.read_bytes,
            faults: report.faults.iter().map(StoreFault::of).collect(),
        }
    }
}
