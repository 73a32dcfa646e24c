//! Lines of bounded length over a unix socket, within a bounded time.

use std::io::{self, Write};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use vmm_sys_util::sock_ctrl_msg::ScmSocket;

use crate::sys::peer::{Caller, NamedProcess, PeerError, is_hung_up, peer_pid};

/// Reason why there is no line.
#[derive(Debug, thiserror::Error)]
pub(super) enum LineError {
    #[error("the line is longer than {bytes_max} bytes")]
    TooLong { bytes_max: usize },
    #[error("no complete line came in time")]
    TimedOut,
    #[error("the connection ended in the middle of a line")]
    Cut,
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// A socket and the bytes read from it that belong to the next line.
pub(super) struct LineStream {
    stream: UnixStream,
    pending: Vec<u8>,
    /// Descriptor that came with the bytes read last.
    descriptor: Option<OwnedFd>,
}

impl LineStream {
    pub(super) fn new(stream: UnixStream) -> Self {
        Self {
            stream,
            pending: Vec::new(),
            descriptor: None,
        }
    }

    /// The next line without its newline; `None` when the peer is done. The time is for the whole
    /// line, so that a peer that sends a byte now and then does not last longer than a silent
    /// one; without one it may last forever.
    pub(super) fn read(
        &mut self,
        bytes_max: usize,
        timeout: Option<Duration>,
    ) -> Result<Option<Vec<u8>>, LineError> {
        let deadline = timeout.map(|t| Instant::now() + t);
        let mut searched = 0;
        loop {
            if let Some(at) = self.pending[searched..].iter().position(|&b| b == b'\n') {
                let mut line: Vec<u8> = self.pending.drain(..=searched + at).collect();
                if line.len() > bytes_max {
                    return Err(LineError::TooLong { bytes_max });
                }
                line.pop();
                return Ok(Some(line));
            }
            searched = self.pending.len();
            if searched >= bytes_max {
                return Err(LineError::TooLong { bytes_max });
            }
            if self.fill(deadline)? == 0 {
                return if self.pending.is_empty() {
                    Ok(None)
                } else {
                    Err(LineError::Cut)
                };
            }
        }
    }

    /// Writes `line` and a newline.
    pub(super) fn write(&mut self, mut line: Vec<u8>, timeout: Option<Duration>) -> io::Result<()> {
        line.push(b'\n');
        self.stream.set_write_timeout(timeout)?;
        self.stream.write_all(&line)
    }

    /// Writes `line` and a newline, and a descriptor with it.
    pub(super) fn write_with(
        &mut self,
        mut line: Vec<u8>,
        descriptor: BorrowedFd<'_>,
        timeout: Duration,
    ) -> io::Result<()> {
        line.push(b'\n');
        self.stream.set_write_timeout(Some(timeout))?;
        let sent = self
            .stream
            .send_with_fd(&line[..], descriptor.as_raw_fd())
            .map_err(|error| io::Error::from_raw_os_error(error.errno()))?;
        self.stream.write_all(&line[sent..])
    }

    /// Whoever is at the other end.
    pub(super) fn caller(&self) -> io::Result<Caller> {
        Ok(Caller::at(self.stream.try_clone()?))
    }

    /// True when the other end is closed: nobody waits for an answer.
    pub(super) fn is_hung_up(&self) -> bool {
        is_hung_up(&self.stream)
    }

    /// Number of the process at the other end.
    pub(super) fn peer_pid(&self) -> Option<u32> {
        peer_pid(&self.stream)
    }

    /// The process at the other end, if that is the one which listens.
    pub(super) fn listener(&self) -> Result<NamedProcess, PeerError> {
        NamedProcess::listening_for(&self.stream)
    }

    /// The descriptor that came with the line read last, if one did.
    pub(super) fn take_descriptor(&mut self) -> Option<OwnedFd> {
        self.descriptor.take()
    }

    fn fill(&mut self, deadline: Option<Instant>) -> Result<usize, LineError> {
        let mut part = [0; 4096];
        loop {
            let left = deadline.map(|d| d.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) {
                return Err(LineError::TimedOut);
            }
            self.stream.set_read_timeout(left)?;
            let received = self.stream.recv_with_fd(&mut part);
            match received.map_err(|error| io::Error::from_raw_os_error(error.errno())) {
                Ok((count, descriptor)) => {
                    self.descriptor = descriptor.map(OwnedFd::from).or(self.descriptor.take());
                    self.pending.extend_from_slice(&part[..count]);
                    return Ok(count);
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e)
                    if matches!(
                        e.kind(),
                        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
                    ) =>
                {
                    return Err(LineError::TimedOut);
                }
                Err(e) => return Err(e.into()),
            }
        }
    }
}
