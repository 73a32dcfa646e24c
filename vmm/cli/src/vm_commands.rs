//! Commands for running VMs: `ps`, `pause`, `resume`, `stop`, `kill`, `snapshot`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant, UNIX_EPOCH};

use nvvmm::checkpoint::report::SnapshotReport;
use nvvmm::control::registry::Entry;
use nvvmm::control::{ControlClient, RuntimeDir, SnapshotRequest, VmOrigin, VmState, VmStatus};
use nvvmm::sys::peer::PeerError;
use nvvmm::{ErrorKind, VmError};
use nvvmm_snapshot::{ProcessState, ProcessText};

use super::args::{PsArguments, SnapshotArguments, StopArguments, VmsArguments};
use super::names::{self, Chosen, Kind};
use super::output::{self, Column};
use super::terminal::shown_in_line;
use super::{json, process_commands, ring_commands};

/// Time that a VM process has to end once it has agreed to.
const END_TIMEOUT: Duration = Duration::from_secs(30);
/// Time after which a VM process without a control socket is not about to make one.
const START_TIME: Duration = Duration::from_secs(10);
const END_POLL: Duration = Duration::from_millis(20);

/// A VM in the list.
#[derive(Debug)]
enum Listed {
    Answered(Box<VmStatus>),
    /// The process lives but does not answer (yet, or any more).
    Silent {
        name: String,
        pid: Option<u32>,
        state: &'static str,
        pool: Option<PathBuf>,
        notice: String,
    },
}

/// `nvvmm ps`.
pub fn ps(arguments: &PsArguments) -> Result<(), VmError> {
    if arguments.quiet {
        return output::print_names(&names::running(&RuntimeDir::of_user()?)?);
    }
    let entries = RuntimeDir::of_user()?.entries()?;
    // One thread each: a VM that does not answer costs its timeout once, not once per VM.
    let listed: Vec<Listed> = thread::scope(|scope| {
        let asked: Vec<_> = entries
            .iter()
            .map(|entry| (entry, scope.spawn(|| ask(entry))))
            .collect();
        asked
            .into_iter()
            .map(|(entry, answer)| {
                answer.join().unwrap_or_else(|_| {
                    silent(entry, &VmError::failed("the status request failed"))
                })
            })
            .collect()
    });
    if arguments.json.json {
        return output::print_json(&listed.iter().map(json_of).collect::<Vec<_>>());
    }
    if listed.is_empty() {
        return output::print("no VM is running\n");
    }
    output::print(&ps_table(&listed))
}

fn json_of(listed: &Listed) -> json::vm::Vm {
    match listed {
        Listed::Answered(status) => json::vm::Vm::of(status),
        Listed::Silent {
            name,
            pid,
            state,
            pool,
            notice,
        } => json::vm::Vm {
            pid: *pid,
            pool: pool.as_deref().map(|pool| pool.display().to_string()),
            notice: Some(notice.clone()),
            ..json::vm::Vm::silent(name, state)
        },
    }
}

fn ask(entry: &Entry) -> Listed {
    let mut vm = match ControlClient::connect(&entry.paths.control) {
        Ok(vm) => vm,
        Err(error) => return silent(entry, &error),
    };
    match vm.status() {
        Ok(mut status) => {
            name_who_is_waited_for(&mut status);
            Listed::Answered(Box::new(status))
        }
        Err(error) => silent(entry, &error),
    }
}

/// Adds the state of the process that the VM waits for: the VM process may be confined, and then
/// sees no other one.
fn name_who_is_waited_for(status: &mut VmStatus) {
    let Some(pid) = status.waits_for_pid else {
        return;
    };
    let (bare, full) = (format!("process {pid}"), ProcessText(pid).to_string());
    if let Some(notice) = status.notice.as_mut().filter(|text| text.ends_with(&bare)) {
        *notice = notice.replace(&bare, &full);
    }
}

fn silent(entry: &Entry, error: &VmError) -> Listed {
    let process = entry.process().ok();
    let record = entry.record.as_ref();
    let has_socket = entry.paths.control.exists();
    let is_stopped = process
        .as_ref()
        .and_then(|process| ProcessState::of(process.pid()))
        .is_some_and(ProcessState::is_stopped);
    let is_young = record.is_some_and(|record| {
        let started = UNIX_EPOCH + Duration::from_millis(record.started_unix_ms);
        started.elapsed().map_or(true, |age| age < START_TIME)
    });
    let (state, notice) = match (is_stopped, has_socket, is_young) {
        (true, _, _) => ("stopped", error.message.clone()),
        (false, true, _) => ("silent", error.message.clone()),
        (false, false, true) => ("starting", error.message.clone()),
        (false, false, false) => (
            "unreachable",
            format!(
                "its socket {} was removed under it; 'nvvmm stop {} --force' ends it",
                entry.paths.control.display(),
                entry.paths.name
            ),
        ),
    };
    Listed::Silent {
        name: entry.paths.name.clone(),
        pid: process
            .map(|process| process.pid())
            .or(record.map(|record| record.pid)),
        state,
        pool: record.map(|record| record.pool.clone()),
        notice,
    }
}

fn ps_table(listed: &[Listed]) -> String {
    let columns = [
        Column::Text("NAME"),
        Column::Number("PID"),
        Column::Text("STATE"),
        Column::Number("CPUS"),
        Column::Number("MEMORY"),
        Column::Number("OWN"),
        Column::Number("SHARED"),
        Column::Text("UP"),
        Column::Text("FROM"),
        Column::Text("POOL"),
        Column::Text("CONSOLE"),
    ];
    let rows: Vec<Vec<String>> = listed.iter().map(ps_row).collect();
    let mut text = output::table(&columns, &rows);
    for vm in listed {
        match vm {
            Listed::Answered(status) => {
                if let Some(notice) = &status.notice {
                    text.push_str(&notice_line(&status.name, notice));
                }
                if let Some(ring) = &status.ring {
                    text.push_str(&ring_commands::ps_line(&status.name, ring));
                }
            }
            Listed::Silent { name, notice, .. } => text.push_str(&notice_line(name, notice)),
        }
    }
    text
}

fn notice_line(name: &str, notice: &str) -> String {
    format!("{}: {}\n", shown_in_line(name), shown_in_line(notice))
}

fn ps_row(vm: &Listed) -> Vec<String> {
    match vm {
        Listed::Answered(status) => vec![
            status.name.clone(),
            status.pid.to_string(),
            state_text(status.state).to_owned(),
            status.vcpus.to_string(),
            output::size(status.memory_bytes),
            output::frames_size(status.ram.frames_own),
            output::frames_size(status.ram.frames_shared),
            output::lasting(Duration::from_millis(status.uptime_ms)),
            match &status.origin {
                VmOrigin::Boot { .. } => "boot".to_owned(),
                VmOrigin::Snapshot { name } => name.clone(),
            },
            status.pool.display().to_string(),
            status
                .console
                .as_ref()
                .map_or("-".to_owned(), |path| path.display().to_string()),
        ],
        Listed::Silent {
            name,
            pid,
            state,
            pool,
            ..
        } => {
            let unknown = || "-".to_owned();
            vec![
                name.clone(),
                pid.map_or_else(unknown, |pid| pid.to_string()),
                (*state).to_owned(),
                unknown(),
                unknown(),
                unknown(),
                unknown(),
                unknown(),
                unknown(),
                pool.as_ref()
                    .map_or_else(unknown, |pool| pool.display().to_string()),
                unknown(),
            ]
        }
    }
}

fn state_text(state: VmState) -> &'static str {
    match state {
        VmState::Booting => "booting",
        VmState::Running => "running",
        VmState::Paused => "paused",
        VmState::NoSpace => "no-space",
        VmState::Waiting => "waiting",
        VmState::Stopping => "stopping",
    }
}

/// `nvvmm pause`.
pub fn pause(arguments: &VmsArguments) -> Result<ExitCode, VmError> {
    let dir = RuntimeDir::of_user()?;
    Ok(chosen(arguments, &dir)?.each(|vm| connect(&dir.find(vm)?)?.pause()))
}

/// `nvvmm resume`.
pub fn resume(arguments: &VmsArguments) -> Result<ExitCode, VmError> {
    let dir = RuntimeDir::of_user()?;
    Ok(chosen(arguments, &dir)?.each(|vm| connect(&dir.find(vm)?)?.resume()))
}

/// The running VMs that are meant.
fn chosen(arguments: &VmsArguments, dir: &RuntimeDir) -> Result<Chosen, VmError> {
    let choice = arguments.names.choice(arguments.force);
    Ok(Chosen::of(&choice, Kind::Vm, &names::running(dir)?))
}

/// `nvvmm stop`.
pub fn stop(arguments: &StopArguments) -> Result<ExitCode, VmError> {
    let dir = RuntimeDir::of_user()?;
    let choice = arguments.names.choice(arguments.force);
    let chosen = Chosen::of(&choice, Kind::Vm, &names::running(&dir)?);
    Ok(match arguments.force {
        true => chosen.each(|vm| kill_one(&dir, vm)),
        false => chosen.each(|vm| stop_one(&dir, vm)),
    })
}

fn stop_one(dir: &RuntimeDir, vm: &str) -> Result<(), VmError> {
    connect(&dir.find(vm)?)
        .and_then(|mut client| client.stop())
        .map_err(|e| e.with_remedy(format!("'nvvmm stop {vm} --force' kills the VM process")))?;
    wait_until_gone(dir, vm)
}

/// `nvvmm kill`.
pub fn kill(arguments: &VmsArguments) -> Result<ExitCode, VmError> {
    let dir = RuntimeDir::of_user()?;
    Ok(chosen(arguments, &dir)?.each(|vm| kill_one(&dir, vm)))
}

/// Kills a VM process, and waits until it is gone.
pub(super) fn kill_one(dir: &RuntimeDir, vm: &str) -> Result<(), VmError> {
    kill_process(&dir.find(vm)?)?;
    wait_until_gone(dir, vm)
}

/// Kills the VM process. The kernel names it, by its control socket or its lock: a number from a
/// file could be that of any process by now, or of one in another container.
fn kill_process(entry: &Entry) -> Result<(), VmError> {
    let name = &entry.paths.name;
    let by_socket = ControlClient::connect(&entry.paths.control).map(|client| client.process());
    let process = match by_socket {
        Ok(Ok(process)) => Ok(process),
        // It has no socket yet, or any more.
        Ok(Err(_)) | Err(_) => entry.process(),
    };
    match process.and_then(|process| process.kill()) {
        Ok(()) | Err(PeerError::Ended) => Ok(()),
        Err(error @ PeerError::OtherNamespace) => Err(VmError::new(
            ErrorKind::Refused,
            format!("the process of VM '{name}' cannot be killed from here: {error}"),
        )
        .with_remedy(format!(
            "run 'nvvmm stop {name} --force' where the VM was started"
        ))),
        Err(PeerError::Os(error)) => Err(VmError::io(
            format_args!("kill the process of VM '{name}'"),
            &error,
        )),
    }
}

fn wait_until_gone(dir: &RuntimeDir, vm: &str) -> Result<(), VmError> {
    let deadline = Instant::now() + END_TIMEOUT;
    while dir.is_living(vm)? {
        if Instant::now() >= deadline {
            let process = dir.find(vm)?.process();
            let who = process.map_or_else(
                |_| String::new(),
                |process| format!(" ({})", ProcessText(process.pid())),
            );
            return Err(VmError::new(
                ErrorKind::Refused,
                format!(
                    "VM '{vm}' was asked to end, but still runs after {} s{who}",
                    END_TIMEOUT.as_secs()
                ),
            )
            .with_remedy(format!("'nvvmm stop {vm} --force' kills the VM process")));
        }
        thread::sleep(END_POLL);
    }
    Ok(())
}

pub(super) fn connect(entry: &Entry) -> Result<ControlClient, VmError> {
    ControlClient::connect(&entry.paths.control)
}

/// `nvvmm snapshot`.
pub fn snapshot(arguments: SnapshotArguments) -> Result<(), VmError> {
    if let Some(pid) = arguments.process {
        return process_commands::snapshot(pid, arguments);
    }
    let SnapshotArguments {
        vm,
        name,
        stop,
        process: _,
        tree: _,
        leave_stopped: _,
        kill: _,
        durability,
        verify,
        json: form,
    } = arguments;
    let dir = RuntimeDir::of_user()?;
    let report = connect(&dir.find(&vm)?)?.snapshot(SnapshotRequest {
        name,
        stop,
        durability,
        verify,
    })?;
    if stop {
        wait_until_gone(&dir, &vm)?;
    }
    if form.json {
        output::print_json(&json::snapshot::Taken::of(&vm, &report))
    } else {
        let line = snapshot_line(&vm, &report);
        output::print(&output::report(&line, &snapshot_details(&report)))
    }
}

fn snapshot_line(vm: &str, report: &SnapshotReport) -> String {
    format!(
        "snapshot {} of {vm}: paused for {}, {} in all",
        report.name,
        output::time_us(report.pause_us),
        output::time_us(report.total_us)
    )
}

/// Lines that `--verbose` adds.
fn snapshot_details(report: &SnapshotReport) -> String {
    let mut text = String::new();
    text.push_str(&format!(
        "  memory {} shared by reference ({} of it new), {} copied",
        output::frames_size(report.frames_mapped),
        output::frames_size(report.frames_new),
        output::frames_size(report.frames_copied)
    ));
    if report.frames_copied > 0 {
        let paused = output::frames_size(report.frames_copied_paused);
        text.push_str(&format!(", {paused} of it in the pause"));
    }
    text.push('\n');
    text.push_str(&format!(
        "  machine state {}, metadata {}\n",
        output::size(report.state_bytes),
        output::frames_size(report.metadata_blocks)
    ));
    text.push_str(&format!("  durability {}\n", report.durability));
    if let Some(made) = report.digests_made {
        text.push_str(&format!(
            "  digests made of {}\n",
            output::frames_size(made)
        ));
    }
    text.push_str(&output::phases(&report.phases));
    text
}

#[cfg(test)]
#[path = "vm_commands_test.rs"]
mod vm_commands_test;
