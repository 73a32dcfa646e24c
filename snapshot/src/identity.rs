//! What a snapshot is, in whichever pool it is found.

use std::fmt;
use std::fs::File;
use std::io::Read;

use serde::{Serialize, Serializer};

use crate::error::{Error, Result};

/// Tells a snapshot from all others: given at random when it is taken, and kept when it is moved to
/// another pool.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Identity([u8; 16]);

impl Identity {
    pub(crate) fn random() -> Result<Identity> {
        random_uuid().map(Identity)
    }

    /// None for zeros, which are no identity.
    pub fn from_bytes(bytes: [u8; 16]) -> Option<Identity> {
        (bytes != [0; 16]).then_some(Identity(bytes))
    }

    /// Its bytes.
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

/// A random uuid (RFC 9562, version 4).
pub(crate) fn random_uuid() -> Result<[u8; 16]> {
    let mut uuid = [0; 16];
    fill_random(&mut uuid)?;
    uuid[6] = uuid[6] & 0x0f | 0x40;
    uuid[8] = uuid[8] & 0x3f | 0x80;
    Ok(uuid)
}

/// Fills bytes with what nobody can foresee.
pub(crate) fn fill_random(bytes: &mut [u8]) -> Result<()> {
    File::open("/dev/urandom")
        .and_then(|mut random| random.read_exact(bytes))
        .map_err(Error::io("reading /dev/urandom"))
}

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
