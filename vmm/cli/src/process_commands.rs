//! `nvvmm snapshot --process` and `nvvmm restore --into`.

use std::io::{IsTerminal, stdin};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use nvvmm::agent::call::{self, call, call_since};
use nvvmm::control::registry::Entry;
use nvvmm::control::{CaptureRequest, CapturedState, RestartRequest, RuntimeDir};
use nvvmm::process::{CaptureReport, RestartReport};
use nvvmm::sys::terminal::size_of;
use nvvmm::vm::check_image;
use nvvmm::{ErrorKind, VmError};
use nvvmm_protocol::{CHECKS, Check, Checked, FromAgent, ToAgent, receive, send};
use nvvmm_snapshot::{Pool, counted};

use super::args::SnapshotArguments;
use super::json::process::{self, Captured, Restarted};
use super::vm_commands::connect;
use super::{exec, output};

/// The longest time that the agent may look at processes.
const CHECK_MAX: Duration = Duration::from_secs(120);
const REFUSED: &str =
    "end or close what is named, then check it again (docs/using/processes.md has what is kept)";

/// `nvvmm snapshot --process`.
pub fn snapshot(pid: i32, arguments: SnapshotArguments) -> Result<(), VmError> {
    if arguments.check {
        return check(pid, &arguments);
    }
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
        let line = capture_line(&arguments.vm, &report);
        output::print(&output::report(&line, &capture_details(&report)))
    }
}

/// `nvvmm snapshot --process --check`: asks the agent alone.
fn check(pid: i32, arguments: &SnapshotArguments) -> Result<(), VmError> {
    let vm = &arguments.vm;
    let entry = RuntimeDir::of_user()?.find(vm)?;
    let agent = call_since(&entry.paths, call::PATIENCE, CHECKS)?;
    let request = ToAgent::Check(Check {
        pid,
        tree: arguments.tree,
        external_stdio: true,
        kill: arguments.kill,
    });
    agent
        .set_read_timeout(Some(CHECK_MAX))
        .map_err(|error| VmError::io("set a time limit", &error))?;
    send(&agent, &request).map_err(|error| call::broken(vm, error))?;
    let checked = match receive(&agent).map_err(|error| call::broken(vm, error))? {
        FromAgent::Checked(checked) => checked,
        FromAgent::Failed { because, message } => {
            return Err(call::failed(vm, because, &message).with_remedy(REFUSED));
        }
        _ => {
            let message = format!("the agent in {vm} answers out of turn");
            return Err(VmError::new(ErrorKind::Failed, message));
        }
    };
    if arguments.json.json {
        return output::print_json(&process::Checked::of(vm, pid, &checked));
    }
    output::print(&check_text(vm, pid, &checked))
}

fn check_text(vm: &str, pid: i32, checked: &Checked) -> String {
    let mut text = format!(
        "process {pid} in {vm} can be captured ({}, {})\n",
        counted(checked.processes, "process"),
        counted(checked.threads, "thread"),
    );
    for remark in checked.remarks.lines() {
        text.push_str(&format!("  {remark}\n"));
    }
    text
}

fn capture_line(vm: &str, report: &CaptureReport) -> String {
    format!(
        "snapshot {} of process {} in {vm} ({}, {}): frozen for {}, {} in all",
        report.name,
        report.pid,
        counted(report.processes, "process"),
        counted(report.threads, "thread"),
        output::time_us(report.frozen_us),
        output::time_us(report.total_us),
    )
}

/// Lines that `--verbose` adds.
fn capture_details(report: &CaptureReport) -> String {
    format!(
        "  memory {} shared by reference ({} of it new), {} copied\n  state {}, metadata {}\n",
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
pub fn restore(
    vm: &str,
    name: String,
    (choice, pool): (&RestartChoice, Option<&Path>),
) -> Result<ExitCode, VmError> {
    let &RestartChoice {
        attach,
        window,
        allow_root,
        json,
    } = choice;
    let entry = RuntimeDir::of_user()?.find(vm)?;
    // Before the agent is asked: a guest without one is not to blame for another kind of snapshot.
    check_pool(&entry, pool)?;
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
        let line = restart_line(&report);
        output::print(&output::report(&line, &restart_details(&report)))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Refuses another pool than that of the VM: its image has blocks of its own pool.
fn check_pool(vm: &Entry, given: Option<&Path>) -> Result<(), VmError> {
    let (Some(given), Some(record)) = (given, &vm.record) else {
        return Ok(());
    };
    let found = given
        .canonicalize()
        .map_err(|e| VmError::io(format_args!("find the pool {}", given.display()), &e))?;
    if record.pool.canonicalize().is_ok_and(|own| own == found) {
        return Ok(());
    }
    let (own, given) = (record.pool.display(), given.display());
    Err(VmError::new(
        ErrorKind::Refused,
        format!("the VM is in the pool {own}, and --pool names {given}"),
    )
    .with_remedy(format!(
        "an image is restarted in a VM of its own pool: 'nvvmm send IMAGE --pool {given} | nvvmm \
         receive --pool {own}' brings it there"
    )))
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

fn restart_line(report: &RestartReport) -> String {
    format!(
        "process {} of {} runs in {} ({}, {}) after {}",
        report.pid,
        report.name,
        report.vm,
        counted(report.processes, "process"),
        counted(report.threads, "thread"),
        output::time_us(report.total_us),
    )
}

/// Lines that `--verbose` adds.
fn restart_details(report: &RestartReport) -> String {
    format!(
        "  memory {} by reference, {} copied\n",
        output::frames_size(report.pages_adopted + report.pages_shown),
        output::frames_size(report.pages_copied),
    )
}

#[cfg(test)]
#[path = "process_commands_test.rs"]
mod process_commands_test;
