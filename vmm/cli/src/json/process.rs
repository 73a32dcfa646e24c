//! Processes of a guest, captured and restarted.

use nvvmm::process::{CaptureReport, RestartReport};
use serde::Serialize;

use super::{blocks_bytes, whole_us};

/// Report of a capture (`snapshot --process`).
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Captured {
    /// Kind of the snapshot.
    #[cfg_attr(test, schemars(extend("const" = "process")))]
    kind: &'static str,
    /// Name of the VM.
    vm: String,
    /// Name of the new snapshot.
    snapshot: String,
    /// Process id in the guest.
    guest_pid: i32,
    /// Processes captured.
    process_count: u32,
    /// Threads of these processes.
    thread_count: u32,
    /// Time for which the processes stood still.
    pause_us: u64,
    /// Time from the request to the answer.
    total_us: u64,
    /// Number of times that pages were listed until none moved any more.
    round_count: u32,
    /// Memory of the image.
    mapped_bytes: u64,
    /// Part of it in blocks that were taken from the VM by reference. The rest was in a snapshot
    /// already, or is copied.
    given_bytes: u64,
    /// Memory that was copied.
    copied_bytes: u64,
    /// Size of the saved state.
    state_bytes: u64,
    /// Metadata that was written: maps, inode and state.
    metadata_bytes: u64,
}

impl Captured {
    /// JSON of a report.
    pub fn of(vm: &str, report: &CaptureReport) -> Self {
        Self {
            kind: "process",
            vm: vm.to_owned(),
            snapshot: report.name.clone(),
            guest_pid: report.pid,
            process_count: report.processes,
            thread_count: report.threads,
            pause_us: whole_us(report.frozen_us),
            total_us: whole_us(report.total_us),
            round_count: report.rounds,
            mapped_bytes: blocks_bytes(report.pages),
            given_bytes: blocks_bytes(report.frames_given),
            copied_bytes: blocks_bytes(report.frames_copied),
            state_bytes: report.state_bytes,
            metadata_bytes: blocks_bytes(report.metadata_blocks),
        }
    }
}

/// Report of a check (`snapshot --process --check`).
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Checked {
    /// Kind of the report.
    #[cfg_attr(test, schemars(extend("const" = "check")))]
    kind: &'static str,
    /// Name of the VM.
    vm: String,
    /// Process id in the guest.
    guest_pid: i32,
    /// Processes that would be captured.
    process_count: u32,
    /// Threads of these processes.
    thread_count: u32,
    /// Differences that a restart would make, in words of the guest.
    remarks: Vec<String>,
}

impl Checked {
    /// JSON of the agent's answer.
    pub fn of(vm: &str, pid: i32, checked: &nvvmm_protocol::Checked) -> Self {
        Self {
            kind: "check",
            vm: vm.to_owned(),
            guest_pid: pid,
            process_count: checked.processes,
            thread_count: checked.threads,
            remarks: checked.remarks.lines().map(str::to_owned).collect(),
        }
    }
}

/// Report of a restart (`restore --into`).
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Restarted {
    /// Name of the VM.
    vm: String,
    /// Name of the snapshot.
    snapshot: String,
    /// Process id of the first process in the guest.
    guest_pid: i32,
    /// Processes that run.
    process_count: u32,
    /// Threads of these processes.
    thread_count: u32,
    /// Time from the request to the answer.
    total_us: u64,
    /// Part of it in the guest, as the agent measured it.
    guest_us: u64,
    /// Part of the time in the guest to give frames to the pages.
    populate_us: u64,
    /// Part of the time in the guest until the VM had put the pages behind the frames.
    place_us: u64,
    /// Memory in frames that the agent had ready.
    reserved_bytes: u64,
    /// Memory that is used by reference.
    adopted_bytes: u64,
    /// Memory that was copied.
    copied_bytes: u64,
    /// Memory that is shown in a window.
    shown_bytes: u64,
}

impl Restarted {
    /// JSON of a report.
    pub fn of(report: &RestartReport) -> Self {
        Self {
            vm: report.vm.clone(),
            snapshot: report.name.clone(),
            guest_pid: report.pid,
            process_count: report.processes,
            thread_count: report.threads,
            total_us: whole_us(report.total_us),
            guest_us: whole_us(report.elapsed_us),
            populate_us: whole_us(report.populate_us),
            place_us: whole_us(report.place_us),
            reserved_bytes: blocks_bytes(report.pages_reserved),
            adopted_bytes: blocks_bytes(report.pages_adopted),
            copied_bytes: blocks_bytes(report.pages_copied),
            shown_bytes: blocks_bytes(report.pages_shown),
        }
    }
}
