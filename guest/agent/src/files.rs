//! Files that go to the host and come from it.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use nvvmm_protocol::{DATA_BYTES_MAX, FailedBecause, FromAgent, ToAgent, receive};

use crate::stream::{Failure, Stream};

/// The bits of a mode that are carried over: permissions, not set-user-id and its like.
const MODE_BITS: u32 = 0o777;

/// Sends a regular file, from its beginning to the end that it has when that is reached.
pub fn send(path: &[u8], stream: &mut impl Stream) -> Result<(), Failure> {
    let path = Path::new(OsStr::from_bytes(path));
    let what = path.display().to_string();
    let failed = |error: io::Error| Failure::io(&what, &error);
    // Without O_NONBLOCK, open waits for a writer of a FIFO.
    let mut file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
        .map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        let message = format!("{what} is no regular file");
        return Err(Failure::Said(FailedBecause::Refused, message));
    }
    let mode = metadata.permissions().mode() & MODE_BITS;
    nvvmm_protocol::send(&mut *stream, &FromAgent::File { mode })?;
    let mut bytes = vec![0; DATA_BYTES_MAX];
    loop {
        match file.read(&mut bytes) {
            Ok(0) => break,
            Ok(len) => nvvmm_protocol::send(&mut *stream, &FromAgent::Data(bytes[..len].to_vec()))?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(failed(error)),
        }
    }
    Ok(nvvmm_protocol::send(&mut *stream, &FromAgent::End)?)
}

/// Writes a file that the host sends. It gets its name only when it is complete.
pub fn take(path: &[u8], name: &[u8], mode: u32, stream: &mut impl Stream) -> Result<(), Failure> {
    let target = target(path, name)?;
    let what = target.display().to_string();
    let failed = |error: io::Error| Failure::io(&what, &error);
    let partial = Partial::beside(&target).map_err(failed)?;
    let mut file = &partial.file;
    loop {
        match receive(&mut *stream)? {
            ToAgent::Data(bytes) => file.write_all(&bytes).map_err(failed)?,
            ToAgent::End => break,
            _ => {
                let message = "this message is not part of a file".to_owned();
                return Err(Failure::Said(FailedBecause::Refused, message));
            }
        }
    }
    let permissions = Permissions::from_mode(mode & MODE_BITS);
    file.set_permissions(permissions).map_err(failed)?;
    partial.become_file(&target).map_err(failed)?;
    Ok(nvvmm_protocol::send(&mut *stream, &FromAgent::End)?)
}

/// The target of a file called `name` on the host that is copied to `path`.
fn target(path: &[u8], name: &[u8]) -> Result<PathBuf, Failure> {
    let path = Path::new(OsStr::from_bytes(path));
    if !path.is_dir() {
        // A device must not be replaced by a file.
        if path.exists() && !path.is_file() {
            let message = format!("{} is no regular file", path.display());
            return Err(Failure::Said(FailedBecause::Refused, message));
        }
        return Ok(path.to_owned());
    }
    match Path::new(OsStr::from_bytes(name)).file_name() {
        Some(name) => Ok(path.join(name)),
        None => Err(Failure::Said(
            FailedBecause::Refused,
            format!(
                "{} is a directory, and the file has no name",
                path.display()
            ),
        )),
    }
}

/// Number of files that were begun: part of their names while they are not whole.
static PARTS: AtomicU64 = AtomicU64::new(0);

/// A file that is not whole yet; it goes away unless it becomes one.
struct Partial {
    path: PathBuf,
    file: File,
}

impl Partial {
    fn beside(target: &Path) -> io::Result<Self> {
        let mut name = target
            .file_name()
            .ok_or(io::ErrorKind::IsADirectory)?
            .to_owned();
        let number = PARTS.fetch_add(1, Ordering::Relaxed);
        name.push(format!(".nvvmm-{}-{number}", std::process::id()));
        let path = target.with_file_name(name);
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)?;
        Ok(Self { path, file })
    }

    fn become_file(self, target: &Path) -> io::Result<()> {
        fs::rename(&self.path, target)
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        // It does not exist any more if it has become the file.
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
#[path = "files_test.rs"]
mod files_test;
