//! Names of a snapshot that are the same in every pool: its identity, and the root of its content.

use std::fmt;

use serde::{Serialize, Serializer};

/// Tells a snapshot from all others. It is random, given when the snapshot is taken, and kept when
/// the snapshot is moved to another pool.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Identity([u8; 16]);

impl Identity {
    /// The identity with these bytes; none for zeros.
    pub fn from_bytes(bytes: [u8; 16]) -> Option<Identity> {
        (bytes != [0; 16]).then_some(Identity(bytes))
    }

    /// The bytes of the identity.
    pub fn bytes(self) -> [u8; 16] {
        self.0
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&uuid_text(&self.0))
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

impl Serialize for Identity {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The content of a snapshot, by the root of a BLAKE3 hash tree over its memory, its saved state,
/// its kind and the size of its memory. Two snapshots with one root are the same, byte by byte.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ContentRoot([u8; 32]);

impl ContentRoot {
    /// The root with these bytes; none for zeros.
    pub fn from_bytes(bytes: [u8; 32]) -> Option<ContentRoot> {
        (bytes != [0; 32]).then_some(ContentRoot(bytes))
    }

    /// The bytes of the root.
    pub fn bytes(self) -> [u8; 32] {
        self.0
    }
}

impl fmt::Display for ContentRoot {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(out, "{byte:02x}"))
    }
}

impl fmt::Debug for ContentRoot {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

impl Serialize for ContentRoot {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A uuid as text: `xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx`.
pub(crate) fn uuid_text(uuid: &[u8; 16]) -> String {
    let digits = format!("{:032x}", u128::from_be_bytes(*uuid));
    [
        &digits[..8],
        &digits[8..12],
        &digits[12..16],
        &digits[16..20],
        &digits[20..],
    ]
    .join("-")
}
