//! Random bytes of the kernel: for uuids, identities and salts.

use std::fs::File;
use std::io::Read;

use crate::error::{Error, Result};
use crate::identity::Identity;

impl Identity {
    /// An identity that no other snapshot has.
    pub(crate) fn random() -> Result<Identity> {
        // The version in a uuid's bits is never 0.
        Identity::from_bytes(random_uuid()?)
            .ok_or_else(|| Error::io("making a uuid")(std::io::ErrorKind::InvalidData))
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

/// Fills bytes with random ones of the kernel.
pub(crate) fn fill_random(bytes: &mut [u8]) -> Result<()> {
    File::open("/dev/urandom")
        .and_then(|mut random| random.read_exact(bytes))
        .map_err(Error::io("reading /dev/urandom"))
}
