//! `nvvmm cp`: a file into a guest, or out of one. On the host's side it can be a standard stream.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use nvvmm::agent::call::{self, call};
use nvvmm::control::RuntimeDir;
use nvvmm::{ErrorKind, VmError};
use nvvmm_protocol::{DATA_BYTES_MAX, FromAgent, ToAgent, receive, send};

use super::args::CpArguments;
use super::cp_tree::Guest;
use super::interruption::ends_on_signal;
use super::output;
use super::partial::{Partial, check_free};
use super::progress::Progress;
use super::values::CopyPlace;

/// The bits of a mode that are carried over, as far as the umask of the receiver allows.
pub(super) const MODE_BITS: u32 = 0o777;
/// Permissions of a file in the guest whose content comes from a standard stream.
const MODE_OF_STREAM: u32 = 0o644;

/// `nvvmm cp`.
pub fn run(arguments: &CpArguments) -> Result<(), VmError> {
    let CpArguments {
        from,
        to,
        recursive,
        force,
    } = arguments;
    match (from, to) {
        (CopyPlace::Host(from), CopyPlace::Guest { vm, path }) => {
            match *recursive && from.is_dir() {
                true => in_guest(vm, |guest| guest.take(from, path)),
                false => into_guest(from, vm, path),
            }
        }
        (CopyPlace::Stream, CopyPlace::Guest { vm, path }) => from_stdin(vm, path),
        (CopyPlace::Guest { vm, path }, CopyPlace::Host(to)) => {
            match *recursive && in_guest(vm, |guest| guest.is_directory(path))? {
                true => in_guest(vm, |guest| guest.give(path, to)),
                false => out_of_guest(vm, path, to, *force),
            }
        }
        (CopyPlace::Guest { vm, path }, CopyPlace::Stream) => to_stdout(vm, path),
        _ => Err(VmError::new(
            ErrorKind::Usage,
            "exactly one of the two paths must be in a guest",
        )
        .with_remedy("write the path in the guest as VM:PATH")),
    }
}

fn in_guest<T>(
    vm: &str,
    work: impl FnOnce(&Guest<'_>) -> Result<T, VmError>,
) -> Result<T, VmError> {
    work(&Guest {
        vm,
        connect: &|| connect(vm),
    })
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
            .with_remedy("copy a directory with --recursive"));
    }
    let name = from.file_name().unwrap_or_default().as_bytes().to_vec();
    let request = ToAgent::Write {
        path: bytes_of(path),
        name,
        mode: metadata.permissions().mode() & MODE_BITS,
    };
    send_file(vm, &connect(vm)?, &request, &mut file, Some(metadata.len())).map_err(|failure| {
        match failure {
            SendFailure::Read(error) => failed(error),
            SendFailure::Vm(error) => error,
        }
    })
}

/// The file gets the permissions that a new file has.
fn from_stdin(vm: &str, path: &Path) -> Result<(), VmError> {
    let failed = |e: io::Error| VmError::io("read standard input", &e);
    let mut input = File::from(io::stdin().as_fd().try_clone_to_owned().map_err(failed)?);
    let request = ToAgent::Write {
        path: bytes_of(path),
        name: Vec::new(),
        mode: MODE_OF_STREAM,
    };
    send_file(vm, &connect(vm)?, &request, &mut input, None).map_err(|failure| match failure {
        SendFailure::Read(error) => failed(error),
        SendFailure::Vm(error) => error,
    })
}

/// Reason why a file did not reach the guest.
#[derive(Debug)]
enum SendFailure {
    /// The file could not be read.
    Read(io::Error),
    /// The guest did not take it.
    Vm(VmError),
}

impl From<VmError> for SendFailure {
    fn from(error: VmError) -> Self {
        Self::Vm(error)
    }
}

/// Sends what can be read from `input`, of `len_bytes` if that is known, for the file of `request`.
fn send_file(
    vm: &str,
    stream: &UnixStream,
    request: &ToAgent,
    input: &mut impl Read,
    len_bytes: Option<u64>,
) -> Result<(), SendFailure> {
    let mut sent = send(stream, request);
    let mut bytes = vec![0; DATA_BYTES_MAX];
    let (mut shown, mut done) = (Progress::of_bytes("copy")?, 0);
    // An agent that refuses says why, and reads no more: what it has said is heard below.
    while sent.is_ok() {
        match input.read(&mut bytes) {
            Ok(0) => break,
            Ok(len) => {
                sent = send(stream, &ToAgent::Data(bytes[..len].to_vec()));
                done += len as u64;
                shown.show(done, len_bytes.map(|len_bytes| len_bytes.max(done)));
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(SendFailure::Read(error)),
        }
    }
    if sent.is_ok() {
        sent = send(stream, &ToAgent::End);
    }
    match hear(vm, stream)? {
        FromAgent::End => sent.map_err(|error| call::broken(vm, error).into()),
        _ => Err(out_of_turn(vm).into()),
    }
}

fn out_of_guest(vm: &str, path: &Path, to: &Path, force: bool) -> Result<(), VmError> {
    let target = target(path, to)?;
    check_free(&target, force)?;
    take_file(vm, &asked_for(vm, path)?, &target, force)
}

/// A stream on which the agent sends the guest's file `path`.
fn asked_for(vm: &str, path: &Path) -> Result<UnixStream, VmError> {
    let stream = connect(vm)?;
    let request = ToAgent::Read {
        path: bytes_of(path),
    };
    send(&stream, &request).map_err(|error| call::broken(vm, error))?;
    Ok(stream)
}

fn to_stdout(vm: &str, path: &Path) -> Result<(), VmError> {
    output::check_stdout()?;
    show_file(vm, &asked_for(vm, path)?, &mut io::stdout().lock())
}

/// Writes the file that the agent sends to `out`. Ends quietly when nobody reads that any more.
fn show_file(vm: &str, stream: &UnixStream, out: &mut impl Write) -> Result<(), VmError> {
    let FromAgent::File { .. } = hear(vm, stream)? else {
        return Err(out_of_turn(vm));
    };
    loop {
        let written = match hear(vm, stream)? {
            FromAgent::Data(bytes) => out.write_all(&bytes),
            FromAgent::End => {
                return match out.flush() {
                    Err(e) if e.kind() != io::ErrorKind::BrokenPipe => {
                        Err(VmError::io("write to stdout", &e))
                    }
                    _ => Ok(()),
                };
            }
            _ => return Err(out_of_turn(vm)),
        };
        match written {
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            other => other.map_err(|e| VmError::io("write to stdout", &e))?,
        }
    }
}

/// Makes `target` of the file that the agent sends. The guest has no say in more than the
/// permissions that the umask allows: never in setuid, setgid or sticky bits.
fn take_file(vm: &str, stream: &UnixStream, target: &Path, force: bool) -> Result<(), VmError> {
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
            FromAgent::End => return partial.become_whole(target, force).map_err(failed),
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
        return Err(VmError::new(ErrorKind::Refused, message)
            .with_remedy("copy to - (standard output), and redirect that"));
    }
    Ok(to.to_owned())
}

#[cfg(test)]
#[path = "cp_test.rs"]
mod cp_test;
