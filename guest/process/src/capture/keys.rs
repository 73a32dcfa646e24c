//! Keyrings of a process (keyctl(2)): nothing but the process itself can tell what is in them.

use crate::arch::PAGE_BYTES;
use crate::error::Error;
use crate::inject::{Memory, Remote};

const KEYCTL_GET_KEYRING_ID: u64 = 0;
const KEYCTL_DESCRIBE: u64 = 6;
const KEYCTL_READ: u64 = 11;
/// The end of the description of a key that systemd gives to each service. It tells nothing that
/// the service's environment does not.
const OF_SERVICE: &[u8] = b";invocation_id\0";
/// Keyrings that belong to a thread and to a process alone.
const OWN: [i32; 2] = [-1, -2];
const SESSION: i32 = -3;
/// Keyrings that every process of a user has anyway.
const OF_USER: [i32; 2] = [-4, -5];

/// True if a process has keys that are not its user's. `room` is a page of its memory.
pub fn has_some(remote: &Remote, memory: &Memory, room: u64) -> Result<bool, Error> {
    let id = |keyring: i32| -> Result<Option<u64>, Error> {
        let arguments = [KEYCTL_GET_KEYRING_ID, keyring as u64, 0];
        // ENOKEY: it has none. ENOSYS: nobody has.
        Ok(remote.try_call(libc::SYS_keyctl, &arguments)?.ok())
    };
    for keyring in OWN {
        if id(keyring)?.is_some() {
            return Ok(true);
        }
    }
    let Some(session) = id(SESSION)? else {
        return Ok(false);
    };
    let of_user = [id(OF_USER[0])?, id(OF_USER[1])?];
    if of_user.contains(&Some(session)) {
        return Ok(false);
    }
    let arguments = [KEYCTL_READ, session, room, PAGE_BYTES];
    let Ok(bytes) = remote.try_call(libc::SYS_keyctl, &arguments)? else {
        // It may not read its own keyring.
        return Ok(true);
    };
    let mut keys = vec![0; bytes.min(PAGE_BYTES) as usize];
    memory.read(room, &mut keys)?;
    let keys = keys.as_chunks::<4>().0.iter();
    let keys = keys.map(|key| u64::from(u32::from_le_bytes(*key)));
    for key in keys.filter(|key| !of_user.contains(&Some(*key))) {
        let arguments = [KEYCTL_DESCRIBE, key, room, PAGE_BYTES];
        let described = remote.try_call(libc::SYS_keyctl, &arguments)?;
        let mut description = vec![0; described.unwrap_or(0).min(PAGE_BYTES) as usize];
        memory.read(room, &mut description)?;
        if !description.ends_with(OF_SERVICE) {
            return Ok(true);
        }
    }
    Ok(false)
}
