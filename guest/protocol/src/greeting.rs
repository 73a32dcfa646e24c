//! The first bytes of a stream, in each direction.

use std::io::{self, Read, Write};

/// The newest version that is spoken here. A message whose encoding changes, or a new one, makes a
/// new version.
pub const VERSION: u16 = 6;
/// The oldest version that is spoken here: agents in snapshots are as old as these.
pub const VERSION_MIN: u16 = 4;
/// The version since which `ToGuest::KeepConnections` is understood.
pub const KEEPS_CONNECTIONS: u16 = 5;
/// The version since which `ToAgent::Check` is understood.
pub const CHECKS: u16 = 6;

const MAGIC: [u8; 4] = *b"NVMA";

/// Says what a stream is and which versions the sender speaks. Its own form never changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Greeting {
    /// The oldest version that the sender speaks.
    pub oldest: u16,
    /// The newest one.
    pub newest: u16,
}

impl Greeting {
    /// Length in bytes.
    pub const BYTES: usize = 8;
    /// The greeting of this version.
    pub const OURS: Self = Self {
        oldest: VERSION_MIN,
        newest: VERSION,
    };

    /// The bytes on the stream.
    pub fn encode(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4..6].copy_from_slice(&self.oldest.to_le_bytes());
        bytes[6..].copy_from_slice(&self.newest.to_le_bytes());
        bytes
    }

    /// Reads what [`Greeting::encode`] has made. Up to version 4 the last two bytes were zero: the
    /// sender speaks one version.
    ///
    /// # Errors
    /// [`GreetingError::NotNvvmm`].
    pub fn decode(bytes: [u8; Self::BYTES]) -> Result<Self, GreetingError> {
        let [m0, m1, m2, m3, o0, o1, n0, n1] = bytes;
        if [m0, m1, m2, m3] != MAGIC {
            return Err(GreetingError::NotNvvmm);
        }
        let oldest = u16::from_le_bytes([o0, o1]);
        Ok(Self {
            oldest,
            newest: u16::from_le_bytes([n0, n1]).max(oldest),
        })
    }

    /// The newest version that both speak.
    fn common(self, other: Self) -> Option<u16> {
        let newest = self.newest.min(other.newest);
        (newest >= self.oldest.max(other.oldest)).then_some(newest)
    }
}

/// The reason why a stream cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum GreetingError {
    /// The other side is something else.
    #[error("the other side does not speak nvvmm's protocol")]
    NotNvvmm,
    /// The other side is of another version of nvvmm.
    #[error(
        "the other side speaks version {theirs} of the protocol, this one versions {VERSION_MIN} \
         to {VERSION}"
    )]
    Version {
        /// The version of the other side that is nearest.
        theirs: u16,
    },
    /// The stream broke.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Greets the other side and hears its greeting. Gives the version that both speak from now on.
///
/// # Errors
/// See [`GreetingError`].
pub fn greet(mut stream: impl Read + Write) -> Result<u16, GreetingError> {
    stream.write_all(&Greeting::OURS.encode())?;
    stream.flush()?;
    let mut bytes = [0; Greeting::BYTES];
    stream.read_exact(&mut bytes)?;
    let theirs = Greeting::decode(bytes)?;
    Greeting::OURS.common(theirs).ok_or(GreetingError::Version {
        theirs: match theirs.oldest > VERSION {
            true => theirs.oldest,
            false => theirs.newest,
        },
    })
}
