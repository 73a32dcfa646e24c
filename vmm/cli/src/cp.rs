//! `nvvmm cp`: a file into a guest, or out of one.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use nvvmm::agent::call::{self, call};
use nvvmm::control::RuntimeDir;
use nvvmm::{ErrorKind, VmError};
use nvvmm_protocol::{DATA_BYTES_MAX, FromAgent, ToAgent, receive, send};

use super::partial::Partial;
use super::{interruption::ends_on_signal, progress::Progress, values::CopyPlace};

/// The bits of a mode that are carried over, as far as the umask of the receiver allows.
const MODE_BITS: u32 = 0o777;

/// Copies a file.
pub fn run(from: &CopyPlace, to: &CopyPlace) -> Result<(), VmError> {
    match (from, to) {
        (CopyPlace::Host(from), CopyPlace::Guest { vm, path }) => into_guest(from, vm, path),
        (CopyPlace::Guest { vm, path }, CopyPlace::Host(to)) => out_of_guest(vm, path, to),
        _ => Err(VmError::new(
            ErrorKind::Usage,
            "exactly one of the two paths must be in a guest",
        )
        .with_remedy("write the path in the guest as VM:PATH")),
    }
}

fn connect(vm: &str) -> Result<UnixStream, VmError> {
    let entry = RuntimeDir::of_user()?.find(vm)?;
    call(&entry.paths, call::PATIENCE)
}

fn bytes_of(path: &Path) -> Vec<u8> {
    path.as_os_str().as_bytes().to_vec()
}

fn into_guest(from: &Path, vm: &str, path: &Path) -> Result<(), VmError> {
    let failed = |e: io::Error| VmError::io(format_args!("read {}", from.display()), &e);
    let mut file = File::open(from).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        let message = format!("{} is not a regular file", from.display());
        return Err(VmError::new(ErrorKind::Refused, message)
            .with_remedy("copy an archive of it, and unpack that with 'nvvmm exec'"));
    }
    let stream = connect(vm)?;
    let name = from.file_name().unwrap_or_default().as_bytes().to_vec();
    let mode = metadata.permissions().mode() & MODE_BITS;
    let request = ToAgent::Write {
        path: bytes_of(path),
        name,
        mode,
    };
    let mut sent = send(&stream, &request);
    let mut bytes = vec![0; DATA_BYTES_MAX];
    let (mut shown, mut done) = (Progress::of_bytes("copy")?, 0);
    // An agent that refuses says why, and reads no more: what it has said is heard below.
    while sent.is_ok() {
        match file.read(&mut bytes) {
            Ok(0) => break,
            Ok(len) => {
                sent = send(&stream, &ToAgent::Data(bytes[..len].to_vec()));
                done += len as u64;
                shown.show(done, Some(metadata.len().max(done)));
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(failed(error)),
        }
    }
    if sent.is_ok() {
        sent = send(&stream, &ToAgent::End);
    }
    match hear(vm, &stream)? {
        FromAgent::End => sent.map_err(|error| call::broken(vm, error)),
        _ => Err(out_of_turn(vm)),
    }
}

fn out_of_guest(vm: &str, path: &Path, to: &Path) -> Result<(), VmError> {
    let target = target(path, to)?;
    let stream = connect(vm)?;
    let request = ToAgent::Read {
        path: bytes_of(path),
    };
    send(&stream, &request).map_err(|error| call::broken(vm, error))?;
    take_file(vm, &stream, &target)
}

/// Makes `target` of the file that the agent sends. The guest has no say in more than the
/// permissions that the umask allows: never in setuid, setgid or sticky bits.
fn take_file(vm: &str, stream: &UnixStream, target: &Path) -> Result<(), VmError> {
    let failed = |e: io::Error| VmError::io(format_args!("write {}", target.display()), &e);
    let FromAgent::File { mode } = hear(vm, stream)? else {
        return Err(out_of_turn(vm));
    };
    let partial = Partial::with_mode(target, mode & MODE_BITS).map_err(failed)?;
    let mut file = &partial.file;
    let interrupted = ends_on_signal()?;
    let (mut shown, mut done) = (Progress::of_bytes("copy")?, 0);
    while !interrupted.load(Ordering::Relaxed) {
        match hear(vm, stream)? {
            FromAgent::Data(bytes) => {
                file.write_all(&bytes).map_err(failed)?;
                done += bytes.len() as u64;
                shown.show(done, None);
            }
            FromAgent::End => return partial.become_whole(target).map_err(failed),
            _ => return Err(out_of_turn(vm)),
        }
    }
    Err(VmError::failed("interrupted: nothing was copied"))
}

/// The next message that is no failure.
fn hear(vm: &str, stream: &UnixStream) -> Result<FromAgent, VmError> {
    match receive(stream).map_err(|error| call::broken(vm, error))? {
        FromAgent::Failed { because, message } => Err(call::failed(vm, because, &message)),
        other => Ok(other),
    }
}

fn out_of_turn(vm: &str) -> VmError {
    VmError::failed(format!("the agent in {vm} sent an unexpected message"))
}

/// Path on the host for the guest's file `path` that is copied to `to`.
fn target(path: &Path, to: &Path) -> Result<PathBuf, VmError> {
    if to.is_dir() {
        let name = path.file_name().filter(|name| *name != OsStr::new(".."));
        let no_name = || {
            VmError::new(
                ErrorKind::Usage,
                format!("{} is not the path of a file", path.display()),
            )
        };
        return Ok(to.join(name.ok_or_else(no_name)?));
    }
    if to.exists() && !to.is_file() {
        let message = format!("{} is not a regular file", to.display());
        return Err(VmError::new(ErrorKind::Refused, message));
    }
    Ok(to.to_owned())
}

#[cfg(test)]
#[path = "cp_test.rs"]
mod cp_test;
