//! A command's side of the control socket.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, socket};
use nvvmm_snapshot::{ProcessState, TimeText, WaitLimit};

use super::continuing::{RewindRequest, TakeRequest};
use super::line::{LineError, LineStream};
use super::message::{
    Answer, CaptureRequest, PROTOCOL_VERSION, RESPONSE_BYTES_MAX, Request, ResizedDisk,
    RestartRequest, RingRequest, SnapshotRequest, Versioned, VmStatus,
};
use super::{MemoryStatus, ReplicaStatus};
use crate::checkpoint::report::{AuditReport, SnapshotReport};
use crate::error::{ErrorKind, VmError};
use crate::process::{CaptureReport, RestartReport};
use crate::ring::{RewindReport, RingStatus};
use crate::stats::VmStats;
use crate::sys::peer::{NamedProcess, PeerError};

/// Time for an answer that needs no work.
const STATUS_TIMEOUT: Duration = Duration::from_secs(5);
/// Time for an answer that waits for vCPUs and devices to stand still or to move.
const STATE_TIMEOUT: Duration = Duration::from_secs(30);
/// Time for a connection, where the VM process takes none because others wait already.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const CONNECT_POLL: Duration = Duration::from_millis(10);
/// Time for the VM process to take a request.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);
/// Silence after which the VM process is looked at.
const LISTEN: Duration = Duration::from_secs(1);
/// The same where the answer needs no work.
const LISTEN_BRIEFLY: Duration = Duration::from_millis(250);

/// A connection to the control socket of one VM.
///
/// Every wait for the VM process has a limit. While an answer takes long, the process is asked over
/// a second connection to show that it lives: one that does may take as long as it needs.
pub struct ControlClient {
    lines: LineStream,
    /// Path of the socket, for further connections.
    path: Option<PathBuf>,
    /// True when it answered there while an answer here was waited for.
    lives: bool,
}

impl ControlClient {
    /// Connects to the socket at `path`.
    ///
    /// # Errors
    /// [`ErrorKind::Refused`] when nobody answers there: the VM is not up yet, or is gone.
    pub fn connect(path: &Path) -> Result<Self, VmError> {
        let stream = connect(path, CONNECT_TIMEOUT).map_err(|e| {
            let kind = match e.kind() {
                io::ErrorKind::NotFound
                | io::ErrorKind::ConnectionRefused
                | io::ErrorKind::WouldBlock => ErrorKind::Refused,
                _ => ErrorKind::of_io(&e),
            };
            VmError::new(
                kind,
                format!(
                    "the VM's control socket {} does not answer: {}",
                    path.display(),
                    connect_text(&e)
                ),
            )
            .with_remedy("the VM is starting or ending; look at 'nvvmm ps' in a moment")
        })?;
        let client = Self {
            path: Some(path.to_owned()),
            ..Self::over(stream)
        };
        let process = client.process_text();
        tracing::info!("connected to {process} at {}", path.display());
        Ok(client)
    }

    /// The VM process, in words.
    fn process_text(&self) -> String {
        match self.pid() {
            Some(pid) => format!("the VM process {pid}"),
            None => "the VM process (in another PID namespace)".to_owned(),
        }
    }

    pub(super) fn over(stream: UnixStream) -> Self {
        Self {
            lines: LineStream::new(stream),
            path: None,
            lives: false,
        }
    }

    /// Number of the VM process, by the kernel. `None` when it runs in another PID namespace.
    pub fn pid(&self) -> Option<u32> {
        self.lines.peer_pid()
    }

    /// The VM process, by the kernel.
    ///
    /// # Errors
    /// [`PeerError`].
    pub fn process(&self) -> Result<NamedProcess, PeerError> {
        self.lines.listener()
    }

    /// Checks that the VM process is not stopped; asks nothing of it.
    ///
    /// # Errors
    /// It is stopped.
    pub fn check_not_stopped(&self) -> Result<(), VmError> {
        let state = self.pid().and_then(ProcessState::of);
        if state.is_some_and(ProcessState::is_stopped) {
            return Err(self.silent());
        }
        Ok(())
    }

    /// Returns when the VM process has shown that it answers.
    ///
    /// # Errors
    /// The process is stopped, or does not answer in time.
    pub fn ping(&mut self) -> Result<(), VmError> {
        self.call_done(&Request::Ping)
    }

    /// State and counters of the VM.
    pub fn status(&mut self) -> Result<VmStatus, VmError> {
        match self.call(&Request::Status, Some(STATUS_TIMEOUT))? {
            Answer::Status { status } => Ok(*status),
            other => Err(unexpected(&other)),
        }
    }

    /// Counters of the VM so far.
    pub fn stats(&mut self) -> Result<VmStats, VmError> {
        match self.call(&Request::Stats, Some(STATUS_TIMEOUT))? {
            Answer::Stats { stats } => Ok(*stats),
            other => Err(unexpected(&other)),
        }
    }

    /// Asks the guest for a balloon of `target_bytes`, if that is given, and tells of its memory.
    pub fn memory(&mut self, target_bytes: Option<u64>) -> Result<MemoryStatus, VmError> {
        match self.call(&Request::Memory { target_bytes }, Some(STATE_TIMEOUT))? {
            Answer::Memory(memory) => Ok(memory),
            other => Err(unexpected(&other)),
        }
    }

    /// Pauses the VM.
    pub fn pause(&mut self) -> Result<(), VmError> {
        self.call_done(&Request::Pause)
    }

    /// Lets the VM go on.
    pub fn resume(&mut self) -> Result<(), VmError> {
        self.call_done(&Request::Resume)
    }

    /// Presses the VM's power button, if that is asked for. Returns true while the guest has not
    /// read that it was pressed.
    pub fn power_button(&mut self, press: bool) -> Result<bool, VmError> {
        match self.call(&Request::PowerButton { press }, Some(STATE_TIMEOUT))? {
            Answer::PowerButton { unread } => Ok(unread),
            other => Err(unexpected(&other)),
        }
    }

    /// Has the VM find the sizes of its disks anew, and tell the guest. Returns the disks that have
    /// another one.
    pub fn measure_disks(&mut self) -> Result<Vec<ResizedDisk>, VmError> {
        match self.call(&Request::MeasureDisks, Some(STATE_TIMEOUT))? {
            Answer::Resized { disks } => Ok(disks),
            other => Err(unexpected(&other)),
        }
    }

    /// Has the VM make a disk of the pool larger, and tell the guest. Returns the disks that have
    /// another size.
    pub fn resize_disk(
        &mut self,
        disk: &str,
        size_bytes: u64,
    ) -> Result<Vec<ResizedDisk>, VmError> {
        let request = Request::ResizeDisk {
            disk: disk.to_owned(),
            size_bytes,
        };
        match self.call(&request, Some(STATE_TIMEOUT))? {
            Answer::Resized { disks } => Ok(disks),
            other => Err(unexpected(&other)),
        }
    }

    /// Asks the VM process to end; the answer comes before it has ended.
    pub fn stop(&mut self) -> Result<(), VmError> {
        self.call_done(&Request::Stop)
    }

    /// Takes a snapshot; returns when it is committed, however long that takes.
    pub fn snapshot(&mut self, request: SnapshotRequest) -> Result<SnapshotReport, VmError> {
        match self.call(&Request::Snapshot(request), None)? {
            Answer::Snapshot { report } => Ok(*report),
            other => Err(unexpected(&other)),
        }
    }

    /// Begins a ring of checkpoints.
    pub fn start_ring(&mut self, request: RingRequest) -> Result<RingStatus, VmError> {
        self.call_ring(&Request::StartRing(request))
    }

    /// Ends the ring of checkpoints.
    pub fn stop_ring(&mut self) -> Result<RingStatus, VmError> {
        self.call_ring(&Request::StopRing)
    }

    fn call_ring(&mut self, request: &Request) -> Result<RingStatus, VmError> {
        match self.call(request, None)? {
            Answer::Ring { status } => Ok(*status),
            other => Err(unexpected(&other)),
        }
    }

    /// Tells the VM of its replicas in a store.
    pub fn replicated(&mut self, status: ReplicaStatus) -> Result<(), VmError> {
        self.call_done(&Request::Replicated(status))
    }

    /// Takes the VM back to a snapshot; returns when it goes on from there, however long that
    /// takes.
    pub fn rewind(&mut self, request: RewindRequest) -> Result<RewindReport, VmError> {
        match self.call(&Request::Rewind(request), None)? {
            Answer::Rewound { report } => Ok(*report),
            other => Err(unexpected(&other)),
        }
    }

    /// Takes over a VM that stands by; returns when its guest runs, or is paused.
    pub fn take_over(&mut self, request: TakeRequest) -> Result<VmStatus, VmError> {
        match self.call(&Request::Take(request), None)? {
            Answer::Status { status } => Ok(*status),
            other => Err(unexpected(&other)),
        }
    }

    /// Captures a process; `agent` leads to the guest's agent.
    pub fn capture(
        &mut self,
        request: CaptureRequest,
        agent: BorrowedFd<'_>,
    ) -> Result<CaptureReport, VmError> {
        match self.call_with(&Request::Capture(request), agent)? {
            Answer::Captured { report } => Ok(*report),
            other => Err(unexpected(&other)),
        }
    }

    /// Restarts a process; `agent` leads to the guest's agent, and to the process when it is
    /// attached.
    pub fn restart(
        &mut self,
        request: RestartRequest,
        agent: BorrowedFd<'_>,
    ) -> Result<RestartReport, VmError> {
        match self.call_with(&Request::Restart(request), agent)? {
            Answer::Restarted { report } => Ok(*report),
            other => Err(unexpected(&other)),
        }
    }

    /// Has the VM take memory from whoever is at the other end of `stream`.
    pub fn arrive(&mut self, stream: BorrowedFd<'_>) -> Result<(), VmError> {
        match self.call_with(&Request::Arrive, stream)? {
            Answer::Done => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    /// Compares KVM's dirty log with the COW engine.
    pub fn audit(&mut self) -> Result<AuditReport, VmError> {
        match self.call(&Request::Audit, Some(STATE_TIMEOUT))? {
            Answer::Audit { report } => Ok(report),
            other => Err(unexpected(&other)),
        }
    }

    fn call_done(&mut self, request: &Request) -> Result<(), VmError> {
        match self.call(request, Some(STATE_TIMEOUT))? {
            Answer::Done => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    /// Sends `request` and waits for its answer, at most `timeout`.
    pub fn call(
        &mut self,
        request: &Request,
        timeout: Option<Duration>,
    ) -> Result<Answer, VmError> {
        let began = Instant::now();
        let written = self.lines.write(encoded(request)?, Some(SEND_TIMEOUT));
        let answered = self.answer(written, timeout);
        self.tell(request, began, &answered);
        answered
    }

    /// Sends `request` with a descriptor, and waits for its answer as long as the VM process lives.
    fn call_with(
        &mut self,
        request: &Request,
        descriptor: BorrowedFd<'_>,
    ) -> Result<Answer, VmError> {
        let began = Instant::now();
        let written = self
            .lines
            .write_with(encoded(request)?, descriptor, SEND_TIMEOUT);
        let answered = self.answer(written, None);
        self.tell(request, began, &answered);
        answered
    }

    /// Logs a request and its answer.
    fn tell(&self, request: &Request, began: Instant, answered: &Result<Answer, VmError>) {
        let (process, what) = (self.process_text(), request.word());
        let took = TimeText(began.elapsed());
        match answered {
            Ok(answer) => {
                tracing::info!("asked {process} for {what}: it answered after {took}");
                tracing::debug!(?request, ?answer, "the answer");
            }
            Err(error) => {
                tracing::info!("asked {process} for {what}: after {took}: {error}");
                tracing::debug!(?request, "the request");
            }
        }
    }

    fn answer(
        &mut self,
        written: io::Result<()>,
        timeout: Option<Duration>,
    ) -> Result<Answer, VmError> {
        // A server that refuses the connection answers and closes before it reads: its answer
        // counts, not our failed write.
        let read = match &written {
            Ok(()) => self.listen(timeout),
            Err(_) => self.lines.read(RESPONSE_BYTES_MAX, Some(LISTEN_BRIEFLY)),
        };
        let line = match (read, written) {
            (Ok(Some(line)), _) => line,
            (_, Err(e)) if e.kind() == io::ErrorKind::WouldBlock => return Err(self.silent()),
            (_, Err(e)) => {
                return Err(VmError::failed(format!(
                    "the VM did not take the request: {e}"
                )));
            }
            (Ok(None), _) => {
                return Err(VmError::failed("the VM process ended before it answered")
                    .with_remedy("'nvvmm ps --all' says how, 'nvvmm logs VM' prints its log"));
            }
            (Err(LineError::TimedOut), _) => return Err(self.silent()),
            (Err(e), _) => return Err(VmError::failed(format!("no answer from the VM: {e}"))),
        };
        let answer: Versioned<Answer> = serde_json::from_slice(&line)
            .map_err(|e| VmError::failed(format!("the VM's answer cannot be decoded: {e}")))?;
        match answer {
            Versioned { version, .. } if version != PROTOCOL_VERSION => {
                Err(VmError::failed(format!(
                    "the VM answers in control protocol version {version}, this nvvmm uses \
                     version {PROTOCOL_VERSION}"
                )))
            }
            Versioned {
                body: Answer::Error { error },
                ..
            } => Err(error.with_holder_seen()),
            Versioned { body, .. } => Ok(body),
        }
    }
}

impl ControlClient {
    /// Waits for an answer: at most `timeout`, and no longer than the VM process shows that it
    /// lives.
    fn listen(&mut self, timeout: Option<Duration>) -> Result<Option<Vec<u8>>, LineError> {
        let (brief, began) = (timeout == Some(STATUS_TIMEOUT), Instant::now());
        let mut limit = WaitLimit::default();
        let mut answered = 0;
        loop {
            let left = timeout.map_or(Duration::MAX, |t| t.saturating_sub(began.elapsed()));
            let pause = if brief { LISTEN_BRIEFLY } else { LISTEN };
            match self.lines.read(RESPONSE_BYTES_MAX, Some(pause.min(left))) {
                Err(LineError::TimedOut) if left > pause => {}
                done => return done,
            }
            let state = self.pid().and_then(ProcessState::of);
            let is_stopped = state.is_some_and(ProcessState::is_stopped);
            if !is_stopped && !brief && self.answers_elsewhere() {
                answered += 1;
                self.lives = true;
            }
            // Its processor time says nothing: that is the guest's.
            if limit.is_reached_seeing(state.map(ProcessState::without_work), answered)
                || brief && is_stopped
            {
                return Err(LineError::TimedOut);
            }
        }
    }

    /// True if the VM process answers over another connection. One that refuses it lives, too.
    fn answers_elsewhere(&self) -> bool {
        let Some(stream) = self.path.as_deref().map(|path| connect(path, LISTEN)) else {
            return false;
        };
        let Ok(mut lines) = stream.map(LineStream::new) else {
            return false;
        };
        let ping = encoded(&Request::Ping).unwrap_or_default();
        // A server that refuses the connection answers before it reads.
        let _ = lines.write(ping, Some(LISTEN));
        matches!(lines.read(RESPONSE_BYTES_MAX, Some(LISTEN)), Ok(Some(_)))
    }

    /// Error of a VM process that does not answer.
    fn silent(&self) -> VmError {
        let Some(pid) = self.pid() else {
            return VmError::new(
                ErrorKind::Refused,
                "the VM process does not answer; it runs in another PID namespace (another \
                 container)",
            )
            .with_remedy("look at it there");
        };
        let is_stopped = ProcessState::of(pid).is_some_and(ProcessState::is_stopped);
        let (how, remedy) = if is_stopped {
            (
                "is stopped, and does not answer",
                format!(
                    "'kill -CONT {pid}' lets it go on; what was asked for is not carried out then"
                ),
            )
        } else if self.lives {
            (
                "lives, but has not done this in time; it may still do it",
                "look at the VM with 'nvvmm ps'".to_owned(),
            )
        } else {
            (
                "does not answer",
                format!(
                    "look at it with 'ps -o stat,wchan {pid}'; 'nvvmm stop VM --force' ends it"
                ),
            )
        };
        VmError::new(ErrorKind::Refused, format!("the VM process {pid} {how}")).with_remedy(remedy)
    }
}

/// Connects to a socket, waiting for at most `timeout` for a place among those who wait to be
/// accepted: a process that is stopped accepts nobody.
///
/// # Errors
/// Errors of connect(2); [`io::ErrorKind::WouldBlock`] when there is no place in time.
pub fn connect(path: &Path, timeout: Duration) -> io::Result<UnixStream> {
    let until = Instant::now() + timeout;
    let socket = || {
        socket(
            AddressFamily::Unix,
            SockType::Stream,
            SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
            None,
        )
    };
    let (socket, address) = (socket()?, UnixAddr::new(path)?);
    loop {
        match nix::sys::socket::connect(socket.as_raw_fd(), &address) {
            Ok(()) => break,
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) if Instant::now() < until => std::thread::sleep(CONNECT_POLL),
            Err(errno) => return Err(errno.into()),
        }
    }
    let stream = UnixStream::from(socket);
    stream.set_nonblocking(false)?;
    Ok(stream)
}

/// A failed connection in words: the system's say only that one may try again.
fn connect_text(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::WouldBlock => format!(
            "the VM process took no connection within {} s",
            CONNECT_TIMEOUT.as_secs()
        ),
        _ => error.to_string(),
    }
}

fn encoded(request: &Request) -> Result<Vec<u8>, VmError> {
    serde_json::to_vec(&Versioned::current(request))
        .map_err(|e| VmError::failed(format!("the request cannot be encoded: {e}")))
}

fn unexpected(answer: &Answer) -> VmError {
    VmError::failed(format!("the VM sent the wrong kind of answer: {answer:?}"))
}
