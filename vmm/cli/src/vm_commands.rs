//! Commands for running VMs: `ps`, `pause`, `resume`, `stop`, `kill`, `snapshot`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant, UNIX_EPOCH};

use nvvmm::checkpoint::report::SnapshotReport;
use nvvmm::control::life::{Life, Phase};
use nvvmm::control::registry::Entry;
use nvvmm::control::{ControlClient, RuntimeDir, SnapshotRequest, VmOrigin, VmState, VmStatus};
use nvvmm::spec::{NetSource, NetSpec};
use nvvmm::sys::peer::PeerError;
use nvvmm::{ErrorKind, VmError};
use nvvmm_snapshot::{ProcessState, ProcessText};

use super::args::{PsArguments, SnapshotArguments, StopArguments, VmsArguments};
use super::names::{self, Chosen, Kind};
use super::output;
use super::ps_table::{self, Columns, Row};
use super::terminal::{shown_in_line, tell};
use super::{
    arrival_progress, freed_memory, json, outside_disks, past_commands, process_commands,
    replicate, ring_commands, snapshot_hooks, spares,
};

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
pub fn ps(arguments: PsArguments) -> Result<(), VmError> {
    let dir = RuntimeDir::of_user()?;
    if arguments.quiet {
        return print_names(&dir, arguments.all);
    }
    let mut entries = dir.entries()?;
    entries.extend(dir.spares()?);
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
    let past = dir.past()?;
    if arguments.json.json {
        let mut vms: Vec<json::vm::Vm> = listed.iter().map(json_of).collect();
        if arguments.all {
            vms.extend(past.iter().map(json::vm::Vm::ended));
        }
        return output::print_json(&vms);
    }
    let PsArguments { all, wide, .. } = arguments;
    let mut rows: Vec<Row> = listed.iter().map(ps_row).collect();
    if all {
        rows.extend(past.iter().map(past_commands::row));
    }
    if !rows.is_empty() {
        output::print(&ps_table::table(&rows, Columns { all, wide }))?;
    }
    if listed.is_empty() {
        tell(&past_commands::none_runs(if all { 0 } else { past.len() }));
    }
    tell(&notes(&listed));
    Ok(())
}

/// The list of `nvvmm ps --quiet`.
fn print_names(dir: &RuntimeDir, all: bool) -> Result<(), VmError> {
    let mut names = names::running(dir)?;
    if all {
        names.extend(dir.past()?.into_iter().map(|life| life.start.vm));
    }
    output::print_names(&names)
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
            if status.state == VmState::Spare {
                status.name.clone_from(&entry.paths.name);
            }
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
    let is_young = !has_run(entry)
        && record.is_some_and(|record| {
            let started = UNIX_EPOCH + Duration::from_millis(record.started_unix_ms);
            started.elapsed().map_or(true, |age| age < START_TIME)
        });
    let unreachable = || {
        let (name, files) = (&entry.paths.name, entry.paths.control.with_file_name(""));
        format!(
            "its files in {} were removed under it: 'nvvmm stop {name}' ends it, nothing else \
             reaches it",
            files.display()
        )
    };
    let (state, notice) = match (is_stopped, has_socket, is_young) {
        _ if entry.is_unlisted => ("unreachable", unreachable()),
        (true, _, _) => ("stopped", error.message.clone()),
        (false, true, _) => ("silent", error.message.clone()),
        (false, false, true) => ("starting", error.message.clone()),
        (false, false, false) => ("unreachable", unreachable()),
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

/// Lines about VMs that have something to say.
fn notes(listed: &[Listed]) -> String {
    let mut text = String::new();
    for vm in listed {
        match vm {
            Listed::Answered(status) => {
                if let Some(notice) = &status.notice {
                    text.push_str(&notice_line(&status.name, notice));
                }
                if let Some(ring) = &status.ring {
                    text.push_str(&ring_commands::ps_line(&status.name, ring));
                }
                if let Some(replica) = &status.replica {
                    text.push_str(&replicate::ps_line(&status.name, replica));
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

/// The place of a card on the host, and its address: `passt 02:00:00:00:00:01`.
fn network_text(card: &NetSpec) -> String {
    let place = match &card.source {
        NetSource::Passt { .. } => "passt".to_owned(),
        NetSource::Tap { name } => format!("tap={name}"),
        NetSource::Fd { fd } => format!("fd={fd}"),
        NetSource::None => "none".to_owned(),
    };
    let netns = card.netns.as_ref();
    let netns = netns.map_or(String::new(), |name| format!(",netns={name}"));
    format!("{place}{netns} {}", card.mac)
}

fn ps_row(vm: &Listed) -> Row {
    match vm {
        Listed::Answered(status) => {
            // It has no name that a command takes.
            let name = match status.state {
                VmState::Spare => "-",
                _ => &status.name,
            };
            let mut row = Row::new(name, state_text(status.state));
            row.pid = status.pid.to_string();
            row.vcpus = status.vcpus.to_string();
            row.memory = output::size(status.memory_bytes);
            row.own = output::frames_size(status.ram.frames_own);
            row.shared = output::frames_size(status.ram.frames_shared);
            row.used = output::frames_size(status.ram.frames_mapped);
            row.empty = output::frames_size(status.ram.frames_empty);
            row.balloon = output::frames_size(status.ram.frames_ballooned);
            row.up = output::lasting(Duration::from_millis(status.uptime_ms));
            row.from = match &status.origin {
                VmOrigin::Boot { .. } => "boot".to_owned(),
                VmOrigin::Snapshot { name } => name.clone(),
            };
            row.reboots = status.reboot_count.to_string();
            if let Some(net) = status.nets.first() {
                row.network = network_text(&net.card);
            }
            row.pool = status.pool.display().to_string();
            if let Some(console) = &status.console {
                row.console = console.display().to_string();
            }
            row
        }
        Listed::Silent {
            name,
            pid,
            state,
            pool,
            ..
        } => {
            let mut row = Row::new(name, state);
            if let Some(pid) = pid {
                row.pid = pid.to_string();
            }
            if let Some(pool) = pool {
                row.pool = pool.display().to_string();
            }
            row
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
        VmState::Fetching => "fetching",
        VmState::StoreAway => "store-away",
        VmState::Spare => "spare",
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
    if arguments.names.all {
        spares::end_those_of(&dir, |_| true)?;
    }
    Ok(match arguments.force {
        true => chosen.each(|vm| kill_one(&dir, vm)),
        false => chosen.each(|vm| stop_one(&dir, vm)),
    })
}

fn stop_one(dir: &RuntimeDir, vm: &str) -> Result<(), VmError> {
    let entry = dir.find(vm)?;
    let mut kept = Vec::new();
    connect(&entry)
        .and_then(|mut client| {
            // A VM that tells nothing of its disks is stopped as well.
            kept = client
                .status()
                .map_or(Vec::new(), |status| kept_disks(&status));
            client.stop()
        })
        .or_else(|error| ask_without_socket(&entry, error))
        .map_err(|e| e.with_remedy(format!("'nvvmm stop {vm} --force' kills the VM process")))?;
    wait_until_gone(dir, vm)?;
    tell(&kept_text(&kept));
    Ok(())
}

/// Copies of disks that were made for the VM, and stay when it ends.
fn kept_disks(status: &VmStatus) -> Vec<String> {
    let copies = status.disks.iter().filter(|disk| disk.is_kept_copy);
    copies
        .filter_map(|disk| disk.disk.pool_disk().map(str::to_owned))
        .collect()
}

fn kept_text(disks: &[String]) -> String {
    let lines = disks.iter().map(|disk| {
        format!("nvvmm: note: the disk {disk} is kept; 'nvvmm disk rm {disk}' removes it\n")
    });
    lines.collect()
}

/// `nvvmm kill`.
pub fn kill(arguments: &VmsArguments) -> Result<ExitCode, VmError> {
    let dir = RuntimeDir::of_user()?;
    let chosen = chosen(arguments, &dir)?;
    if arguments.names.all {
        spares::end_those_of(&dir, |_| true)?;
    }
    Ok(chosen.each(|vm| kill_one(&dir, vm)))
}

/// Kills a VM process, and waits until it is gone.
pub(super) fn kill_one(dir: &RuntimeDir, vm: &str) -> Result<(), VmError> {
    kill_process(&dir.find(vm)?)?;
    wait_until_gone(dir, vm)
}

/// True if the guest of a VM that lives has run: its control socket was there.
fn has_run(entry: &Entry) -> bool {
    let life = Life::read(&entry.paths.life).ok().flatten();
    life.is_some_and(|life| life.state.phase != Phase::Starting)
}

/// Asks a VM process whose socket was removed to end, by a signal. One that is stopped is not
/// asked: it would end later, when nobody expects it.
fn ask_without_socket(entry: &Entry, error: VmError) -> Result<(), VmError> {
    let is_cut_off = !entry.paths.control.exists() && (entry.is_unlisted || has_run(entry));
    let process = entry.process().ok().filter(|_| is_cut_off);
    let Some(process) = process else {
        return Err(error);
    };
    if ProcessState::of(process.pid()).is_some_and(ProcessState::is_stopped) {
        let who = ProcessText(process.pid());
        return Err(VmError::new(
            ErrorKind::Refused,
            format!("the VM runs in {who}"),
        ));
    }
    let asked = process.ask_to_end();
    let ended = asked.and_then(|()| Ok(process.wait_end(END_TIMEOUT)?));
    match ended {
        Ok(true) | Err(PeerError::Ended) => Ok(()),
        Ok(false) => Err(VmError::new(
            ErrorKind::Refused,
            format!("{} does not end", ProcessText(process.pid())),
        )),
        Err(_) => Err(error),
    }
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
    let killed = process.and_then(|process| {
        process.kill()?;
        // Without its lock nobody else can tell when it is gone.
        match entry.is_unlisted {
            true => Ok(process.wait_end(END_TIMEOUT).map(drop)?),
            false => Ok(()),
        }
    });
    match killed {
        Err(PeerError::Ended) if entry.is_unlisted => Err(VmError::failed(format!(
            "no process of VM '{name}' is found; it may be in another PID namespace"
        ))),
        Ok(()) | Err(PeerError::Ended) => Ok(()),
        Err(error @ PeerError::Ambiguous(_)) => Err(VmError::new(
            ErrorKind::Refused,
            format!("the process of VM '{name}' is not known: {error}"),
        )
        .with_remedy("end the right one with 'kill'")),
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

pub(super) fn wait_until_gone(dir: &RuntimeDir, vm: &str) -> Result<(), VmError> {
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
        check: _,
        durability,
        verify,
        disks_only,
        no_hooks,
        hooks_timeout,
        wait_freed,
        json: form,
    } = arguments;
    let dir = RuntimeDir::of_user()?;
    let entry = dir.find(&vm)?;
    if let Some(limit) = wait_freed {
        freed_memory::wait(&mut connect(&entry)?, limit)?;
    }
    let mut shown = None;
    let hooks = match no_hooks {
        true => None,
        false => {
            let status = connect(&entry)?.status()?;
            shown = arrival_progress::show(&entry, &status)?;
            snapshot_hooks::before(&entry.paths, &status, &name, hooks_timeout)?
        }
    };
    let has_hooks = hooks.is_some();
    // A stream of its own: the hooks may have taken longer than a VM waits for a request.
    let taken = connect(&entry)?.snapshot(SnapshotRequest {
        name,
        stop,
        durability,
        verify,
        disks_only,
    });
    drop(shown);
    // A VM that ends runs them in the copies that go on from the snapshot.
    if !stop || taken.is_err() {
        snapshot_hooks::after(hooks);
    }
    let report = taken?;
    if stop {
        wait_until_gone(&dir, &vm)?;
    }
    if form.json {
        output::print_json(&json::snapshot::Taken::of(&vm, &report))?;
    } else {
        let line = snapshot_line(&vm, &report);
        output::print(&output::report(&line, &snapshot_details(&report)))?;
    }
    if report.disks_only && !has_hooks {
        let name = &report.name;
        tell(&format!(
            "nvvmm: note: {name} has the disks as a power failure would leave them\n"
        ));
    }
    outside_disks::tell(&report.outside_disks);
    Ok(())
}

fn snapshot_line(vm: &str, report: &SnapshotReport) -> String {
    let what = match report.disks_only {
        true => "snapshot of disks",
        false => "snapshot",
    };
    format!(
        "{what} {} of {vm}: paused for {}, {} in all",
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
        "  accesses of the guest held for at most {}\n",
        output::time_us(report.held_us_max)
    ));
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
