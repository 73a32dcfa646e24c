//! Streams of the host: one for each command.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use nvvmm_protocol::{AGENT_PORT, FailedBecause, FromAgent, ToAgent, greet, receive, send};
use vsock::{VMADDR_CID_ANY, VMADDR_CID_HOST, VsockListener};

use crate::process::{capture, check, restart};
use crate::stream::{Failure, Stream};
use crate::{files, program};

/// Commands at once; the device has no more streams than that.
const COMMANDS_MAX: usize = 128;
/// Pause after a failure to accept, which passes: out of descriptors, or out of memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Waits for the host's streams and serves each in a thread.
///
/// # Errors
/// Fails if there is no vsock device, or if another process listens.
pub fn listen() -> io::Result<Infallible> {
    let listener = VsockListener::bind_with_cid_port(VMADDR_CID_ANY, AGENT_PORT)?;
    let running = Arc::new(AtomicUsize::new(0));
    loop {
        match listener.accept() {
            Ok((stream, peer)) => admit(stream, peer.cid(), &running),
            Err(_) => thread::sleep(ACCEPT_PAUSE),
        }
    }
}

/// Serves a stream in a thread, if `peer_cid` is the host's. Any program of the guest reaches the
/// port through the loopback transport, and so do VMs in the guest; their streams are closed. The
/// kernel writes the CID, not the peer.
pub fn admit(stream: impl Stream, peer_cid: u32, running: &Arc<AtomicUsize>) {
    if peer_cid != VMADDR_CID_HOST || running.load(Ordering::SeqCst) >= COMMANDS_MAX {
        return;
    }
    let counted = Counted::new(running);
    // Without memory for a thread the stream is closed, and the host may ask again.
    let _ = thread::Builder::new().spawn(move || {
        serve(stream);
        drop(counted);
    });
}

/// A command that is counted until this is dropped, also by a panic.
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn new(running: &Arc<AtomicUsize>) -> Self {
        running.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(running))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Serves one stream to its end. A failure of the stream itself cannot be told to anybody.
pub fn serve(mut stream: impl Stream) {
    if greet(&mut stream).is_err() {
        return;
    }
    let done = match receive(&mut stream) {
        Ok(ToAgent::Exec(exec)) => program::run(&exec, &mut stream),
        Ok(ToAgent::Read { path }) => files::send(&path, &mut stream),
        Ok(ToAgent::Write { path, name, mode }) => files::take(&path, &name, mode, &mut stream),
        Ok(ToAgent::Capture(request)) => capture::run(&request, &mut stream),
        Ok(ToAgent::Check(request)) => check::run(&request, &mut stream),
        Ok(ToAgent::Restart(request)) => restart::run(&request, &mut stream),
        Ok(_) => Err(Failure::Said(
            FailedBecause::Refused,
            "this message is not a request".to_owned(),
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

#[cfg(test)]
#[path = "serve_test.rs"]
mod serve_test;
