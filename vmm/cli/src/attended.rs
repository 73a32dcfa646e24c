//! A VM in the foreground of a terminal. The VM process is one in the background, as with
//! `--detach`; this process is its console until the VM ends, or until the user leaves it by
//! Ctrl-]. So the VM process never has the terminal, and leaving it is nothing to the VM.
//!
//! SIGINT and SIGTERM end the VM, and a second one ends it at once. SIGHUP, which a terminal that
//! is closed sends, leaves the console: the VM runs on.

use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, ExitCode};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use nvvmm::VmError;
use nvvmm::control::VmStatus;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use super::console::{self, Console, End, failed};
use super::detach::{self, Started};
use super::terminal::{RawTerminal, tell};

/// Starts the VM process as [`detach::start_and_wait`] does, and is its console. `text` has the
/// line that tells that the VM runs.
pub fn run(text: impl FnOnce(&VmStatus) -> String) -> Result<ExitCode, VmError> {
    let mut started = detach::start_attended()?;
    let leave = console::signal_stream(&[SIGHUP])?;
    let end = console::signal_stream(&[SIGINT, SIGTERM])?;
    tell(&text(&started.status));
    match at_console(&started, &leave, &end) {
        Ok(End::VmGone) => {}
        left => {
            tell(&left_text(&started.status));
            return left.map(|_| ExitCode::SUCCESS);
        }
    }
    let last = last_report(&mut started, &end)?;
    let how = detach::end_reported(&last, &mut started.process)?;
    tell(&format!("nvvmm: {how}\n"));
    Ok(ExitCode::SUCCESS)
}

/// Carries the console; [`End::VmGone`] also if the VM ended before there was one.
fn at_console(started: &Started, leave: &UnixStream, end: &UnixStream) -> Result<End, VmError> {
    let status = &started.status;
    let Some(path) = &status.console else {
        return Ok(End::VmGone);
    };
    let socket = match console::connect(path) {
        Ok(socket) => socket,
        Err(_) if !path.exists() => return Ok(End::VmGone),
        Err(error) => return Err(error),
    };
    let raw = RawTerminal::enter()?;
    let console = Console {
        vm: &status.name,
        socket: &socket,
        leave,
        end: Some(end),
        end_vm: &|| end_vm(&started.process),
    };
    let ended = console.relay(raw.is_some());
    drop(raw);
    ended.map_err(failed)
}

/// The VM process, which is this one's child, takes SIGTERM as a request to end.
fn end_vm(process: &Child) -> Result<(), VmError> {
    match kill(Pid::from_raw(process.id() as i32), Signal::SIGTERM) {
        Ok(()) | Err(Errno::ESRCH) => Ok(()),
        Err(errno) => Err(VmError::io("end the VM process", &errno.into())),
    }
}

/// The last line that the VM process writes, when it has closed its stdout.
fn last_report(started: &mut Started, end: &UnixStream) -> Result<String, VmError> {
    let failed = |e: io::Error| VmError::io("hear from the VM process", &e);
    let (mut text, mut part) = (Vec::new(), [0; 4096]);
    loop {
        let mut waits = [
            PollFd::new(started.reports.as_fd(), PollFlags::POLLIN),
            PollFd::new(end.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut waits, PollTimeout::NONE) {
            Err(Errno::EINTR) => continue,
            other => other.map_err(|e| failed(e.into()))?,
        };
        let [reports, signal] = waits.map(|wait| wait.any() == Some(true));
        if signal {
            end_vm(&started.process)?;
            let mut signalled = end;
            let _ = signalled.read(&mut part).map_err(failed)?;
        }
        if reports {
            match started.reports.read(&mut part).map_err(failed)? {
                0 => break,
                count => text.extend_from_slice(&part[..count]),
            }
        }
    }
    let text = String::from_utf8_lossy(&text);
    Ok(text.lines().last().unwrap_or_default().to_owned())
}

fn left_text(status: &VmStatus) -> String {
    let VmStatus { name, pid, .. } = status;
    format!(
        "\nnvvmm: left the console, {name} goes on (pid {pid})\n  console: nvvmm console {name}\n  \
         end:     nvvmm stop {name}\n"
    )
}

#[cfg(test)]
#[path = "attended_test.rs"]
mod attended_test;
