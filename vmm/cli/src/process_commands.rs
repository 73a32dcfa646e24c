//! `nvvmm snapshot --process` and `nvvmm restore --into`.

use std::io::{IsTerminal, stdin};
use std::os::fd::AsFd;
use std::process::ExitCode;

use nvvmm::VmError;
use nvvmm::agent::call::{self, call};
use nvvmm::control::registry::Entry;
use nvvmm::control::{CaptureRequest, CapturedState, RestartRequest, RuntimeDir};
use nvvmm::process::{CaptureReport, RestartReport};
use nvvmm::sys::terminal::size_of;
use nvvmm::vm::check_image;
use nvvmm_snapshot::Pool;

use super::args::SnapshotArguments;
use super::json::process::{Captured, Restarted};
use super::vm_commands::connect;
use super::{exec, output};

/// `nvvmm snapshot --process`.
pub fn snapshot(pid: i32, arguments: SnapshotArguments) -> Result<(), VmError> {
    let entry = RuntimeDir::of_user()?.find(&arguments.vm)?;
    // The agent first: the VM does not wait as long for a request as it may take.
    let agent = call(&entry.paths, call::PATIENCE)?;
    let mut client = connect(&entry)?;
    let request = CaptureRequest {
        name: arguments.name,
        pid,
        tree: arguments.tree,
        afterwards: match (arguments.leave_stopped, arguments.kill) {
            (true, _) => CapturedState::Stop,
            (_, true) => CapturedState::Kill,
            _ => CapturedState::GoOn,
        },
        durability: arguments.durability,
    };
    let report = client.capture(request, agent.as_fd())?;
    if arguments.json.json {
        output::print_json(&Captured::of(&arguments.vm, &report))
    } else {
        output::print(&capture_text(&arguments.vm, &report))
    }
}

fn capture_text(vm: &str, report: &CaptureReport) -> String {
    format!(
        "snapshot {} of process {} in {vm} ({}, {}): frozen for {}, {} in all\n  \
         memory {} shared by reference ({} of it new), {} copied\n  state {}, metadata {}\n",
        report.name,
        report.pid,
        counted(report.processes, "process", "processes"),
        counted(report.threads, "thread", "threads"),
        output::time_us(report.frozen_us),
        output::time_us(report.total_us),
        output::frames_size(report.pages - report.frames_copied.min(report.pages)),
        output::frames_size(report.frames_given),
        output::frames_size(report.frames_copied),
        output::size(report.state_bytes),
        output::frames_size(report.metadata_blocks),
    )
}

/// Options of `nvvmm restore --into`.
#[derive(Clone, Copy, Debug)]
pub struct RestartChoice {
    /// Connect the process to this command's standard streams.
    pub attach: bool,
    /// Show the image in a window.
    pub window: bool,
    /// Let a process from elsewhere have privileges.
    pub allow_root: bool,
    /// Print JSON.
    pub json: bool,
}

/// `nvvmm restore --into`.
pub fn restore(vm: &str, name: String, choice: &RestartChoice) -> Result<ExitCode, VmError> {
    let &RestartChoice {
        attach,
        window,
        allow_root,
        json,
    } = choice;
    let entry = RuntimeDir::of_user()?.find(vm)?;
    // Before the agent is asked: a guest without one is not to blame for another kind of snapshot.
    check_snapshot(&entry, &name)?;
    let agent = call(&entry.paths, call::PATIENCE)?;
    let mut client = connect(&entry)?;
    let is_terminal = attach && stdin().is_terminal();
    let terminal = is_terminal
        .then(|| size_of(stdin().as_fd()))
        .transpose()
        .map_err(|error| VmError::io("learn the size of the terminal", &error))?;
    let request = RestartRequest {
        name,
        attach,
        terminal: terminal.map(|size| (size.rows, size.columns)),
        window,
        allow_root,
    };
    let report = client.restart(request, agent.as_fd())?;
    if attach {
        return exec::follow(vm, &agent, is_terminal);
    }
    if json {
        output::print_json(&Restarted::of(&report))?;
    } else {
        output::print(&restart_text(&report))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Checks that the snapshot is there and is one of processes. The VM process checks it, too: a
/// pool that this command cannot open is left to it.
fn check_snapshot(vm: &Entry, name: &str) -> Result<(), VmError> {
    let Some(pool) = vm.record.as_ref().and_then(|vm| Pool::open(&vm.pool).ok()) else {
        return Ok(());
    };
    let Ok(entries) = pool.entries() else {
        return Ok(());
    };
    match entries.iter().find(|entry| entry.name == name) {
        Some(entry) => check_image(entry),
        None => pool.find(name).map(drop).map_err(VmError::from),
    }
}

fn restart_text(report: &RestartReport) -> String {
    format!(
        "process {} of {} runs in {} ({}, {}) after {}\n  memory {} by reference, {} copied\n",
        report.pid,
        report.name,
        report.vm,
        counted(report.processes, "process", "processes"),
        counted(report.threads, "thread", "threads"),
        output::time_us(report.total_us),
        output::frames_size(report.pages_adopted + report.pages_shown),
        output::frames_size(report.pages_copied),
    )
}

fn counted(number: u32, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

#[cfg(test)]
#[path = "process_commands_test.rs"]
mod process_commands_test;
