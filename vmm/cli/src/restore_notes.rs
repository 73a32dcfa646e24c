//! Notes and warnings of `nvvmm restore` about a VM that runs.

use nvvmm::checkpoint::report::{GuestClock, RestoreReport};
use nvvmm::control::{VmState, VmStatus};

use super::terminal::{shown_in_line, tell};

/// Tells of disks that could not be checked, and of a clock that is not set.
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
    let why = match report.clock {
        GuestClock::Kept | GuestClock::Set | GuestClock::Expected => return text,
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
    text.push_str(&format!(
        "nvvmm: warning: the guest's clock is not set: {why}\n"
    ));
    text
}

#[cfg(test)]
#[path = "restore_notes_test.rs"]
mod restore_notes_test;
