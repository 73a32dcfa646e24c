//! Messages between the two ends of a migration, and their frames.
//!
//! A frame is one byte for its kind, the length of its body (u32, little endian), and the body. A
//! message is one JSON document. Data are parts of a stream; an empty part ends the stream.

use std::io::{self, Read, Write};

use nvvmm::VmError;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Version of the protocol. The other end must have the same.
pub(super) const PROTOCOL_VERSION: u32 = 1;
/// Most bytes of a message.
const MESSAGE_BYTES_MAX: usize = 64 << 10;
/// Most bytes of a part of a stream.
pub(super) const DATA_BYTES_MAX: usize = 256 << 10;

const KIND_MESSAGE: u8 = b'm';
const KIND_DATA: u8 = b'd';

/// A message of the host that has the VM.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "snake_case")]
pub(super) enum FromSource {
    /// The first message.
    Hello {
        /// Version of the protocol.
        protocol: u32,
        /// Version of the program.
        program: String,
        /// Names the migration.
        id: String,
        /// Name of the VM, here and there.
        vm: String,
    },
    /// A snapshot follows, as data.
    Receive {
        /// Its name in the pool of the target.
        snapshot: String,
    },
    /// Build the VM of this snapshot, and do not let it run.
    Restore {
        /// Name of the snapshot.
        snapshot: String,
    },
    /// The VM is the target's from now on.
    Go {
        /// The VM stays paused, as it was.
        paused: bool,
    },
    /// In a later connection: what became of this migration? A VM that does not run is ended.
    Ask,
}

/// A message of the host that gets the VM.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "snake_case")]
pub(super) enum FromTarget {
    /// The answer to `Hello`.
    Ready,
    /// Still at work.
    Working,
    /// The snapshot is in the pool.
    Received,
    /// The VM is built, and paused.
    Restored,
    /// The VM is the target's.
    Taken,
    /// The VM is not the target's, and never will be.
    NotTaken,
    /// The end of the migration.
    Failed {
        /// The cause.
        error: VmError,
    },
}

/// A frame that was read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Frame {
    /// Bytes of a message.
    Message(Vec<u8>),
    /// A part of a stream; empty at its end.
    Data(Vec<u8>),
}

impl Frame {
    /// Writes the frame.
    ///
    /// # Errors
    /// The connection broke.
    pub(super) fn write(&self, output: &mut impl Write) -> io::Result<()> {
        match self {
            Frame::Message(body) => write_frame(output, KIND_MESSAGE, body)?,
            Frame::Data(body) => write_frame(output, KIND_DATA, body)?,
        }
        output.flush()
    }

    /// Reads the next frame; `None` at the end of the connection.
    ///
    /// # Errors
    /// The connection broke, or what came is no frame.
    pub(super) fn read(input: &mut impl Read) -> io::Result<Option<Frame>> {
        let mut head = [0; 5];
        match input.read(&mut head[..1])? {
            0 => return Ok(None),
            _ => input.read_exact(&mut head[1..])?,
        }
        let [kind, length @ ..] = head;
        let length = u32::from_le_bytes(length) as usize;
        let length_max = match kind {
            KIND_MESSAGE => MESSAGE_BYTES_MAX,
            KIND_DATA => DATA_BYTES_MAX,
            _ => return Err(invalid("something that is no part of a migration")),
        };
        if length > length_max {
            return Err(invalid("a part that is too long"));
        }
        let mut body = vec![0; length];
        input.read_exact(&mut body)?;
        Ok(Some(match kind {
            KIND_MESSAGE => Frame::Message(body),
            _ => Frame::Data(body),
        }))
    }
}

/// The message in a frame.
///
/// # Errors
/// It is data, or no message that this program knows.
pub(super) fn message<T: DeserializeOwned>(frame: &Frame) -> io::Result<T> {
    match frame {
        Frame::Message(body) => {
            serde_json::from_slice(body).map_err(|_| invalid("a message that is not known"))
        }
        Frame::Data(_) => Err(invalid("data where a message is due")),
    }
}

/// Writes a message.
///
/// # Errors
/// The connection broke.
pub(super) fn say(output: &mut impl Write, message: &impl Serialize) -> io::Result<()> {
    let body = serde_json::to_vec(message)?;
    write_frame(output, KIND_MESSAGE, &body)?;
    output.flush()
}

/// A stream that is written as data.
pub(super) struct DataWriter<'o, W: Write>(&'o mut W);

impl<'o, W: Write> DataWriter<'o, W> {
    /// Begins a stream.
    pub(super) fn begin(output: &'o mut W) -> Self {
        Self(output)
    }

    /// Ends the stream.
    ///
    /// # Errors
    /// The connection broke.
    pub(super) fn end(self) -> io::Result<()> {
        write_frame(self.0, KIND_DATA, &[])?;
        self.0.flush()
    }
}

impl<W: Write> Write for DataWriter<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let part = &bytes[..bytes.len().min(DATA_BYTES_MAX)];
        if !part.is_empty() {
            write_frame(self.0, KIND_DATA, part)?;
        }
        Ok(part.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// A stream that is read from data.
pub(super) struct DataReader<'i, R: Read> {
    input: &'i mut R,
    /// The part that was read last, and how much of it was taken.
    part: Vec<u8>,
    taken: usize,
    is_ended: bool,
}

impl<'i, R: Read> DataReader<'i, R> {
    /// Begins a stream.
    pub(super) fn begin(input: &'i mut R) -> Self {
        Self {
            input,
            part: Vec::new(),
            taken: 0,
            is_ended: false,
        }
    }

    /// Reads on to the end of the stream.
    ///
    /// # Errors
    /// The connection broke.
    pub(super) fn end(mut self) -> io::Result<()> {
        while !self.is_ended {
            self.next_part()?;
        }
        Ok(())
    }

    fn next_part(&mut self) -> io::Result<()> {
        let Some(Frame::Data(part)) = Frame::read(self.input)? else {
            return Err(invalid("no end of the stream"));
        };
        self.is_ended = part.is_empty();
        (self.part, self.taken) = (part, 0);
        Ok(())
    }
}

impl<R: Read> Read for DataReader<'_, R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.taken == self.part.len() && !self.is_ended {
            self.next_part()?;
        }
        let count = (&self.part[self.taken..]).read(into)?;
        self.taken += count;
        Ok(count)
    }
}

fn write_frame(output: &mut impl Write, kind: u8, body: &[u8]) -> io::Result<()> {
    let length = u32::try_from(body.len()).map_err(|_| invalid("a part that is too long"))?;
    let [a, b, c, d] = length.to_le_bytes();
    output.write_all(&[kind, a, b, c, d])?;
    output.write_all(body)
}

/// Error of a message of the source that does not fit where it came.
pub(super) fn out_of_turn() -> VmError {
    VmError::failed("the source said something that does not fit here")
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{what} came"))
}

#[cfg(test)]
#[path = "message_test.rs"]
mod message_test;
