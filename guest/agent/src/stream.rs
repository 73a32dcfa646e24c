//! Streams of the host's commands to this agent, and failures of their requests.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;

use nvvmm_protocol::{FailedBecause, FrameError};
use vsock::VsockStream;

/// A stream between this agent and a command of the host.
pub trait Stream: Read + Write + AsFd + Send + Sized + 'static {
    /// The same stream, for another thread.
    fn another(&self) -> io::Result<Self>;
}

impl Stream for VsockStream {
    fn another(&self) -> io::Result<Self> {
        self.try_clone()
    }
}

/// The reason why a request was not carried out.
#[derive(Debug)]
pub enum Failure {
    /// The host is to be told.
    Said(FailedBecause, String),
    /// The stream broke, so the host cannot be told.
    Broken,
}

impl From<FrameError> for Failure {
    fn from(_: FrameError) -> Self {
        Self::Broken
    }
}

impl Failure {
    /// `what` could not be done because of `error`.
    pub fn io(what: &str, error: &io::Error) -> Self {
        let because = match error.kind() {
            io::ErrorKind::NotFound => FailedBecause::NotFound,
            io::ErrorKind::PermissionDenied | io::ErrorKind::IsADirectory => FailedBecause::Refused,
            _ => FailedBecause::Failed,
        };
        Self::Said(because, format!("{what}: {}", words(error)))
    }
}

/// The system's words for an error, without the number that the standard library adds.
fn words(error: &io::Error) -> String {
    let text = error.to_string();
    match (error.raw_os_error(), text.rfind(" (os error ")) {
        (Some(_), Some(end)) => text[..end].to_owned(),
        _ => text,
    }
}

#[cfg(test)]
#[path = "stream_test.rs"]
mod stream_test;
