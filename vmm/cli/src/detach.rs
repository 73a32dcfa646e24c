//! `--detach`: the command starts itself once more as the VM process, in a session of its own, and
//! waits until that one reports on its stdout that the guest runs or why it does not.
//!
//! The VM process has nothing of the command's caller but what it was given: the arguments,
//! descriptors that an argument names, and the variables that are for it. Limits and priority stay.
//! Signals, umask, terminal and working directory are its own. The wait has a limit: a process
//! that is stopped or does nothing is named, and left to itself.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{dup2_stderr, dup2_stdout, setsid};
use nvvmm::control::{VmRuntimePaths, VmStatus};
use nvvmm::sys::limits;
use nvvmm::{ErrorKind, VmError};
use nvvmm_snapshot::{ProcessText, TimeText, WaitLimit};
use serde::{Deserialize, Serialize};

use super::log::{self, LOG_BYTES_MAX, LogFile};
use super::{error, sys};

/// Variable that marks the process that becomes the VM process, and its values: the command goes
/// when the guest runs, or it stays as the VM's console (`attended`).
const CHILD_MARK: &str = "NVVMM_DETACHED_CHILD";
/// Variable with the name of the VM, where the arguments name several.
const COPY_NAME: &str = "NVVMM_COPY_NAME";
const LEFT_ALONE: &str = "1";
const ATTENDED: &str = "attended";
/// Milliseconds of silence after which the VM process is looked at.
const LISTEN: u16 = 500;
/// Time that a VM process has to end once it has closed its stdout.
const END_TIMEOUT: Duration = Duration::from_secs(5);
const END_POLL: Duration = Duration::from_millis(5);

/// A line that the VM process reports to the waiting command. The first one is `Ready` or `Failed`.
/// A command that stays hears of the end, too.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "report", rename_all = "snake_case")]
enum Report {
    Ready {
        status: Box<VmStatus>,
        warnings: Vec<VmError>,
    },
    Failed {
        error: VmError,
    },
    Ended {
        how: String,
    },
}

/// Tells if this process is the VM process that a waiting command started.
pub fn is_child() -> bool {
    std::env::var_os(CHILD_MARK).is_some()
}

/// Tells if this process is a VM process whose command stays as its console.
pub fn is_attended() -> bool {
    std::env::var_os(CHILD_MARK).is_some_and(|mark| mark == ATTENDED)
}

/// A VM process that has reported that its guest runs.
pub struct Started {
    /// Its VM.
    pub status: VmStatus,
    /// Things to tell the user about it.
    pub warnings: Vec<VmError>,
    /// The process.
    pub process: Child,
    /// Reports that are to come.
    pub reports: ChildStdout,
}

/// Starts the VM process and waits for its report.
pub fn start_and_wait() -> Result<VmStatus, VmError> {
    let started = start(LEFT_ALONE, None)?;
    started.warnings.iter().for_each(error::warn);
    Ok(started.status)
}

/// Starts one of several VM processes, and waits for its report; gives its warnings, too.
pub fn start_one(name: Option<&str>) -> Result<(VmStatus, Vec<VmError>), VmError> {
    let started = start(LEFT_ALONE, name)?;
    Ok((started.status, started.warnings))
}

/// The name that the command gave this VM process, which is one of several.
pub fn copy_name() -> Option<String> {
    let name = is_child().then(|| std::env::var(COPY_NAME).ok());
    name.flatten()
}

/// The same for a command that stays as the VM's console.
pub fn start_attended() -> Result<Started, VmError> {
    let started = start(ATTENDED, None)?;
    started.warnings.iter().for_each(error::warn);
    Ok(started)
}

fn start(mark: &str, name: Option<&str>) -> Result<Started, VmError> {
    let failed = |e: io::Error| VmError::io("start the VM process", &e);
    // Otherwise the system forgets how the VM process ended.
    sys::take_default_action(libc::SIGCHLD).map_err(failed)?;
    let mut child = Command::new("/proc/self/exe")
        .arg0("nvvmm")
        .args(std::env::args_os().skip(1))
        .env_clear()
        .envs(kept_variables())
        .envs(runtime_dir())
        .env(CHILD_MARK, mark)
        .envs(name.map(|name| (COPY_NAME, name)))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let (pid, began) = (child.id(), Instant::now());
    tracing::info!("started the VM process {pid}; waiting until its guest runs");
    let no_pipe = || failed(io::ErrorKind::BrokenPipe.into());
    let mut reports = child.stdout.take().ok_or_else(no_pipe)?;
    let line = read_report(&mut reports, pid)?;
    let took = TimeText(began.elapsed());
    tracing::info!("the VM process {pid} reported after {took}");
    match serde_json::from_str(&line) {
        Ok(Report::Ready { status, warnings }) => Ok(Started {
            status: *status,
            warnings,
            process: child,
            reports,
        }),
        Ok(Report::Failed { error }) => {
            // It is about to end, and its remains go with this process if it does not.
            end_of(&mut child).map_err(failed)?;
            Err(error)
        }
        Ok(Report::Ended { .. }) | Err(_) => Err(match end_of(&mut child).map_err(failed)? {
            Some(status) => ended_silently(status, " before its guest ran")
                .with_remedy("run it in the foreground with --console none and -vv, to see more"),
            None => without_report(child.id()),
        }),
    }
}

/// Variables of this process that are for a VM process, or for a command in the background.
pub fn kept_variables() -> impl Iterator<Item = (OsString, OsString)> {
    let own = [CHILD_MARK, COPY_NAME];
    let variables = std::env::vars_os();
    variables.filter(move |(name, _)| is_for_vm_process(name) && !own.iter().any(|own| name == own))
}

/// The variable of the runtime directory, if it is set: the VM process may change its working
/// directory.
pub fn runtime_dir() -> Option<(&'static str, PathBuf)> {
    const VARIABLE: &str = "NVVMM_RUNTIME_DIR";
    let set = std::env::var_os(VARIABLE).filter(|path| !path.is_empty())?;
    Some((VARIABLE, std::path::absolute(set).ok()?))
}

/// End of the VM in words, by the last of its process's reports; the process has closed their pipe.
pub fn end_reported(last: &str, process: &mut Child) -> Result<String, VmError> {
    let failed = |e: io::Error| VmError::io("wait for the VM process", &e);
    match serde_json::from_str(last) {
        Ok(Report::Ended { how }) => {
            end_of(process).map_err(failed)?;
            Ok(how)
        }
        Ok(Report::Failed { error }) => {
            end_of(process).map_err(failed)?;
            Err(error)
        }
        Ok(Report::Ready { .. }) | Err(_) => Err(match end_of(process).map_err(failed)? {
            Some(status) => ended_silently(status, ""),
            None => without_report(process.id()),
        }),
    }
}

/// Beginnings of the variables that a VM process keeps: its own, and those that steer how a program
/// is loaded, how it allocates, and how it panics. All others are the caller's, and may be secret.
const VARIABLES_KEPT: [&str; 7] = [
    "NVVMM_",
    "XDG_RUNTIME_DIR",
    "LD_",
    "GLIBC_TUNABLES",
    "MALLOC_",
    "RUST_",
    "LLVM_PROFILE_FILE",
];

fn is_for_vm_process(name: &OsStr) -> bool {
    let name = name.as_encoded_bytes();
    let mut kept = VARIABLES_KEPT.iter();
    kept.any(|kept| name.starts_with(kept.as_bytes()))
}

/// The line that the VM process reports; empty when it closes its stdout without one.
fn read_report(stdout: &mut ChildStdout, pid: u32) -> Result<String, VmError> {
    let failed = |e: io::Error| VmError::io("hear from the VM process", &e);
    let mut limit = WaitLimit::default();
    let mut line = Vec::new();
    let mut part = [0; 4096];
    loop {
        let mut wait = [PollFd::new(stdout.as_fd(), PollFlags::POLLIN)];
        match poll(&mut wait, LISTEN) {
            Err(Errno::EINTR) => continue,
            Err(e) => return Err(failed(e.into())),
            Ok(0) if limit.is_reached(Some(pid), 0) => return Err(without_report(pid)),
            Ok(0) => continue,
            Ok(_) => {}
        }
        match stdout.read(&mut part).map_err(failed)? {
            0 => break,
            count => line.extend_from_slice(&part[..count]),
        }
        if line.ends_with(b"\n") {
            break;
        }
    }
    Ok(String::from_utf8_lossy(&line).into_owned())
}

/// Waits a little for the end of a process that has closed its stdout. `None` when it goes on.
fn end_of(child: &mut Child) -> io::Result<Option<ExitStatus>> {
    let until = Instant::now() + END_TIMEOUT;
    loop {
        let ended = child.try_wait()?;
        if ended.is_some() || Instant::now() >= until {
            return Ok(ended);
        }
        thread::sleep(END_POLL);
    }
}

/// Error of a VM process that does not say what became of its VM.
fn without_report(pid: u32) -> VmError {
    VmError::new(
        ErrorKind::Failed,
        format!(
            "the VM process does not report that its guest runs: {}",
            ProcessText(pid)
        ),
    )
    .with_remedy(format!(
        "look at it with 'nvvmm ps'; 'kill -KILL {pid}' ends it"
    ))
}

/// Closes what this process has from the caller of the waiting command, but its standard streams
/// and what its arguments name. Nothing may be open yet.
pub fn close_inherited() -> Result<(), VmError> {
    let given: Vec<u32> = std::env::args_os()
        .flat_map(|argument| descriptors_named(&argument.to_string_lossy()))
        .collect();
    limits::close_inherited(&given)
        .map_err(|e| VmError::io("close the descriptors of the VM process's parent", &e))
}

/// Descriptors that an argument names: `/dev/fd/63`, `/proc/self/fd/63`, or `fd=63` of a network.
fn descriptors_named(argument: &str) -> Vec<u32> {
    ["/dev/fd/", "/proc/self/fd/", "fd="]
        .into_iter()
        .flat_map(|directory| argument.split(directory).skip(1))
        .filter_map(|rest| {
            let digits = rest.split(|c: char| !c.is_ascii_digit()).next()?;
            digits.parse().ok()
        })
        .collect()
}

fn ended_silently(status: ExitStatus, when: &str) -> VmError {
    let how = match status.signal() {
        Some(signal) => format!("was killed by signal {signal}"),
        None => format!("ended with exit code {}", status.code().unwrap_or_default()),
    };
    VmError::failed(format!("the VM process {how}{when}"))
}

/// Makes this process independent of the terminal that it was started from, with its log in the
/// log file, and stderr, too: a panic writes there. Stdout stays the way to the waiting command.
pub fn become_background(paths: &VmRuntimePaths) -> Result<(), VmError> {
    let failed = |e: io::Error| VmError::io(format_args!("log to {}", paths.log.display()), &e);
    sys::forget_signals_of_caller().map_err(|e| VmError::io("take signals", &e))?;
    umask(Mode::from_bits_truncate(0o077));
    setsid().map_err(|e| VmError::io("start a session for the VM process", &e.into()))?;
    let file = LogFile::open(&paths.log, &paths.log_before, LOG_BYTES_MAX).map_err(failed)?;
    dup2_stderr(&file).map_err(|e| failed(e.into()))?;
    log::go_to(file);
    Ok(())
}

/// Tells the waiting command that the guest runs. Lets it go, unless it stays: stdout becomes the
/// log. False when the status cannot be told, or when a command that was to stay is gone already:
/// then the VM is to end.
pub fn report_ready(status: &VmStatus, warnings: Vec<VmError>) -> bool {
    for warning in &warnings {
        tracing::warn!("{warning}");
    }
    let ready = Report::Ready {
        status: Box::new(status.clone()),
        warnings,
    };
    let line = line_of(&ready);
    let told = line.is_ok();
    let heard = report(line.or_else(|error| line_of(&Report::Failed { error })));
    if is_attended() {
        return told && heard.is_ok();
    }
    warn_unheard(heard);
    if let Err(e) = dup2_stdout(io::stderr()) {
        tracing::warn!("stdout cannot be turned to the log: {e}");
    }
    told
}

/// Tells the waiting command that the VM could not be started.
pub fn report_failed(error: &VmError) {
    warn_unheard(report(line_of(&Report::Failed {
        error: error.clone(),
    })));
}

/// Tells a command that stayed how the VM has ended. It may have left since.
pub fn report_end(how: &Result<String, VmError>) {
    if is_attended() {
        let _ = report(line_of(&match how {
            Ok(how) => Report::Ended { how: how.clone() },
            Err(error) => Report::Failed {
                error: error.clone(),
            },
        }));
    }
}

fn line_of(report: &impl Serialize) -> Result<Vec<u8>, VmError> {
    let failed = |e| VmError::failed(format!("the VM cannot tell its status: {e}"));
    let mut line = serde_json::to_vec(report).map_err(failed)?;
    line.push(b'\n');
    Ok(line)
}

fn report(line: Result<Vec<u8>, VmError>) -> Result<(), VmError> {
    let line = line?;
    let mut out = io::stdout().lock();
    let written = out.write_all(&line).and_then(|()| out.flush());
    written.map_err(|e| VmError::io("write the report", &e))
}

fn warn_unheard(heard: Result<(), VmError>) {
    // The command that waited was interrupted; the VM lives on under its name.
    if let Err(e) = heard {
        tracing::warn!("nobody waits for the report of this VM process: {e}");
    }
}

#[cfg(test)]
#[path = "detach_test.rs"]
mod detach_test;
