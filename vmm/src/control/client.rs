//! A command's side of the control socket.

use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use super::line::LineStream;
use super::message::{
    Answer, CaptureRequest, PROTOCOL_VERSION, RESPONSE_BYTES_MAX, Request, RestartRequest,
    RewindRequest, RingRequest, SnapshotRequest, Versioned, VmStatus,
};
use crate::checkpoint::report::{AuditReport, SnapshotReport};
use crate::error::{ErrorKind, VmError};
use crate::process::{CaptureReport, RestartReport};
use crate::ring::{RewindReport, RingStatus};
use crate::stats::VmStats;

/// Time for an answer that needs no work.
const STATUS_TIMEOUT: Duration = Duration::from_secs(5);
/// Time for an answer that waits for vCPUs and devices to stand still or to move.
const STATE_TIMEOUT: Duration = Duration::from_secs(30);

/// A connection to the control socket of one VM.
pub struct ControlClient {
    lines: LineStream,
}

impl ControlClient {
    /// Connects to the socket at `path`.
    ///
    /// # Errors
    /// [`ErrorKind::Refused`] when nobody answers there: the VM is not up yet, or is gone.
    pub fn connect(path: &Path) -> Result<Self, VmError> {
        let stream = UnixStream::connect(path).map_err(|e| {
            let kind = match e.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => ErrorKind::Refused,
                _ => ErrorKind::Failed,
            };
            VmError::new(
                kind,
                format!(
                    "the VM's control socket {} does not answer: {e}",
                    path.display()
                ),
            )
            .with_remedy("the VM is starting or ending; look at 'nvvmm ps' in a moment")
        })?;
        Ok(Self::over(stream))
    }

    pub(super) fn over(stream: UnixStream) -> Self {
        Self {
            lines: LineStream::new(stream),
        }
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

    /// Pauses the VM.
    pub fn pause(&mut self) -> Result<(), VmError> {
        self.call_done(&Request::Pause)
    }

    /// Lets the VM go on.
    pub fn resume(&mut self) -> Result<(), VmError> {
        self.call_done(&Request::Resume)
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

    /// Takes the VM back to a snapshot; returns when it goes on from there, however long that
    /// takes.
    pub fn rewind(&mut self, request: RewindRequest) -> Result<RewindReport, VmError> {
        match self.call(&Request::Rewind(request), None)? {
            Answer::Rewound { report } => Ok(*report),
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
        let written = self.lines.write(encoded(request)?, timeout);
        self.answer(written, timeout)
    }

    /// Sends `request` with a descriptor, and waits for its answer without a limit.
    fn call_with(
        &mut self,
        request: &Request,
        descriptor: BorrowedFd<'_>,
    ) -> Result<Answer, VmError> {
        let written = self.lines.write_with(encoded(request)?, descriptor);
        self.answer(written, None)
    }

    fn answer(
        &mut self,
        written: io::Result<()>,
        timeout: Option<Duration>,
    ) -> Result<Answer, VmError> {
        // A server that refuses the connection answers and closes before it reads: its answer
        // counts, not our failed write.
        let read = self.lines.read(RESPONSE_BYTES_MAX, timeout);
        let line = match (read, written) {
            (Ok(Some(line)), _) => line,
            (_, Err(e)) => {
                return Err(VmError::failed(format!(
                    "the VM did not take the request: {e}"
                )));
            }
            (Ok(None), _) => {
                return Err(VmError::failed("the VM process ended before it answered")
                    .with_remedy("read the log of a detached VM: <runtime directory>/<name>.log"));
            }
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
            } => Err(error),
            Versioned { body, .. } => Ok(body),
        }
    }
}

fn encoded(request: &Request) -> Result<Vec<u8>, VmError> {
    serde_json::to_vec(&Versioned::current(request))
        .map_err(|e| VmError::failed(format!("the request cannot be encoded: {e}")))
}

fn unexpected(answer: &Answer) -> VmError {
    VmError::failed(format!("the VM sent the wrong kind of answer: {answer:?}"))
}
