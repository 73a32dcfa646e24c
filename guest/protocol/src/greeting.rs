//! The first bytes of a stream, in each direction.

use std::io::{self, Read, Write};

/// The version that is spoken here. A message whose encoding changes, or a new one, makes a new
/// version.
pub const VERSION: u16 = 4;

const MAGIC: [u8; 4] = *b"NVMA";

/// Says what a stream is and which version the sender speaks. Its own form never changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Greeting {
    /// [`VERSION`] of the sender.
    pub version: u16,
}

impl Greeting {
    /// Length in bytes.
    pub const BYTES: usize = 8;

    /// The bytes on the stream.
    pub fn encode(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4..6].copy_from_slice(&self.version.to_le_bytes());
        bytes
    }

    /// Reads what [`Greeting::encode`] has made. The last two bytes may be anything.
    ///
    /// # Errors
    /// [`GreetingError::NotNvvmm`].
    pub fn decode(bytes: [u8; Self::BYTES]) -> Result<Self, GreetingError> {
        let [m0, m1, m2, m3, v0, v1, ..] = bytes;
        if [m0, m1, m2, m3] != MAGIC {
            return Err(GreetingError::NotNvvmm);
        }
        Ok(Self {
            version: u16::from_le_bytes([v0, v1]),
        })
    }
}

/// The reason why a stream cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum GreetingError {
    /// The other side is something else.
    #[error("the other side does not speak nvvmm's protocol")]
    NotNvvmm,
    /// The other side is of another version of nvvmm.
    #[error("the other side speaks version {theirs} of the protocol, this one version {VERSION}")]
    Version {
        /// Version of the other side.
        theirs: u16,
    },
    /// The stream broke.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Greets the other side and hears its greeting.
///
/// # Errors
/// See [`GreetingError`].
pub fn greet(mut stream: impl Read + Write) -> Result<(), GreetingError> {
    stream.write_all(&Greeting { version: VERSION }.encode())?;
    stream.flush()?;
    let mut bytes = [0; Greeting::BYTES];
    stream.read_exact(&mut bytes)?;
    let theirs = Greeting::decode(bytes)?.version;
    if theirs != VERSION {
        return Err(GreetingError::Version { theirs });
    }
    Ok(())
}
