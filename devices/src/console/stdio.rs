//! Standard input and output, which must not be made non-blocking: other processes share them.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

use event_manager::{EventOps, EventSet, Events};

use super::backlog::Backlog;
use crate::sys;

/// Output that may wait for standard output.
const BACKLOG_BYTES: usize = 1 << 20;
/// A descriptor that polls as writable takes this much without blocking (PIPE_BUF).
const CHUNK_BYTES: usize = 4096;
/// Time without progress of standard output, at the end, after which the rest is dropped.
const FINISH_STALL: Duration = Duration::from_secs(2);

/// Ways to learn that a descriptor is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Readiness {
    /// The event thread is told.
    Watched(EventSet),
    /// Always ready, as a regular file is; epoll refuses those.
    Always,
}

/// Watches `file`, or finds that it need not be.
fn watch(file: &File, ops: &mut EventOps) -> Readiness {
    match ops.add(Events::new(file, EventSet::empty())) {
        Ok(()) => Readiness::Watched(EventSet::empty()),
        Err(_) => Readiness::Always,
    }
}

fn set_interest(file: &File, readiness: &mut Readiness, wanted: EventSet, ops: &mut EventOps) {
    if let Readiness::Watched(watched) = readiness
        && *watched != wanted
        && ops.modify(Events::new(file, wanted)).is_ok()
    {
        *watched = wanted;
    }
}

/// Standard input, or another file that is read as it is ready.
pub(super) struct StdInput {
    file: File,
    readiness: Readiness,
}

impl StdInput {
    pub(super) fn new(file: File) -> Self {
        Self {
            file,
            readiness: Readiness::Always,
        }
    }

    pub(super) fn into_file(self) -> File {
        self.file
    }

    pub(super) fn start(&mut self, ops: &mut EventOps) {
        self.readiness = watch(&self.file, ops);
    }

    /// Appends what is there to `input`, as far as that is shorter than `limit_bytes`. Answers
    /// whether there may be more later.
    pub(super) fn receive(
        &mut self,
        input: &mut VecDeque<u8>,
        limit_bytes: usize,
    ) -> io::Result<bool> {
        let mut chunk = [0; 4096];
        while input.len() < limit_bytes
            && sys::poll_ready(self.file.as_raw_fd(), libc::POLLIN, Duration::ZERO)?
        {
            match self.file.read(&mut chunk) {
                Ok(0) => return Ok(false),
                Ok(len) => input.extend(&chunk[..len]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    pub(super) fn update_interest(&mut self, want_input: bool, ops: &mut EventOps) {
        let wanted = if want_input {
            EventSet::IN
        } else {
            EventSet::empty()
        };
        set_interest(&self.file, &mut self.readiness, wanted, ops);
    }

    pub(super) fn stop(&mut self, ops: &mut EventOps) {
        if self.readiness != Readiness::Always {
            let _ = ops.remove(Events::empty(&self.file));
        }
    }
}

impl AsRawFd for StdInput {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

/// Standard output, or another file that is written as it is ready.
pub(super) struct StdOutput {
    file: File,
    backlog: Backlog,
    readiness: Readiness,
}

impl StdOutput {
    pub(super) fn new(file: File) -> Self {
        Self {
            file,
            backlog: Backlog::new(BACKLOG_BYTES),
            readiness: Readiness::Always,
        }
    }

    /// Output that could not be written yet is lost.
    pub(super) fn into_file(self) -> File {
        self.file
    }

    pub(super) fn start(&mut self, ops: &mut EventOps) {
        self.readiness = watch(&self.file, ops);
    }

    pub(super) fn push(&mut self, output: &[u8]) {
        self.backlog.push(output);
    }

    /// Writes what the file takes without blocking.
    pub(super) fn send(&mut self) -> io::Result<()> {
        self.send_within(Duration::ZERO)
    }

    /// Writes all that is left, waiting for a slow reader, but not for one that has stopped.
    pub(super) fn finish(&mut self) -> io::Result<()> {
        self.send_within(FINISH_STALL)
    }

    fn send_within(&mut self, stall: Duration) -> io::Result<()> {
        while !self.backlog.is_empty()
            && sys::poll_ready(self.file.as_raw_fd(), libc::POLLOUT, stall)?
        {
            match self.backlog.write_some(&mut self.file, CHUNK_BYTES) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    pub(super) fn update_interest(&mut self, ops: &mut EventOps) {
        let wanted = if self.backlog.is_empty() {
            EventSet::empty()
        } else {
            EventSet::OUT
        };
        set_interest(&self.file, &mut self.readiness, wanted, ops);
    }

    pub(super) fn stop(&mut self, ops: &mut EventOps) {
        if self.readiness != Readiness::Always {
            let _ = ops.remove(Events::empty(&self.file));
        }
    }
}

impl AsRawFd for StdOutput {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}
