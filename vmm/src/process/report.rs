//! Reports of captures and restarts of processes; printed, and with `--json`.

use serde::{Deserialize, Serialize};

/// Report of a capture.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CaptureReport {
    /// Name of the new image.
    pub name: String,
    /// The process's number in the guest.
    pub pid: i32,
    /// Processes captured.
    pub processes: u32,
    /// Their threads.
    pub threads: u32,
    /// Time they stood still, in microseconds, as the agent measured it.
    pub frozen_us: f64,
    /// Time from request to answer, in microseconds.
    pub total_us: f64,
    /// Number of times that pages were listed until none moved any more.
    pub rounds: u32,
    /// Pages of the image.
    pub pages: u64,
    /// Of these, blocks that were the VM's own and were taken by reference. The rest was in a
    /// snapshot or image already, or is copied.
    pub frames_given: u64,
    /// Pages whose bytes were copied: none with the redirect engine.
    pub frames_copied: u64,
    /// Bytes of state: all that is captured besides pages.
    pub state_bytes: u64,
    /// Blocks written for metadata (maps, inode, state).
    pub metadata_blocks: u64,
}

/// Report of a restart.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RestartReport {
    /// The image.
    pub name: String,
    /// The VM it runs in.
    pub vm: String,
    /// The first process's number in the guest.
    pub pid: i32,
    /// Processes that run.
    pub processes: u32,
    /// Their threads.
    pub threads: u32,
    /// Time it took in the guest, in microseconds, as the agent measured it.
    pub elapsed_us: f64,
    /// Of that, to give the pages frames.
    pub populate_us: f64,
    /// Of that, until the VM had put pages behind the frames.
    pub place_us: f64,
    /// Time from request to answer, in microseconds.
    pub total_us: f64,
    /// Pages in frames that the agent had ready (its reserve).
    pub pages_reserved: u64,
    /// Pages behind frames by reference.
    pub pages_adopted: u64,
    /// Pages whose bytes were copied.
    pub pages_copied: u64,
    /// Pages that are shown in a window.
    #[serde(default)]
    pub pages_shown: u64,
}
