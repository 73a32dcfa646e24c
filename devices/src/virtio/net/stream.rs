//! A card at a unix stream socket, in the protocol of passt and of QEMU's `-netdev stream`: each
//! frame after its length, 4 bytes, the highest first.

use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::ops::Range;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;

use super::backend::{FRAME_BYTES_MAX, HEADER_BYTES, NetBackend};

const LENGTH_BYTES: usize = 4;
/// Bytes that are read ahead: there is room for any frame.
const READ_BYTES: usize = 128 << 10;

/// A stream to another program, which carries the frames.
pub struct StreamBackend {
    name: String,
    socket: UnixStream,
    /// The rest of a frame whose beginning is sent. At most one frame.
    unsent: Vec<u8>,
    /// Bytes that were read: those in `unused` are not used yet.
    read: Vec<u8>,
    unused: Range<usize>,
    ended: bool,
}

impl StreamBackend {
    /// A card at this stream, which is connected.
    ///
    /// # Errors
    /// The stream cannot be made one that does not wait.
    pub fn new(name: impl Into<String>, socket: UnixStream) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(Self {
            name: name.into(),
            socket,
            unsent: Vec::new(),
            read: Vec::new(),
            unused: 0..0,
            ended: false,
        })
    }

    /// The next whole frame that is read already.
    ///
    /// # Errors
    /// The other side does not keep to the protocol.
    fn next_read(&self) -> io::Result<Option<&[u8]>> {
        let bytes = &self.read[self.unused.clone()];
        let Some((length, rest)) = bytes.split_first_chunk::<LENGTH_BYTES>() else {
            return Ok(None);
        };
        let length = u32::from_be_bytes(*length) as usize;
        if length > FRAME_BYTES_MAX {
            return Err(ErrorKind::BrokenPipe.into());
        }
        Ok(rest.get(..length))
    }

    /// Reads more, at least a byte.
    fn read_more(&mut self) -> io::Result<()> {
        if self.ended {
            return Err(ErrorKind::BrokenPipe.into());
        }
        self.read.resize(READ_BYTES, 0);
        self.read.copy_within(self.unused.clone(), 0);
        self.unused = 0..self.unused.len();
        let read = loop {
            match self.socket.read(&mut self.read[self.unused.end..]) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                read => break read,
            }
        };
        self.unused.end += read.as_ref().unwrap_or(&0);
        match read {
            Ok(0) => self.ended = true,
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Err(error),
            Err(error) => {
                tracing::warn!(%error, name = self.name, "the network's stream cannot be read");
                self.ended = true;
            }
        }
        Err(ErrorKind::BrokenPipe.into())
    }

    fn write(&mut self, parts: &[&[u8]]) -> io::Result<usize> {
        let slices: Vec<_> = parts.iter().map(|part| IoSlice::new(part)).collect();
        loop {
            return match self.socket.write_vectored(&slices) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == ErrorKind::WouldBlock => Err(error),
                Err(_) | Ok(0) => {
                    self.ended = true;
                    Err(ErrorKind::BrokenPipe.into())
                }
                Ok(written) => Ok(written),
            };
        }
    }
}

impl NetBackend for StreamBackend {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn fd(&self, _pair: usize) -> Option<RawFd> {
        Some(self.socket.as_raw_fd())
    }

    fn send(&mut self, pair: usize, packet: &[u8]) -> io::Result<()> {
        if !self.flush(pair)? {
            return Err(ErrorKind::WouldBlock.into());
        }
        let frame = &packet[HEADER_BYTES..];
        let length = (frame.len() as u32).to_be_bytes();
        let written = self.write(&[&length, frame])?;
        if written < LENGTH_BYTES {
            self.unsent.extend_from_slice(&length[written..]);
        }
        let of_frame = written.saturating_sub(LENGTH_BYTES);
        self.unsent.extend_from_slice(&frame[of_frame..]);
        Ok(())
    }

    fn flush(&mut self, _pair: usize) -> io::Result<bool> {
        while !self.unsent.is_empty() {
            let unsent = std::mem::take(&mut self.unsent);
            let written = self.write(&[&unsent]);
            self.unsent = unsent;
            match written {
                Ok(written) => drop(self.unsent.drain(..written)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    fn receive(&mut self, _pair: usize, packet: &mut Vec<u8>) -> io::Result<()> {
        loop {
            if let Some(frame) = self.next_read()? {
                packet.clear();
                packet.resize(HEADER_BYTES, 0);
                packet.extend_from_slice(frame);
                self.unused.start += LENGTH_BYTES + frame.len();
                return Ok(());
            }
            self.read_more()?;
        }
    }
}

#[cfg(test)]
#[path = "stream_test.rs"]
mod stream_test;
