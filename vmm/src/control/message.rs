//! The control protocol: one JSON document per line, a request and then its response, any number of
//! times.
//!
//! ```text
//! > {"version":1,"op":"snapshot","name":"base","stop":false}
//! < {"version":1,"answer":"snapshot","report":{...}}
//! > {"version":1,"op":"pause"}
//! < {"version":1,"answer":"error","error":{"kind":"refused","message":"...","remedy":"..."}}
//! ```
//!
//! A request is at most [`REQUEST_BYTES_MAX`] long. Anything that is not a request of this version
//! gets an error as its answer.

use std::path::PathBuf;

use nvvmm_snapshot::Durability;
use serde::{Deserialize, Serialize};

use super::continuing::{RewindRequest, TakeRequest};
use crate::checkpoint::report::{AuditReport, RamCounters, RestoreReport, SnapshotReport};
use crate::error::{ErrorKind, VmError};
use crate::process::{CaptureReport, RestartReport};
use crate::ring::{RewindReport, RingStatus};
use crate::spec::{DiskSpec, NetSpec};
use crate::stats::VmStats;

/// Version of the protocol; a server answers no other.
pub const PROTOCOL_VERSION: u32 = 1;
/// Longest request line, newline included.
pub const REQUEST_BYTES_MAX: usize = 64 * 1024;
/// Longest response line that a client takes, newline included.
pub const RESPONSE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Options of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotRequest {
    /// Name of the new snapshot.
    pub name: String,
    /// End the VM once the snapshot is committed; the VM stays paused from the snapshot's instant.
    #[serde(default)]
    pub stop: bool,
    /// Failures that the snapshot must survive; absent: as many as the pool can.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub durability: Option<Durability>,
    /// Make digests of the new blocks before the answer.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub verify: bool,
    /// Take the disks of the pool only, and neither memory nor devices. The VM runs on.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub disks_only: bool,
}

impl From<&str> for SnapshotRequest {
    fn from(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            stop: false,
            durability: None,
            verify: false,
            disks_only: false,
        }
    }
}

/// Options of a capture of a process. The stream to the guest's agent comes with it, as a
/// descriptor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaptureRequest {
    /// Name of the new image.
    pub name: String,
    /// The process's number in the guest.
    pub pid: i32,
    /// Captures all descendants of the process, too.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub tree: bool,
    /// State of the process after the capture.
    #[serde(default)]
    pub afterwards: CapturedState,
    /// Failures that the image must survive; absent: as many as the pool can.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub durability: Option<Durability>,
}

/// State of a process after it was captured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CapturedState {
    /// The process runs on.
    #[default]
    GoOn,
    /// The process stays stopped, as after SIGSTOP.
    Stop,
    /// The process is killed.
    Kill,
}

/// Options of a restart of a process. The stream to the guest's agent comes with it, as a
/// descriptor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestartRequest {
    /// Name of the image.
    pub name: String,
    /// The stream goes on with the process's standard input, output and error.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub attach: bool,
    /// Standard streams are a terminal with so many lines and columns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub terminal: Option<(u16, u16)>,
    /// Show the guest the image, instead of giving its pages to the process.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub window: bool,
    /// A process of an image that came from elsewhere may have privileges: root, capabilities,
    /// files that the agent opens for it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub allow_root: bool,
}

/// Settings of a ring of checkpoints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RingRequest {
    /// Time between the beginnings of two checkpoints, in microseconds; 0: as often as can be.
    pub every_us: u64,
    /// Number of checkpoints that are kept, at least 1.
    pub keep: u32,
    /// Remove the checkpoints of an earlier VM of this name.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub replace: bool,
    /// Failures that each must survive; absent: as many as the pool can.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub durability: Option<Durability>,
}

fn is_false(flag: &bool) -> bool {
    !flag
}

/// A disk of a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskStatus {
    /// Settings of the disk, with the image, or the name of the disk of the pool.
    #[serde(flatten)]
    pub disk: DiskSpec,
    /// Name of a disk of the pool in snapshots of the VM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drive: Option<String>,
    /// True for a copy that was made for the VM, and stays in the pool when the VM ends.
    #[serde(default, skip_serializing_if = "is_false")]
    pub is_kept_copy: bool,
}

impl DiskStatus {
    /// A disk that is an image file of the host.
    pub fn of_file(disk: &DiskSpec) -> Self {
        Self {
            disk: disk.clone(),
            drive: None,
            is_kept_copy: false,
        }
    }
}

/// A network card of a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetStatus {
    /// Settings of the card, with its place on the host.
    #[serde(flatten)]
    pub card: NetSpec,
    /// The network is there: passt runs, the TAP device exists.
    pub is_connected: bool,
    /// Frames and bytes so far.
    pub traffic: NetTraffic,
}

/// Counts of what a card has carried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetTraffic {
    /// Frames that the guest has sent.
    pub sent_frames: u64,
    /// Bytes of these.
    pub sent_bytes: u64,
    /// Frames that the guest has received.
    pub received_frames: u64,
    /// Bytes of these.
    pub received_bytes: u64,
    /// Frames of the guest to addresses that are denied.
    pub denied_frames: u64,
    /// Frames, either way, that could not be carried.
    pub dropped_frames: u64,
}

/// A disk whose size has changed, as the guest was told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResizedDisk {
    /// Path of the image, or name of the disk of the pool.
    pub path: PathBuf,
    /// Its size in bytes.
    pub size_bytes: u64,
}

/// A request to a VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Request {
    /// Answer at once, to show that the VM process lives.
    Ping,
    /// State and counters.
    Status,
    /// Counters.
    Stats,
    /// Stop the vCPUs and devices.
    Pause,
    /// Let vCPUs and devices run on.
    Resume,
    /// Press the power button, or only look at it.
    PowerButton {
        /// Press it.
        press: bool,
    },
    /// End the VM process.
    Stop,
    /// Take a snapshot.
    Snapshot(SnapshotRequest),
    /// Capture a process of the guest.
    Capture(CaptureRequest),
    /// Restart a process in the guest.
    Restart(RestartRequest),
    /// Begin to take checkpoints, one after the other.
    StartRing(RingRequest),
    /// Take no more checkpoints.
    StopRing,
    /// Go back to a snapshot.
    Rewind(RewindRequest),
    /// Go on as this VM, if it stands by.
    Take(TakeRequest),
    /// Find the sizes of the disks anew, and tell the guest.
    MeasureDisks,
    /// Make a disk of the pool larger, and tell the guest.
    ResizeDisk {
        /// Name of the disk in the pool.
        disk: String,
        /// Its new size.
        size_bytes: u64,
    },
    /// Tell of the memory; before that, ask the guest for a balloon of so many bytes.
    Memory {
        /// Size of the balloon.
        target_bytes: Option<u64>,
    },
    /// Take note of replicas in a store.
    Replicated(super::ReplicaStatus),
    /// Take memory from a process that fetches it. Its stream comes with the request.
    Arrive,
    /// For tests: compare KVM's dirty log with the COW engine.
    Audit,
}

impl Request {
    /// The request in a word or two.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Ping => "a sign of life",
            Self::Status => "its status",
            Self::Stats => "its counters",
            Self::Pause => "a pause",
            Self::Resume => "a resume",
            Self::PowerButton { press: true } => "a press of its power button",
            Self::PowerButton { press: false } => "the state of its power button",
            Self::Stop => "its end",
            Self::Snapshot(_) => "a snapshot",
            Self::Capture(_) => "a capture of a process",
            Self::Restart(_) => "a restart of a process",
            Self::StartRing(_) => "a ring of checkpoints",
            Self::StopRing => "the end of the ring of checkpoints",
            Self::Rewind(_) => "a rewind",
            Self::Take(_) => "a take-over",
            Self::MeasureDisks => "the sizes of its disks",
            Self::ResizeDisk { .. } => "a new size of a disk",
            Self::Memory { .. } => "its memory",
            Self::Replicated(_) => "a note of its replicas",
            Self::Arrive => "memory that arrives",
            Self::Audit => "an audit",
        }
    }

    /// Tells if the request changes nothing: it is asked often.
    pub fn only_looks(&self) -> bool {
        matches!(
            self,
            Self::Ping
                | Self::Status
                | Self::Stats
                | Self::PowerButton { press: false }
                | Self::Audit
                | Self::Replicated(_)
        )
    }
}

/// The answer to a request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum Answer {
    /// The request was carried out and there is nothing to tell.
    Done,
    /// Answer to [`Request::Status`] and [`Request::Take`].
    Status {
        /// The VM's status.
        status: Box<VmStatus>,
    },
    /// Answer to [`Request::Stats`].
    Stats {
        /// Counters of the VM.
        stats: Box<VmStats>,
    },
    /// Answer to [`Request::PowerButton`].
    PowerButton {
        /// The guest has not read that the button was pressed.
        unread: bool,
    },
    /// Answer to [`Request::Snapshot`].
    Snapshot {
        /// Report of the snapshot.
        report: Box<SnapshotReport>,
    },
    /// Answer to [`Request::Capture`].
    Captured {
        /// Report of the capture.
        report: Box<CaptureReport>,
    },
    /// Answer to [`Request::Restart`].
    Restarted {
        /// Report of the restart.
        report: Box<RestartReport>,
    },
    /// Answer to [`Request::StartRing`] and [`Request::StopRing`].
    Ring {
        /// Status of the ring, also after its end.
        status: Box<RingStatus>,
    },
    /// Answer to [`Request::Rewind`].
    Rewound {
        /// Report of the rewind.
        report: Box<RewindReport>,
    },
    /// Answer to [`Request::MeasureDisks`] and [`Request::ResizeDisk`].
    Resized {
        /// Disks of which the guest was told another size.
        disks: Vec<ResizedDisk>,
    },
    /// Answer to [`Request::Memory`].
    Memory(super::MemoryStatus),
    /// Answer to [`Request::Audit`].
    Audit {
        /// Findings of the audit.
        report: AuditReport,
    },
    /// The request failed.
    Error {
        /// Cause and remedy.
        error: VmError,
    },
}

/// A request or an answer with the protocol's version, as it stands on a line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Versioned<T> {
    /// [`PROTOCOL_VERSION`].
    pub version: u32,
    /// The request or the answer.
    #[serde(flatten)]
    pub body: T,
}

impl<T> Versioned<T> {
    /// `body` in this version of the protocol.
    pub fn current(body: T) -> Self {
        Self {
            version: PROTOCOL_VERSION,
            body,
        }
    }
}

/// State of a VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VmState {
    /// Being built; the guest has not run yet.
    Booting,
    /// The vCPUs run.
    Running,
    /// The vCPUs and devices stand still, because somebody wants it.
    Paused,
    /// The guest stands still because the pool is full, or the medium that it is on: one of its
    /// accesses waits for a block, or for memory. It goes on by itself when there is space.
    NoSpace,
    /// The guest stands still because another process has the pool's lock: one of its accesses
    /// waits for that. It goes on by itself.
    Waiting,
    /// The guest waits for memory that arrives from an object store.
    Fetching,
    /// The guest stands still because an object store does not give memory that it needs. It goes
    /// on by itself when the store does.
    StoreAway,
    /// The machine is built and stands by, without a state: `nvvmm restore` takes it over.
    Spare,
    /// The VM process is about to end.
    Stopping,
}

/// Source of the VM's memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum VmOrigin {
    /// Booted.
    Boot {
        /// The kernel it booted.
        kernel: PathBuf,
    },
    /// Restored.
    Snapshot {
        /// Name the snapshot had when it was restored.
        name: String,
    },
}

/// A VM as others see it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VmStatus {
    /// Name of the VM.
    pub name: String,
    /// Process id of the VM process.
    pub pid: u32,
    /// State of the VM now.
    pub state: VmState,
    /// Reason for the state, if there is something to say: the VM waits for space in its pool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notice: Option<String>,
    /// Number of the process that has the pool's lock, while the VM waits for that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits_for_pid: Option<u32>,
    /// Number of vCPUs.
    pub vcpus: u8,
    /// Guest RAM in bytes.
    pub memory_bytes: u64,
    /// The pool that guest RAM lives in.
    pub pool: PathBuf,
    /// Source of the VM.
    pub origin: VmOrigin,
    /// Disks of the VM, in the guest's order.
    #[serde(default)]
    pub disks: Vec<DiskStatus>,
    /// Network cards of the VM, in the guest's order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nets: Vec<NetStatus>,
    /// Time since the VM process built it, in milliseconds.
    pub uptime_ms: u64,
    /// Socket with the guest's serial console.
    pub console: Option<PathBuf>,
    /// Counters of guest RAM.
    pub ram: RamCounters,
    /// Report of the restore, when the VM was restored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore: Option<RestoreReport>,
    /// Names of the snapshots taken of it since it started, oldest first, without those of its
    /// ring.
    pub snapshots_taken: Vec<String>,
    /// Status of the ring of checkpoints that was begun last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ring: Option<RingStatus>,
    /// Replicas of the VM in an object store, if there were any since its process began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replica: Option<super::ReplicaStatus>,
    /// Memory that has not arrived from an object store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arriving: Option<super::arriving::ArrivingStatus>,
    /// Confinement of the VM process; `None` for a VM in a program that does not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sandbox: Option<SandboxStatus>,
    /// Reboots of its guest, in this VM process.
    #[serde(default)]
    pub reboot_count: u64,
    /// An agent in its guest keeps a stream to it.
    #[serde(default)]
    pub has_agent: bool,
}

/// Layers that confine a VM process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxStatus {
    /// No new privileges, no capabilities, no core dumps, not to be traced by its user.
    pub privileges: bool,
    /// Own mount (with an empty root), IPC, UTS and network namespaces.
    pub namespaces: bool,
    /// Landlock forbids all files, and signals to others; the ABI in use, 0 for none.
    pub landlock: u32,
    /// Each thread is held to the system calls of its kind.
    pub seccomp: bool,
}

impl SandboxStatus {
    /// Notice for `nvvmm ps` about a process that is not confined.
    pub fn notice(self) -> Option<String> {
        (self == Self::default())
            .then(|| "the VM process is not confined (--no-sandbox)".to_owned())
    }
}

/// Decodes one line of at most the allowed length as a request of this version.
pub fn decode_request(line: &[u8]) -> Result<Request, VmError> {
    #[derive(Deserialize)]
    struct VersionOnly {
        version: u32,
    }
    let usage = |why: String| VmError::new(ErrorKind::Usage, why);
    let VersionOnly { version } = serde_json::from_slice(line).map_err(|e| {
        usage(format!(
            "not a request: a JSON object with a version was expected ({e})"
        ))
    })?;
    if version != PROTOCOL_VERSION {
        return Err(usage(format!(
            "control protocol version {version} is not supported; this VM uses version \
             {PROTOCOL_VERSION}"
        ))
        .with_remedy("use the nvvmm that started the VM"));
    }
    serde_json::from_slice::<Request>(line).map_err(|e| usage(format!("not a known request: {e}")))
}

#[cfg(test)]
#[path = "message_test.rs"]
mod message_test;
