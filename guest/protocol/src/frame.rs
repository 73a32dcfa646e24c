//! Messages in frames.

use std::io::{self, Read, Write};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// The longest message, in bytes. A command line and its environment must fit into one.
pub const FRAME_BYTES_MAX: usize = 256 << 10;

const LENGTH_BYTES: usize = 4;

/// The reason why a message was not sent or received.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The other side has ended the stream, between two messages.
    #[error("the other side has ended the stream")]
    Ended,
    /// The message is longer than a message may be.
    #[error("a message of {len_bytes} bytes is longer than the {FRAME_BYTES_MAX} that are allowed")]
    TooLong {
        /// Its length.
        len_bytes: usize,
    },
    /// The bytes are no message of this version.
    #[error("not a message: {0}")]
    Malformed(#[source] postcard::Error),
    /// There is more in the frame than the message.
    #[error("{0} B too many behind a message")]
    LeftOver(usize),
    /// The stream broke.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Sends one message.
///
/// # Errors
/// Fails if the message is too long (then nothing was sent), or if the stream broke.
pub fn send<T: Serialize>(mut stream: impl Write, message: &T) -> Result<(), FrameError> {
    let frame =
        postcard::to_extend(message, vec![0; LENGTH_BYTES]).map_err(FrameError::Malformed)?;
    let len_bytes = frame.len() - LENGTH_BYTES;
    if len_bytes > FRAME_BYTES_MAX {
        return Err(FrameError::TooLong { len_bytes });
    }
    let mut frame = frame;
    frame[..LENGTH_BYTES].copy_from_slice(&(len_bytes as u32).to_le_bytes());
    stream.write_all(&frame)?;
    stream.flush()?;
    Ok(())
}

/// Waits for one message.
///
/// # Errors
/// See [`FrameError`]. After any of them the stream is of no more use.
pub fn receive<T: DeserializeOwned>(mut stream: impl Read) -> Result<T, FrameError> {
    let mut length = [0; LENGTH_BYTES];
    // Only before the first byte is the end of the stream in order.
    loop {
        match stream.read(&mut length[..1]) {
            Ok(0) => return Err(FrameError::Ended),
            Ok(_) => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    stream.read_exact(&mut length[1..])?;
    let len_bytes = u32::from_le_bytes(length) as usize;
    if len_bytes > FRAME_BYTES_MAX {
        return Err(FrameError::TooLong { len_bytes });
    }
    let mut payload = vec![0; len_bytes];
    stream.read_exact(&mut payload)?;
    match postcard::take_from_bytes(&payload) {
        Ok((message, [])) => Ok(message),
        Ok((_, rest)) => Err(FrameError::LeftOver(rest.len())),
        Err(error) => Err(FrameError::Malformed(error)),
    }
}

#[cfg(test)]
#[path = "frame_test.rs"]
mod frame_test;
