//! One command's stream to the agent of a VM.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use nvvmm_protocol::{AGENT_PORT, FailedBecause, FrameError, GreetingError, greet};
use nvvmm_snapshot::TimeText;

use crate::control::{ControlClient, VmRuntimePaths};
use crate::error::{ErrorKind, VmError};

/// Time to wait for an agent that is not there: it may be about to start, or to come back
/// after a restore.
pub const PATIENCE: Duration = Duration::from_secs(10);
const RETRY_PAUSE: Duration = Duration::from_millis(50);
/// The longest line that the device answers with: `OK 4294967295`.
const ANSWER_BYTES_MAX: usize = 32;

/// Asks the agent of a VM for a stream; waits for an agent that is not there for at most
/// `patience`.
///
/// # Errors
/// [`ErrorKind::Refused`]: nobody answers, or an agent of another version does.
pub fn call(paths: &VmRuntimePaths, patience: Duration) -> Result<UnixStream, VmError> {
    let began = Instant::now();
    let until = began + patience;
    loop {
        let error = match attempt(&paths.vsock, until) {
            Ok(stream) => {
                let (vm, took) = (&paths.name, TimeText(began.elapsed()));
                tracing::info!("the agent in the guest of {vm} answered after {took}");
                return Ok(stream);
            }
            Err(GreetingError::Io(error)) => error,
            Err(error) => {
                return Err(refused(&paths.name, &error)
                    .with_remedy("install the nvvmm-agent of this nvvmm version in the guest"));
            }
        };
        if Instant::now() >= until {
            if let Ok(control) = ControlClient::connect(&paths.control) {
                control.check_not_stopped()?;
            }
            return Err(refused(&paths.name, &error).with_remedy(
                "the guest must run nvvmm-agent (guest/agent/README.md), and the VM must not be \
                 paused ('nvvmm ps')",
            ));
        }
        thread::sleep(RETRY_PAUSE);
    }
}

fn refused(vm: &str, error: &dyn std::fmt::Display) -> VmError {
    VmError::new(
        ErrorKind::Refused,
        format!("the agent in {vm} does not answer: {error}"),
    )
}

fn attempt(path: &Path, until: Instant) -> Result<UnixStream, GreetingError> {
    let mut stream = UnixStream::connect(path)?;
    let left = until.saturating_duration_since(Instant::now());
    stream.set_read_timeout(Some(left.max(RETRY_PAUSE)))?;
    stream.write_all(format!("CONNECT {AGENT_PORT}\n").as_bytes())?;
    expect_ok(&stream)?;
    greet(&stream)?;
    stream.set_read_timeout(None)?;
    Ok(stream)
}

/// Reads the device's line, and nothing that comes behind it.
fn expect_ok(mut stream: &UnixStream) -> io::Result<()> {
    let (mut line, mut byte) = (Vec::new(), [0]);
    while !line.ends_with(b"\n") {
        match stream.read(&mut byte) {
            Ok(0) => return Err(io::Error::other("nobody listens in the guest")),
            Ok(_) if line.len() == ANSWER_BYTES_MAX => break,
            Ok(_) => line.extend(byte),
            // What a read that has timed out says.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(io::Error::other("the guest does not react"));
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    if line.starts_with(b"OK ") && line.ends_with(b"\n") {
        Ok(())
    } else {
        Err(io::Error::other("the vsock socket sent an unknown answer"))
    }
}

/// Error of a command whose stream breaks.
pub fn broken(vm: &str, error: FrameError) -> VmError {
    match error {
        FrameError::Ended | FrameError::Io(_) => VmError::new(
            ErrorKind::Refused,
            format!("{vm} closed the stream to its agent: the VM or the agent was stopped"),
        ),
        other => VmError::failed(format!("the agent in {vm}: {other}")),
    }
}

/// Error of a command that the agent could not carry out.
pub fn failed(vm: &str, because: FailedBecause, message: &str) -> VmError {
    let kind = match because {
        FailedBecause::NotFound => ErrorKind::NotFound,
        FailedBecause::Refused => ErrorKind::Refused,
        FailedBecause::Failed => ErrorKind::Failed,
    };
    // The guest's words. They are escaped where they are printed.
    VmError::new(kind, format!("{vm}: {message}"))
}

#[cfg(test)]
#[path = "call_test.rs"]
mod call_test;
