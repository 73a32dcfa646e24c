//! Notes and warnings of `nvvmm restore` and `nvvmm rewind` about a VM that runs.

use std::thread;
use std::time::{Duration, Instant};

use nvvmm::VmError;
use nvvmm::checkpoint::report::{GuestClock, GuestConnections, RestoreReport};
use nvvmm::control::{ControlClient, VmState, VmStatus};

use super::terminal::{shown_in_line, tell};

/// Time for the guest's agent to do what somebody waits for.
pub const AGENT_PATIENCE: Duration = Duration::from_secs(5);
const AGENT_POLL: Duration = Duration::from_millis(10);

/// Waits until the guest's agent has answered, if that was asked for. Not for a VM that is paused.
pub fn wait_for_agent(vm: &mut ControlClient, mut status: VmStatus) -> Result<VmStatus, VmError> {
    let until = Instant::now() + AGENT_PATIENCE;
    let waits = |status: &VmStatus| {
        let restore = status.restore.as_ref();
        restore.is_some_and(RestoreReport::awaits_agent) && status.state != VmState::Paused
    };
    while waits(&status) && Instant::now() < until {
        thread::sleep(AGENT_POLL);
        status = vm.status()?;
    }
    Ok(status)
}

/// Tells if connections that are to stay may not, after a rewind.
pub fn tell_of_connections(status: &VmStatus) {
    let report = status.restore.as_ref();
    let is_paused = status.state == VmState::Paused;
    tell(&match report.and_then(|report| report.connections) {
        Some(connections) => connections_text(connections, is_paused),
        None => connections_warning("the VM process is of an older nvvmm and does not keep them"),
    });
}

/// Tells of disks that could not be checked, of a clock that is not set, and of connections that
/// do not stay.
pub fn tell_of(status: &VmStatus) {
    tell(&text_of(status));
}

/// The same as text; empty when there is nothing to say.
pub fn text_of(status: &VmStatus) -> String {
    let is_paused = status.state == VmState::Paused;
    let report = status.restore.as_ref();
    report.map_or_else(String::new, |report| text(report, is_paused))
}

fn text(report: &RestoreReport, is_paused: bool) -> String {
    let mut text = String::new();
    for note in &report.notes {
        text.push_str(&format!("nvvmm: note: {}\n", shown_in_line(note)));
    }
    text.push_str(&clock_text(report.clock, is_paused));
    if let Some(connections) = report.connections {
        text.push_str(&connections_text(connections, is_paused));
    }
    text
}

fn clock_text(clock: GuestClock, is_paused: bool) -> String {
    let why = match clock {
        GuestClock::Kept | GuestClock::Set | GuestClock::Expected => return String::new(),
        GuestClock::Failed => {
            "the nvvmm-agent in the guest could not set it: the VM's log has more"
        }
        GuestClock::NoAgent => {
            "no nvvmm-agent runs in the guest to set it ('--clock keep' does without)"
        }
        GuestClock::NotSet if is_paused => {
            "the VM is paused; the nvvmm-agent in the guest sets it after 'nvvmm resume'"
        }
        GuestClock::NotSet => "no nvvmm-agent in the guest has answered yet; one that does sets it",
    };
    format!("nvvmm: warning: the guest's clock is not set: {why}\n")
}

fn connections_text(connections: GuestConnections, is_paused: bool) -> String {
    connections_warning(match connections {
        GuestConnections::Kept => return String::new(),
        GuestConnections::Ended => "the nvvmm-agent in the guest is too old to keep them",
        GuestConnections::Awaited if is_paused => {
            "the VM is paused, and an nvvmm-agent that is too old to keep them ends them after \
             'nvvmm resume'"
        }
        GuestConnections::Awaited => {
            "no nvvmm-agent in the guest has answered yet, and one that is too old to keep them \
             ends them"
        }
    })
}

fn connections_warning(why: &str) -> String {
    format!("nvvmm: warning: the guest's connections may end: {why}\n")
}

#[cfg(test)]
#[path = "restore_notes_test.rs"]
mod restore_notes_test;
