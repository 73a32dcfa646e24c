//! One program that is connected to the console socket.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;

use event_manager::EventSet;

use super::backlog::Backlog;

/// Output that may wait for a client. A new client starts with the scroll-back in it.
const BACKLOG_BYTES: usize = 256 << 10;
/// Output carried to one client in one turn.
const TURN_BYTES: usize = 64 << 10;

pub(super) struct Client {
    stream: UnixStream,
    backlog: Backlog,
    /// The client may still send; it may close that direction alone.
    input_open: bool,
    /// Events that the event thread watches the socket for at present.
    pub(super) watched: EventSet,
}

impl Client {
    pub(super) fn new(stream: UnixStream, scrollback: &[u8]) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        let mut backlog = Backlog::new(BACKLOG_BYTES);
        backlog.push(scrollback);
        Ok(Self {
            stream,
            backlog,
            input_open: true,
            watched: EventSet::empty(),
        })
    }

    pub(super) fn push(&mut self, output: &[u8]) {
        self.backlog.push(output);
    }

    /// Events to watch the socket for; `want_input` is false when no input is wanted.
    pub(super) fn interest(&self, want_input: bool) -> EventSet {
        let mut interest = EventSet::empty();
        interest.set(EventSet::IN, want_input && self.input_open);
        interest.set(EventSet::OUT, !self.backlog.is_empty());
        interest
    }

    /// Appends what the client has sent to `input`, as far as that is shorter than `limit_bytes`.
    pub(super) fn receive(
        &mut self,
        input: &mut VecDeque<u8>,
        limit_bytes: usize,
    ) -> io::Result<()> {
        let mut chunk = [0; 4096];
        while self.input_open && input.len() < limit_bytes {
            match (&self.stream).read(&mut chunk) {
                Ok(0) => self.input_open = false,
                Ok(len) => input.extend(&chunk[..len]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Sends what the socket takes.
    pub(super) fn send(&mut self) -> io::Result<()> {
        let mut sent = 0;
        while !self.backlog.is_empty() && sent < TURN_BYTES {
            match self.backlog.write_some(&mut &self.stream, TURN_BYTES) {
                Ok(len) => sent += len,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl AsRawFd for Client {
    fn as_raw_fd(&self) -> RawFd {
        self.stream.as_raw_fd()
    }
}
