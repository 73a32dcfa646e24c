//! The VM's side of the stream that the agent in its guest keeps.
//!
//! A restore breaks the stream; the agent asks for another one, and hears then that the VM was
//! restored. Until it has said that it has done what there is to do, every stream begins with that.
//! Nothing here is waited for by the VM, and the guest is trusted in nothing: whatever it sends
//! ends its stream at worst.

use std::io;
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nvvmm_devices::HostSocket;
use nvvmm_protocol::{
    FrameError, Frames, FromGuest, KEEPS_CONNECTIONS, Restored, ToGuest, greet, receive, send,
};
use nvvmm_snapshot::{Resource, ask_for};

use crate::threads::{ThreadKind, begin as begin_thread};

/// Time that an agent may take for a greeting or to take a message. A restored one settles in
/// its own time.
const PATIENCE: Duration = Duration::from_secs(10);
/// After a failure to accept, which passes: the process is out of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Failures of the agent that are logged, and their longest text: the guest says how many and how
/// long they are.
const FAILURES_LOGGED_MAX: usize = 16;
const FAILURE_CHARS_MAX: usize = 200;

/// Answers the agent until it is dropped.
pub struct AgentLink {
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

/// Listener for frames that the guest does not use.
type OnIdle = Box<dyn Fn(&[Frames]) + Send + Sync>;

/// Listener for what an agent was told of the guest's connections.
type OnTold = Box<dyn Fn(bool) + Send + Sync>;

/// Listener for the failures of an agent that has settled after a restore.
type OnSettled = Box<dyn Fn(&[String]) + Send + Sync>;

struct Shared {
    socket: HostSocket,
    state: Mutex<State>,
    on_idle: Mutex<Option<OnIdle>>,
    on_told: Mutex<Option<OnTold>>,
    on_settled: Mutex<Option<OnSettled>>,
}

/// News for the agent of a guest that was restored.
#[derive(Clone, Debug)]
pub struct News {
    /// Facts of the restore.
    pub restored: Restored,
    /// Connections of the guest to other machines are to stay.
    pub keep_connections: bool,
}

#[derive(Default)]
struct State {
    /// News that the guest does not know yet.
    news: Option<News>,
    /// Counts guests: what an agent of the one before says concerns none any more.
    guest: u64,
    /// The agent's stream. While it lives, no other one is taken.
    stream: Option<UnixStream>,
    is_ending: bool,
}

impl AgentLink {
    /// Listens at `path`.
    ///
    /// # Errors
    /// The socket cannot be made, or no thread.
    pub fn start(path: &Path) -> io::Result<Self> {
        Self::serve(HostSocket::bind(path)?)
    }

    /// Listens at a socket that is there already.
    ///
    /// # Errors
    /// No thread can be had.
    pub fn serve(socket: HostSocket) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            socket,
            state: Mutex::default(),
            on_idle: Mutex::default(),
            on_told: Mutex::default(),
            on_settled: Mutex::default(),
        });
        let accepting = thread::Builder::new().name("agent-link".into()).spawn({
            let shared = Arc::clone(&shared);
            move || {
                // It takes frames that the guest does not use out of its memory.
                begin_thread(ThreadKind::Operations);
                accept(&shared);
            }
        })?;
        Ok(Self {
            shared,
            accepting: Some(accepting),
        })
    }

    /// A guest is about to run: one that was restored, and is to be told so, or one that boots. The
    /// stream of the guest before ends.
    pub fn new_guest(&self, news: Option<News>) {
        let mut state = self.shared.state();
        state.guest += 1;
        state.news = news;
        state.end_stream();
    }

    /// An agent of this guest is there: its stream lives.
    pub fn has_agent(&self) -> bool {
        self.shared.state().stream.as_ref().is_some_and(is_alive)
    }

    /// Sets the listener for frames that the guest says it does not use.
    pub fn on_idle(&self, listener: impl Fn(&[Frames]) + Send + Sync + 'static) {
        *self.shared.on_idle() = Some(Box::new(listener));
    }

    /// Sets the listener for what becomes of connections that are to stay, when an agent of the
    /// restored guest has asked: it keeps them, or it is too old for that and ends them.
    pub fn on_told(&self, listener: impl Fn(bool) + Send + Sync + 'static) {
        *self.shared.on_told() = Some(Box::new(listener));
    }

    /// Sets the listener for what failed in the guest when it has settled after a restore.
    pub fn on_settled(&self, listener: impl Fn(&[String]) + Send + Sync + 'static) {
        *self.shared.on_settled() = Some(Box::new(listener));
    }
}

impl Drop for AgentLink {
    fn drop(&mut self) {
        {
            let mut state = self.shared.state();
            state.is_ending = true;
            state.end_stream();
        }
        self.shared.socket.stop_listening();
        if let Some(accepting) = self.accepting.take() {
            let _ = accepting.join();
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn on_idle(&self) -> MutexGuard<'_, Option<OnIdle>> {
        self.on_idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn on_told(&self) -> MutexGuard<'_, Option<OnTold>> {
        self.on_told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn on_settled(&self) -> MutexGuard<'_, Option<OnSettled>> {
        { self.on_settled.lock() }.unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn end_stream(&mut self) {
        if let Some(stream) = self.stream.take() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Makes `stream` the agent's. False while the agent has another one.
    fn take_stream(&mut self, stream: &UnixStream) -> io::Result<bool> {
        if self.stream.as_ref().is_some_and(is_alive) {
            return Ok(false);
        }
        self.stream = Some(stream.try_clone()?);
        Ok(true)
    }
}

/// False when one side has closed the stream.
fn is_alive(stream: &UnixStream) -> bool {
    let mut looked = [PollFd::new(stream.as_fd(), PollFlags::empty())];
    let polled = poll(&mut looked, PollTimeout::ZERO);
    let ended = PollFlags::POLLHUP | PollFlags::POLLERR;
    polled.is_err() || !looked[0].revents().is_some_and(|now| now.intersects(ended))
}

/// Serves one stream at a time. There is one agent: a stream that comes while another one lives is
/// closed. An agent that was started again, or that was restored, asks until the former stream has
/// ended, which the end of its process, the restore or the reboot brings about.
fn accept(shared: &Arc<Shared>) {
    let mut serving: Option<JoinHandle<()>> = None;
    loop {
        let accepted = shared.socket.accept();
        if shared.state().is_ending {
            if let Some(last) = serving.take() {
                let _ = last.join();
            }
            return;
        }
        let taken = accepted.and_then(|stream| {
            ask_for(Resource::Descriptor)?;
            let is_ours = shared.state().take_stream(&stream)?;
            Ok(is_ours.then_some(stream))
        });
        match taken {
            Ok(Some(stream)) => {
                if let Some(former) = serving.take() {
                    let _ = former.join();
                }
                let for_thread = Arc::clone(shared);
                let spawned = ask_for(Resource::Thread).and_then(|()| {
                    thread::Builder::new()
                        .name("agent".into())
                        .spawn(move || serve(&for_thread, &stream))
                });
                match spawned {
                    Ok(thread) => serving = Some(thread),
                    Err(error) => {
                        shared.state().end_stream();
                        tracing::warn!(%error, "cannot serve the agent");
                    }
                }
            }
            Ok(None) => tracing::warn!(
                "a second agent in the guest was turned away: the stream of the first one lives"
            ),
            Err(error) => {
                tracing::warn!(%error, "cannot accept the agent");
                thread::sleep(ACCEPT_PAUSE);
            }
        }
    }
}

fn serve(shared: &Shared, stream: &UnixStream) {
    match talk(shared, stream) {
        Ok(()) => {}
        Err(error) => tracing::info!(%error, "the agent's stream ended"),
    }
    let _ = stream.shutdown(Shutdown::Both);
}

fn talk(shared: &Shared, stream: &UnixStream) -> Result<(), Box<dyn std::error::Error>> {
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let version = greet(stream)?;
    stream.set_read_timeout(None)?;
    let guest = shared.state().guest;
    loop {
        match receive(stream)? {
            FromGuest::Hello => {
                let news = shared.state().news.clone();
                tell(stream, version, news.as_ref())?;
                if news.is_some_and(|news| news.keep_connections)
                    && shared.state().guest == guest
                    && let Some(listener) = &*shared.on_told()
                {
                    listener(version >= KEEPS_CONNECTIONS);
                }
            }
            FromGuest::Settled { failures } => {
                let mut state = shared.state();
                let is_of_this_guest = state.guest == guest;
                if is_of_this_guest {
                    state.news = None;
                }
                drop(state);
                log(&failures);
                if is_of_this_guest && let Some(listener) = &*shared.on_settled() {
                    listener(&failures);
                }
            }
            FromGuest::Idle(frames) => {
                if let Some(listener) = &*shared.on_idle() {
                    listener(&frames);
                }
            }
        }
    }
}

/// Answers an agent that asks, in the words of `version`.
fn tell(stream: &UnixStream, version: u16, news: Option<&News>) -> Result<(), FrameError> {
    let Some(news) = news else {
        return send(stream, &ToGuest::Welcome);
    };
    if news.keep_connections && version >= KEEPS_CONNECTIONS {
        send(stream, &ToGuest::KeepConnections)?;
    }
    send(
        stream,
        &ToGuest::Restored(at_this_time(news.restored.clone())),
    )
}

/// The host's time is that at which the guest is told.
fn at_this_time(news: Restored) -> Restored {
    Restored {
        host_time_ns: unix_ns_now(),
        ..news
    }
}

/// The host's time of day, in nanoseconds since 1970.
pub fn unix_ns_now() -> u64 {
    let since_1970 = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since_1970.as_nanos()).unwrap_or(u64::MAX)
}

fn log(failures: &[String]) {
    tracing::info!(
        failures = failures.len(),
        "the guest has settled after the restore"
    );
    for failure in failures.iter().take(FAILURES_LOGGED_MAX) {
        let text: String = failure.escape_debug().take(FAILURE_CHARS_MAX).collect();
        tracing::warn!("the guest's agent: {text}");
    }
}

#[cfg(test)]
#[path = "link_test.rs"]
mod link_test;
