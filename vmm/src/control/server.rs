//! The VM's side of the control socket: a thread that accepts, and one per client. Nothing here is
//! ever waited for by the VM, so a client that is slow, stuck or malicious costs it one of a few
//! threads for a few seconds.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nvvmm_snapshot::{Resource, TimeText, ask_for};

use super::VmControl;
use super::line::{LineError, LineStream};
use super::message::{Answer, REQUEST_BYTES_MAX, Request, Versioned, decode_request};
use crate::error::{ErrorKind, VmError};

/// Limits of the resources that clients may take of a VM process.
#[derive(Clone, Copy, Debug)]
pub struct ServerLimits {
    /// Connections at a time; further ones are told so and closed.
    pub clients_max: usize,
    /// Time a client has for one request line, idle time before it included, and for taking the
    /// answer.
    pub line_timeout: Duration,
    /// Time that requests in flight have left when the server ends.
    pub drain_timeout: Duration,
}

impl Default for ServerLimits {
    fn default() -> Self {
        Self {
            clients_max: 16,
            line_timeout: Duration::from_secs(10),
            drain_timeout: Duration::from_secs(5),
        }
    }
}

/// Serves the control socket until it is dropped. Dropping lets requests in flight finish (within
/// [`ServerLimits::drain_timeout`]), so a client that asked the VM to stop still gets its answer.
#[derive(Debug)]
pub struct ControlServer {
    clients: Arc<Clients>,
    limits: ServerLimits,
    /// Closed to end the accepting thread.
    ending: Option<UnixStream>,
    accepting: Option<JoinHandle<()>>,
}

impl ControlServer {
    /// Binds `path` (nothing may be there) and starts to answer for `control`.
    pub fn start(path: &Path, control: Arc<dyn VmControl>) -> Result<Self, VmError> {
        Self::start_limited(path, control, ServerLimits::default())
    }

    /// Does the same with limits other than the usual ones.
    pub fn start_limited(
        path: &Path,
        control: Arc<dyn VmControl>,
        limits: ServerLimits,
    ) -> Result<Self, VmError> {
        Self::serve_limited(Self::bind(path)?, control, limits)
    }

    /// Makes the socket at `path` (nothing may be there), for [`ControlServer::serve`]. Clients
    /// that connect wait until then.
    pub fn bind(path: &Path) -> Result<UnixListener, VmError> {
        let failed = |e: io::Error| {
            VmError::io(
                format_args!("open the control socket {}", path.display()),
                &e,
            )
        };
        let listener = UnixListener::bind(path).map_err(failed)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        Ok(listener)
    }

    /// Starts to answer for `control` at a socket of [`ControlServer::bind`].
    pub fn serve(listener: UnixListener, control: Arc<dyn VmControl>) -> Result<Self, VmError> {
        Self::serve_limited(listener, control, ServerLimits::default())
    }

    fn serve_limited(
        listener: UnixListener,
        control: Arc<dyn VmControl>,
        limits: ServerLimits,
    ) -> Result<Self, VmError> {
        let failed = |e: io::Error| VmError::io("serve the control socket", &e);
        let (ending, ended) = UnixStream::pair().map_err(failed)?;
        let clients = Arc::new(Clients::default());
        let accepting = thread::Builder::new()
            .name("control".into())
            .spawn({
                let clients = Arc::clone(&clients);
                move || accept_clients(&listener, &ended, &clients, &control, limits)
            })
            .map_err(failed)?;
        Ok(Self {
            clients,
            limits,
            ending: Some(ending),
            accepting: Some(accepting),
        })
    }
}

impl Drop for ControlServer {
    fn drop(&mut self) {
        self.ending = None;
        if let Some(accepting) = self.accepting.take() {
            let _ = accepting.join();
        }
        self.clients.drain(self.limits.drain_timeout);
    }
}

/// The connections that have a thread.
#[derive(Debug, Default)]
struct Clients {
    open: Mutex<OpenClients>,
    left: Condvar,
}

#[derive(Debug, Default)]
struct OpenClients {
    streams: HashMap<u64, UnixStream>,
    next_key: u64,
}

impl Clients {
    fn lock(&self) -> MutexGuard<'_, OpenClients> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `None` when there are as many as may be.
    fn enter(
        self: &Arc<Self>,
        stream: &UnixStream,
        clients_max: usize,
    ) -> io::Result<Option<ClientKey>> {
        let mut open = self.lock();
        if open.streams.len() >= clients_max {
            return Ok(None);
        }
        let key = open.next_key;
        open.next_key += 1;
        ask_for(Resource::Descriptor)?;
        open.streams.insert(key, stream.try_clone()?);
        Ok(Some(ClientKey {
            clients: Arc::clone(self),
            key,
        }))
    }

    /// No further requests; waits for the answers under way.
    fn drain(&self, timeout: Duration) {
        let open = self.lock();
        for stream in open.streams.values() {
            let _ = stream.shutdown(Shutdown::Read);
        }
        let waited = self
            .left
            .wait_timeout_while(open, timeout, |open| !open.streams.is_empty());
        if waited
            .map_or_else(|e| e.into_inner().1, |(_, w)| w)
            .timed_out()
        {
            tracing::warn!("a control request was still under way when the VM ended");
        }
    }
}

/// A place among the clients, given back on drop.
struct ClientKey {
    clients: Arc<Clients>,
    key: u64,
}

impl Drop for ClientKey {
    fn drop(&mut self) {
        self.clients.lock().streams.remove(&self.key);
        self.clients.left.notify_all();
    }
}

fn accept_clients(
    listener: &UnixListener,
    ended: &UnixStream,
    clients: &Arc<Clients>,
    control: &Arc<dyn VmControl>,
    limits: ServerLimits,
) {
    loop {
        let mut waits = [
            PollFd::new(listener.as_fd(), PollFlags::POLLIN),
            PollFd::new(ended.as_fd(), PollFlags::POLLIN),
        ];
        if let Err(e) = poll(&mut waits, PollTimeout::NONE) {
            if e != nix::errno::Errno::EINTR {
                tracing::error!("the control socket cannot be watched any more: {e}");
                return;
            }
            continue;
        }
        if waits[1].any() == Some(true) {
            return;
        }
        let accepted = match listener.accept() {
            Ok((stream, _)) => admit(stream, clients, control, limits),
            Err(e) => Err(e),
        };
        match accepted {
            Err(e)
                if matches!(
                    e.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                ) => {}
            Err(e) => {
                tracing::warn!("a control connection was not taken: {e}");
                // Out of descriptors or threads: the connection is still there, so do not spin on
                // it.
                thread::sleep(Duration::from_millis(100));
            }
            Ok(()) => {}
        }
    }
}

fn admit(
    stream: UnixStream,
    clients: &Arc<Clients>,
    control: &Arc<dyn VmControl>,
    limits: ServerLimits,
) -> io::Result<()> {
    let Some(key) = clients.enter(&stream, limits.clients_max)? else {
        stream.set_nonblocking(true)?;
        let error = VmError::new(
            ErrorKind::Refused,
            "the VM has reached its limit of control connections",
        )
        .with_remedy("try again in a few seconds");
        // An answer that does not fit into an empty socket buffer at once is not worth a thread.
        let _ = LineStream::new(stream).write(encode(Answer::Error { error }), None);
        return Ok(());
    };
    stream.set_nonblocking(false)?;
    let control = Arc::clone(control);
    ask_for(Resource::Thread)?;
    thread::Builder::new()
        .name("control-client".into())
        .spawn(move || {
            let _place = key;
            serve_client(
                LineStream::new(stream),
                control.as_ref(),
                limits.line_timeout,
            );
        })?;
    Ok(())
}

pub(super) fn serve_client(mut lines: LineStream, control: &dyn VmControl, line_timeout: Duration) {
    loop {
        let (answer, more) = match lines.read(REQUEST_BYTES_MAX, Some(line_timeout)) {
            Ok(Some(line)) => {
                let descriptor = lines.take_descriptor();
                match answer(&line, descriptor, &lines, control) {
                    Some(answer) => (answer, true),
                    None => return,
                }
            }
            Ok(None) | Err(LineError::Cut) => return,
            Err(LineError::Io(e)) => {
                tracing::debug!("control connection lost: {e}");
                return;
            }
            Err(e @ (LineError::TooLong { .. } | LineError::TimedOut)) => (
                Answer::Error {
                    error: VmError::new(ErrorKind::Usage, e.to_string()),
                },
                false,
            ),
        };
        if let Err(e) = lines.write(encode(answer), Some(line_timeout)) {
            tracing::debug!("control connection lost: {e}");
            return;
        }
        if !more {
            return;
        }
    }
}

/// `None` when nobody waits for the answer, and so the request was not carried out: its caller may
/// have given up, and said so, long ago.
fn answer(
    line: &[u8],
    descriptor: Option<OwnedFd>,
    lines: &LineStream,
    control: &dyn VmControl,
) -> Option<Answer> {
    let answered = decode_request(line).and_then(|request| {
        if lines.is_hung_up() {
            tracing::warn!(?request, "not carried out, as its caller is gone");
            return Ok(None);
        }
        let began = Instant::now();
        let answered = carry_out(&request, descriptor, lines, control);
        tell(&request, began, &answered);
        answered.map(Some)
    });
    answered.unwrap_or_else(|error| Some(Answer::Error { error }))
}

fn carry_out(
    request: &Request,
    descriptor: Option<OwnedFd>,
    lines: &LineStream,
    control: &dyn VmControl,
) -> Result<Answer, VmError> {
    tracing::debug!(?request, "control request");
    Ok(match request {
        Request::Ping => Answer::Done,
        Request::Status => Answer::Status {
            status: Box::new(control.status()),
        },
        Request::Stats => Answer::Stats {
            stats: Box::new(control.stats()?),
        },
        Request::Pause => control.pause().map(|()| Answer::Done)?,
        Request::Resume => control.resume().map(|()| Answer::Done)?,
        Request::PowerButton { press } => Answer::PowerButton {
            unread: control.power_button(*press)?,
        },
        Request::Stop => control.stop().map(|()| Answer::Done)?,
        Request::Audit => Answer::Audit {
            report: control.audit()?,
        },
        Request::StartRing(request) => Answer::Ring {
            status: Box::new(control.start_ring(request)?),
        },
        Request::StopRing => Answer::Ring {
            status: Box::new(control.stop_ring()?),
        },
        Request::Rewind(request) => Answer::Rewound {
            report: Box::new(control.rewind(request)?),
        },
        Request::Take(request) => Answer::Status {
            status: Box::new(control.take_over(request)?),
        },
        Request::ResizeDisk { disk, size_bytes } => Answer::Resized {
            disks: control.resize_disk(disk, *size_bytes)?,
        },
        Request::Memory { target_bytes } => Answer::Memory(control.memory(*target_bytes)?),
        Request::MeasureDisks => Answer::Resized {
            disks: control.measure_disks()?,
        },
        Request::Snapshot(request) => {
            let caller = lines.caller();
            let caller = caller.map_err(|e| VmError::io("watch over the request's caller", &e))?;
            Answer::Snapshot {
                report: Box::new(control.snapshot_for(request, &caller)?),
            }
        }
        Request::Replicated(status) => {
            control.replicated(status.clone());
            Answer::Done
        }
        Request::Arrive => {
            control.arrive(stream_of(descriptor)?)?;
            Answer::Done
        }
        Request::Capture(request) => Answer::Captured {
            report: Box::new(control.capture(request, &stream_of(descriptor)?)?),
        },
        Request::Restart(request) => Answer::Restarted {
            report: Box::new(control.restart(request, &stream_of(descriptor)?)?),
        },
    })
}

/// Logs a request that was carried out, or failed.
fn tell(request: &Request, began: Instant, answered: &Result<Answer, VmError>) {
    let (what, took) = (request.word(), TimeText(began.elapsed()));
    match answered {
        Ok(_) if request.only_looks() => tracing::debug!("was asked for {what}"),
        Ok(_) => tracing::info!("was asked for {what}: done after {took}"),
        Err(error) => tracing::info!("was asked for {what}: failed after {took}: {error}"),
    }
}

/// The stream that must have come with a request.
fn stream_of(descriptor: Option<OwnedFd>) -> Result<UnixStream, VmError> {
    let without = || VmError::new(ErrorKind::Usage, "the request has no stream");
    let stream = UnixStream::from(descriptor.ok_or_else(without)?);
    // Anything but a stream socket says so here.
    stream.peer_addr().map_err(|_| without())?;
    Ok(stream)
}

fn encode(answer: Answer) -> Vec<u8> {
    serde_json::to_vec(&Versioned::current(answer)).unwrap_or_else(|e| {
        tracing::error!("an answer could not be encoded: {e}");
        concat!(
            r#"{"version":1,"answer":"error","#,
            r#""error":{"kind":"failed","message":"the answer could not be encoded"}}"#
        )
        .into()
    })
}

#[cfg(test)]
#[path = "server_test.rs"]
mod server_test;
