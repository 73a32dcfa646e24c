//! Random bytes of the kernel: for uuids, identities and salts.

use std::fs::File;
use std::io::Read;
use std::sync::OnceLock;

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
///
/// # Errors
/// [`Error::Io`].
pub fn fill_random(bytes: &mut [u8]) -> Result<()> {
    device()
        .and_then(|mut random| random.read_exact(bytes))
        .map_err(Error::io("reading /dev/urandom"))
}

/// Opens the device, so that later calls open nothing.
pub(crate) fn open_ahead() -> Result<()> {
    device()
        .map(drop)
        .map_err(Error::io("opening /dev/urandom"))
}

fn device() -> std::io::Result<&'static File> {
    static DEVICE: OnceLock<File> = OnceLock::new();
    match DEVICE.get() {
        Some(device) => Ok(device),
        None => {
            let opened = File::open("/dev/urandom")?;
            Ok(DEVICE.get_or_init(|| opened))
        }
    }
}
