//! One command's stream to the agent of a VM.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use nvvmm_protocol::{AGENT_PORT, FailedBecause, FrameError, GreetingError, greet};
use nvvmm_snapshot::TimeText;

use crate::control::client::connect;
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
    call_with_version(paths, patience).map(|(stream, _)| stream)
}

/// Does the same as [`call`], and refuses an agent that speaks no version from this one on.
///
/// # Errors
/// Those of [`call`], and [`ErrorKind::Refused`].
pub fn call_since(
    paths: &VmRuntimePaths,
    patience: Duration,
    since: u16,
) -> Result<UnixStream, VmError> {
    let (stream, version) = call_with_version(paths, patience)?;
    if version >= since {
        return Ok(stream);
    }
    let message = format!(
        "the agent in {} is of an older nvvmm: it speaks version {version} of the protocol, and \
         this needs version {since}",
        paths.name
    );
    Err(VmError::new(ErrorKind::Refused, message)
        .with_remedy("install the nvvmm-agent of this nvvmm version in the guest"))
}

fn call_with_version(
    paths: &VmRuntimePaths,
    patience: Duration,
) -> Result<(UnixStream, u16), VmError> {
    let began = Instant::now();
    let until = began + patience;
    loop {
        let error = match attempt(&paths.vsock, until) {
            Ok(found) => {
                let (vm, took) = (&paths.name, TimeText(began.elapsed()));
                tracing::info!("the agent in the guest of {vm} answered after {took}");
                return Ok(found);
            }
            Err(GreetingError::Io(error)) => error,
            Err(error) => {
                let message = format!("the agent in {} cannot be used: {error}", paths.name);
                return Err(VmError::new(ErrorKind::Refused, message)
                    .with_remedy("install the nvvmm-agent of this nvvmm version in the guest"));
            }
        };
        if Instant::now() >= until {
            if let Ok(control) = ControlClient::connect(&paths.control) {
                control.check_not_stopped()?;
            }
            return Err(silent(&paths.name, patience, &error));
        }
        thread::sleep(RETRY_PAUSE);
    }
}

/// The error for an agent that nothing was heard of for `patience`.
fn silent(vm: &str, patience: Duration, error: &io::Error) -> VmError {
    let limit = patience.as_secs_f32();
    let (why, remedy) = match error.kind() {
        // A read or write has taken as long as it may.
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => (
            String::new(),
            "the guest may be busy or stuck, or the VM paused ('nvvmm ps', 'nvvmm console'); try \
             again, or 'nvvmm rewind' it if it has checkpoints",
        ),
        io::ErrorKind::UnexpectedEof => (
            ": it ends each stream at once".to_owned(),
            "the agent serves 128 commands at a time: end some of them",
        ),
        io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => (
            ": the VM takes no streams to its guest".to_owned(),
            "'nvvmm ps' says if the VM still runs",
        ),
        _ => (
            format!(": {error}"),
            "the guest must run nvvmm-agent (guest/agent/README.md), and the VM must not be \
             paused ('nvvmm ps')",
        ),
    };
    let message = format!("the agent in {vm} did not answer within {limit} s{why}");
    VmError::new(ErrorKind::Refused, message).with_remedy(remedy)
}

fn attempt(path: &Path, until: Instant) -> Result<(UnixStream, u16), GreetingError> {
    let mut stream = connect(path, until.saturating_duration_since(Instant::now()))?;
    let left = until.saturating_duration_since(Instant::now());
    let left = left.max(RETRY_PAUSE);
    stream.set_read_timeout(Some(left))?;
    stream.set_write_timeout(Some(left))?;
    stream.write_all(format!("CONNECT {AGENT_PORT}\n").as_bytes())?;
    expect_ok(&stream)?;
    let version = greet(&stream)?;
    stream.set_read_timeout(None)?;
    stream.set_write_timeout(None)?;
    Ok((stream, version))
}

/// Reads the device's line, and nothing that comes behind it.
fn expect_ok(mut stream: &UnixStream) -> io::Result<()> {
    let (mut line, mut byte) = (Vec::new(), [0]);
    while !line.ends_with(b"\n") {
        match stream.read(&mut byte) {
            Ok(0) => return Err(io::Error::other("nobody listens in the guest")),
            Ok(_) if line.len() == ANSWER_BYTES_MAX => break,
            Ok(_) => line.extend(byte),
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
