//! Streams of the host: one for each command.

use std::convert::Infallible;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use nvvmm_protocol::{
    AGENT_PORT, FailedBecause, FrameError, FromAgent, ToAgent, greet, receive, send,
};
use vsock::{VMADDR_CID_ANY, VsockListener, VsockStream};

use crate::process::{capture, restart};
use crate::{files, program};

/// Commands at once; the device has no more streams than that.
const COMMANDS_MAX: usize = 128;
/// After a failure to accept, which passes: out of descriptors, or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

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

/// Why a request was not carried out.
#[derive(Debug)]
pub enum Failure {
    /// The host is to be told.
    Said(FailedBecause, String),
    /// The stream broke; there is nobody to tell.
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
        Self::Said(because, format!("{what}: {error}"))
    }
}

/// Waits for the host's streams and serves each in a thread.
///
/// # Errors
/// There is no vsock device, or somebody else listens.
pub fn listen() -> io::Result<Infallible> {
    let listener = VsockListener::bind_with_cid_port(VMADDR_CID_ANY, AGENT_PORT)?;
    let running = Arc::new(AtomicUsize::new(0));
    loop {
        let Ok((stream, _)) = listener.accept() else {
            thread::sleep(ACCEPT_PAUSE);
            continue;
        };
        if running.load(Ordering::SeqCst) >= COMMANDS_MAX {
            continue;
        }
        running.fetch_add(1, Ordering::SeqCst);
        let ended = Arc::clone(&running);
        thread::spawn(move || {
            serve(stream);
            ended.fetch_sub(1, Ordering::SeqCst);
        });
    }
}

/// Serves one stream to its end. What goes wrong with the stream itself nobody can be told.
pub fn serve(mut stream: impl Stream) {
    if greet(&mut stream).is_err() {
        return;
    }
    let done = match receive(&mut stream) {
        Ok(ToAgent::Exec(exec)) => program::run(&exec, &mut stream),
        Ok(ToAgent::Read { path }) => files::send(&path, &mut stream),
        Ok(ToAgent::Write { path, name, mode }) => files::take(&path, &name, mode, &mut stream),
        Ok(ToAgent::Capture(request)) => capture::run(&request, &mut stream),
        Ok(ToAgent::Restart(request)) => restart::run(&request, &mut stream),
        Ok(_) => Err(Failure::Said(
            FailedBecause::Refused,
            "that is no request".to_owned(),
        )),
        Err(_) => Err(Failure::Broken),
    };
    if let Err(Failure::Said(because, message)) = done {
        let _ = send(&mut stream, &FromAgent::Failed { because, message });
    }
    // The host ends the stream when it has all of it. To close it before that could cut off what is
    // on its way.
    while receive::<ToAgent>(&mut stream).is_ok() {}
}
