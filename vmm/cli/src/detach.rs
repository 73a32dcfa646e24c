//! `--detach`: the command starts itself once more as the VM process, in a session of its own, and
//! waits until that one reports on its stdout that the guest runs or why it does not.
//!
//! The VM process has nothing of the command's caller but what it was given: the arguments, the
//! environment, and descriptors that an argument names. The wait has a limit: a process that is
//! stopped or does nothing is named, and left to itself.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, poll};
use nix::unistd::{dup2_stderr, dup2_stdout, setsid};
use nvvmm::control::{VmRuntimePaths, VmStatus};
use nvvmm::sys::limits;
use nvvmm::{ErrorKind, VmError};
use nvvmm_snapshot::{ProcessText, TimeText, WaitLimit};
use serde::{Deserialize, Serialize};

use super::log::{self, LOG_BYTES_MAX, LogFile};

/// Variable that marks the process that becomes the VM process.
const CHILD_MARK: &str = "NVVMM_DETACHED_CHILD";
/// Milliseconds of silence after which the VM process is looked at.
const LISTEN: u16 = 500;
/// Time that a VM process has to end once it has closed its stdout.
const END_TIMEOUT: Duration = Duration::from_secs(5);
const END_POLL: Duration = Duration::from_millis(5);

/// The one line that the VM process reports to the waiting command.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "report", rename_all = "snake_case")]
enum Report {
    Ready { status: Box<VmStatus> },
    Failed { error: VmError },
}

/// Tells if this process is the VM process that a waiting command started.
pub fn is_child() -> bool {
    std::env::var_os(CHILD_MARK).is_some()
}

/// Starts the VM process and waits for its report.
pub fn start_and_wait() -> Result<VmStatus, VmError> {
    let failed = |e: io::Error| VmError::io("start the VM process", &e);
    let mut child = Command::new("/proc/self/exe")
        .args(std::env::args_os().skip(1))
        .env(CHILD_MARK, "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let (pid, began) = (child.id(), Instant::now());
    tracing::info!("started the VM process {pid}; waiting until its guest runs");
    let line = match child.stdout.take() {
        Some(stdout) => read_report(stdout, pid)?,
        None => String::new(),
    };
    tracing::info!(
        "the VM process {pid} reported after {}",
        TimeText(began.elapsed())
    );
    match serde_json::from_str(&line) {
        Ok(Report::Ready { status }) => Ok(*status),
        Ok(Report::Failed { error }) => {
            // It is about to end, and its remains go with this process if it does not.
            end_of(&mut child).map_err(failed)?;
            Err(error)
        }
        Err(_) => Err(match end_of(&mut child).map_err(failed)? {
            Some(status) => ended_silently(status),
            None => without_report(child.id()),
        }),
    }
}

/// The line that the VM process reports; empty when it closes its stdout without one.
fn read_report(mut stdout: ChildStdout, pid: u32) -> Result<String, VmError> {
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

/// Descriptors that an argument names as files: `/dev/fd/63` or `/proc/self/fd/63`.
fn descriptors_named(argument: &str) -> Vec<u32> {
    ["/dev/fd/", "/proc/self/fd/"]
        .into_iter()
        .flat_map(|directory| argument.split(directory).skip(1))
        .filter_map(|rest| {
            let digits = rest.split(|c: char| !c.is_ascii_digit()).next()?;
            digits.parse().ok()
        })
        .collect()
}

fn ended_silently(status: ExitStatus) -> VmError {
    let how = match status.signal() {
        Some(signal) => format!("was killed by signal {signal}"),
        None => format!("ended with exit code {}", status.code().unwrap_or_default()),
    };
    VmError::failed(format!("the VM process {how} before its guest ran"))
        .with_remedy("run it without --detach, with -vv, to see more")
}

/// Makes this process independent of the terminal that it was started from, with its log in the
/// log file, and stderr, too: a panic writes there. Stdout stays the way to the waiting command.
pub fn become_background(paths: &VmRuntimePaths) -> Result<(), VmError> {
    let failed = |e: io::Error| VmError::io(format_args!("log to {}", paths.log.display()), &e);
    setsid().map_err(|e| VmError::io("start a session for the VM process", &e.into()))?;
    let file = LogFile::open(&paths.log, &paths.log_before, LOG_BYTES_MAX).map_err(failed)?;
    dup2_stderr(&file).map_err(|e| failed(e.into()))?;
    log::go_to(file);
    Ok(())
}

/// Tells the waiting command that the guest runs, and lets it go: stdout becomes the log.
pub fn report_ready(status: &VmStatus) {
    report(&Report::Ready {
        status: Box::new(status.clone()),
    });
    if let Err(e) = dup2_stdout(io::stderr()) {
        tracing::warn!("stdout cannot be turned to the log: {e}");
    }
}

/// Tells the waiting command that the VM could not be started.
pub fn report_failed(error: &VmError) {
    report(&Report::Failed {
        error: error.clone(),
    });
}

fn report(report: &Report) {
    let written = serde_json::to_vec(report)
        .map_err(io::Error::from)
        .and_then(|mut line| {
            line.push(b'\n');
            let mut out = io::stdout().lock();
            out.write_all(&line).and_then(|()| out.flush())
        });
    // The command that waited was interrupted; the VM lives on under its name.
    if let Err(e) = written {
        tracing::warn!("nobody waits for the report of this VM process: {e}");
    }
}

#[cfg(test)]
#[path = "detach_test.rs"]
mod detach_test;
