//! Control of a running VM from other processes: the registry that finds a VM by its name, and the
//! control socket (`docs` of [`message`] for the protocol) that answers for it.
//!
//! The VM process claims its name in the [`registry`], serves [`VmControl`] through a
//! [`ControlServer`], and a command talks to it with a [`ControlClient`].

pub mod arriving;
pub mod client;
mod continuing;
#[cfg(debug_assertions)]
#[doc(hidden)]
pub mod fuzzing;
pub mod life;
mod line;
mod memory;
pub mod message;
pub mod past;
pub mod registry;
mod replica;
mod runtime_paths;
pub mod server;
pub mod spares;
pub mod unlisted;

pub use client::ControlClient;
pub use continuing::{AgentOrders, RewindRequest, TakeRequest, TimeOfDay};
pub use memory::{BalloonReport, MemoryStatus};
pub use message::{
    CaptureRequest, CapturedState, DiskStatus, NetStatus, NetTraffic, ResizedDisk, RestartRequest,
    RingRequest, SandboxStatus, SnapshotRequest, VmOrigin, VmState, VmStatus,
};
pub use registry::{Claim, NameChoice, RuntimeDir, VmRuntimePaths};
pub use replica::{ReplicaStatus, ToldReplica};
pub use server::ControlServer;

use std::os::unix::net::UnixStream;

use crate::checkpoint::report::{AuditReport, SnapshotReport};
use crate::error::{ErrorKind, VmError};
use crate::process::{CaptureReport, RestartReport};
use crate::ring::{RewindReport, RingStatus};
use crate::stats::VmStats;
use crate::sys::peer::Caller;

/// Requests that a running VM answers. Calls come from threads of the control server, several
/// at a time.
pub trait VmControl: Send + Sync {
    /// State and counters now. Must not wait for the guest.
    fn status(&self) -> VmStatus;

    /// Counters so far. Must not wait for the guest.
    fn stats(&self) -> Result<VmStats, VmError>;

    /// Stops the vCPUs and devices until [`VmControl::resume`]. Pausing a paused VM is not an
    /// error.
    fn pause(&self) -> Result<(), VmError>;

    /// Lets a paused VM go on. Resuming a running VM is not an error.
    fn resume(&self) -> Result<(), VmError>;

    /// Presses the power button, if that is asked for. Returns true while the guest has not read
    /// that it was pressed.
    fn power_button(&self, press: bool) -> Result<bool, VmError>;

    /// Asks the VM process to end; returns once the request is accepted, not when the process is
    /// gone.
    fn stop(&self) -> Result<(), VmError>;

    /// Takes a snapshot and returns when it is committed (or failed, with the VM running as
    /// before).
    fn snapshot(&self, request: &SnapshotRequest) -> Result<SnapshotReport, VmError>;

    /// Does the same for a caller who may go meanwhile: the snapshot is withdrawn then, unless it
    /// is committed already.
    fn snapshot_for(
        &self,
        request: &SnapshotRequest,
        _caller: &Caller,
    ) -> Result<SnapshotReport, VmError> {
        self.snapshot(request)
    }

    /// Captures a process of the guest, whose agent `agent` leads to; returns when the image is
    /// committed and the process goes on, or is stopped or gone.
    fn capture(
        &self,
        request: &CaptureRequest,
        agent: &UnixStream,
    ) -> Result<CaptureReport, VmError>;

    /// Restarts a process in the guest, whose agent `agent` leads to; returns when it runs.
    fn restart(
        &self,
        request: &RestartRequest,
        agent: &UnixStream,
    ) -> Result<RestartReport, VmError>;

    /// Begins to take checkpoints in a rhythm, in place of one that goes on already.
    fn start_ring(&self, request: &RingRequest) -> Result<RingStatus, VmError>;

    /// Ends the ring; its checkpoints stay.
    fn stop_ring(&self) -> Result<RingStatus, VmError>;

    /// Takes the VM back to a snapshot; returns when it goes on from there.
    fn rewind(&self, request: &RewindRequest) -> Result<RewindReport, VmError>;

    /// Takes note of the VM's replicas in a store.
    fn replicated(&self, _status: ReplicaStatus) {}

    /// Takes a stream of a process that fetches memory for the VM.
    fn arrive(&self, _fetcher: UnixStream) -> Result<(), VmError> {
        Err(VmError::new(ErrorKind::Refused, "the VM expects no memory"))
    }

    /// Has a VM that stands by go on under a name; returns when its guest runs, or is paused.
    fn take_over(&self, _request: &TakeRequest) -> Result<VmStatus, VmError> {
        Err(VmError::new(ErrorKind::Refused, "the VM does not stand by"))
    }

    /// Finds the sizes of the disks anew, and tells the guest those that have changed. Gives these
    /// disks.
    fn measure_disks(&self) -> Result<Vec<ResizedDisk>, VmError> {
        Err(VmError::new(ErrorKind::Refused, "the VM has no disks"))
    }

    /// Makes a disk of the pool larger, and tells the guest. Gives the disks whose sizes have
    /// changed.
    fn resize_disk(&self, _name: &str, _size_bytes: u64) -> Result<Vec<ResizedDisk>, VmError> {
        Err(VmError::new(ErrorKind::Refused, "the VM has no disks"))
    }

    /// Asks the guest for a balloon of `target_bytes`, if that is given, and tells of its memory.
    /// Waits for the guest, but not for long.
    fn memory(&self, _target_bytes: Option<u64>) -> Result<MemoryStatus, VmError> {
        Err(VmError::new(ErrorKind::Refused, "the VM has no balloon"))
    }

    /// For tests: compares KVM's dirty log since the last snapshot with the COW engine.
    fn audit(&self) -> Result<AuditReport, VmError>;
}
