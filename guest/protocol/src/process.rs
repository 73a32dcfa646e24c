//! Captures and restarts of the guest's processes.

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize};

use crate::message::TerminalSize;

/// Most runs in one message.
pub const RUNS_MAX: usize = 4096;

/// A process to capture.
///
/// The agent may send `Ahead`, any number of times. It freezes the processes, sends `Frames`, any
/// number of times, and waits for the answer each time. Then it lets them go on, unless they are to
/// be stopped or killed, and sends `Image`, with `Data` and `End`. After the answer to that it
/// stops or kills them, if that was asked for, and says `Captured`. A refusal of the host, or a
/// stream that breaks, lets the processes go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capture {
    /// Its number in the guest.
    pub pid: i32,
    /// With all its descendants.
    pub tree: bool,
    /// Its standard input, output and error may lead to what cannot be captured; something else
    /// takes their place at a restart.
    pub external_stdio: bool,
    /// Its fate.
    pub afterwards: AfterCapture,
}

/// A process that is to be captured later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// Its number in the guest.
    pub pid: i32,
    /// With all its descendants.
    pub tree: bool,
    /// Its standard input, output and error may lead to what cannot be captured.
    pub external_stdio: bool,
    /// True if it is to be killed then.
    pub kill: bool,
}

/// The answer to a [`Check`] that finds nothing to refuse.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checked {
    /// Number of processes.
    pub processes: u32,
    /// Number of their threads.
    pub threads: u32,
    /// Differences that a restart would make, in words: a line for each.
    pub remarks: String,
}

/// The fate of a process that was captured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AfterCapture {
    /// The process continues.
    Thaw,
    /// The process is frozen until the host has said that the image is kept. Then it stays stopped,
    /// as by SIGSTOP.
    Stop,
    /// The process is frozen until the host has said that the image is kept. Then it is killed.
    Kill,
}

/// Pages of an image that are neighbours, in frames that are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FrameRun {
    /// The number of the first frame: its guest-physical address divided by 4096. At a capture it
    /// may be one that shows a page of an image (`window` of [`Restart`]).
    pub gfn: u64,
    /// Number of pages.
    pub pages: u32,
    /// The number of the first page in the image.
    pub image_page: u64,
}

/// Frames that are neighbours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frames {
    /// The number of the first one: its guest-physical address divided by 4096.
    pub gfn: u64,
    /// Number of frames.
    pub count: u32,
}

/// Reads at most [`RUNS_MAX`] runs, so that a reader need not keep more.
pub(crate) fn runs_of_a_message<'d, D: Deserializer<'d>>(
    from: D,
) -> Result<Vec<FrameRun>, D::Error> {
    at_most_runs_max(from)
}

/// Does the same as [`runs_of_a_message`], for frames.
pub(crate) fn frames_of_a_message<'d, D: Deserializer<'d>>(
    from: D,
) -> Result<Vec<Frames>, D::Error> {
    at_most_runs_max(from)
}

fn at_most_runs_max<'d, D: Deserializer<'d>, T: Deserialize<'d>>(
    from: D,
) -> Result<Vec<T>, D::Error> {
    let runs = Vec::deserialize(from)?;
    if runs.len() > RUNS_MAX {
        return Err(D::Error::custom("there are too many runs"));
    }
    Ok(runs)
}

/// Counts of a capture, for a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Captured {
    /// Number of processes.
    pub processes: u32,
    /// Number of their threads.
    pub threads: u32,
    /// Time for which they stood still, in microseconds: until they could have continued.
    pub frozen_us: u64,
    /// Number of pages that were named in `Frames`, each as often as it was named.
    pub pages_sent: u64,
    /// The most listings of one process's pages that it took until none moved any more.
    pub rounds: u32,
}

/// A process to restart, from what a capture has given.
///
/// The host sends what came with `Image`, as `Data` and `End`. The agent sends `Frames`, any number
/// of times, and waits for the answer each time; then `Restarted`. A refusal of the host, or a
/// stream that breaks before that, destroys what was built.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restart {
    /// Length of what follows.
    pub bytes: u64,
    /// The stream goes on like that of `Exec`, if the standard input, output and error were
    /// external. Otherwise those become /dev/null.
    pub attach: bool,
    /// Attaches it to a terminal of that size.
    pub terminal: Option<TerminalSize>,
    /// The number of a virtio-mmio device behind which the image's pages are shown. Memory is
    /// mapped from there or copied, and no `Frames` come. The agent releases the device when
    /// nothing uses it any more, also after a failure.
    pub window: Option<u8>,
}

/// Counts of a restart, for a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restarted {
    /// The number of the first process.
    pub pid: i32,
    /// Number of processes.
    pub processes: u32,
    /// Number of their threads.
    pub threads: u32,
    /// Number of pages that were named in `Frames`, or copied from the window.
    pub pages: u64,
    /// Time that the restart took, in microseconds.
    pub elapsed_us: u64,
    /// Part of that time to give their pages frames, in microseconds.
    pub populate_us: u64,
    /// Part of that time to wait for the host, in microseconds.
    pub place_us: u64,
    /// Pages in frames that the agent had ready.
    pub pages_reserved: u64,
}
