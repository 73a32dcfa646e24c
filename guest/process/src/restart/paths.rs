//! Sockets that are not pairs are made, some of them at paths.

use std::fs::Permissions;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, lchown};
use std::path::{Path, PathBuf};

use crate::error::{Error, ProcessPart, Refusal, failed};
use crate::image::{Image, Socket};
use crate::sys;

/// Paths of sockets that were made. When dropped, it removes them.
#[derive(Debug, Default)]
pub struct Paths {
    made: Vec<PathBuf>,
}

impl Paths {
    /// Keeps them.
    pub fn keep(&mut self) {
        self.made.clear();
    }

    /// Makes a socket, which is the image's open file of this number.
    pub fn make(&mut self, image: &Image, index: u32, socket: &Socket) -> Result<OwnedFd, Error> {
        let path = socket.path();
        if let Some(path) = path {
            // It was looked at: nobody has it any more.
            match std::fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(failed(format!("remove {}", path.display()))(error));
                }
                _ => self.made.push(path.to_owned()),
            }
        }
        let made = socket
            .make()
            .map_err(|error| cannot_have(image, index, error))?;
        let Some(path) = path else {
            return Ok(made);
        };
        let doing = || failed(format!("set up {}", path.display()));
        match socket.file {
            Some((mode, user, group)) => {
                lchown(path, Some(user), Some(group)).map_err(doing())?;
                let mode = Permissions::from_mode(mode);
                std::fs::set_permissions(path, mode).map_err(doing())?;
            }
            None => std::fs::remove_file(path).map_err(doing())?,
        }
        Ok(made)
    }
}

impl Drop for Paths {
    fn drop(&mut self) {
        for path in &self.made {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// The refusal of an address that a socket cannot have.
fn cannot_have(image: &Image, index: u32, error: io::Error) -> Error {
    let how = match error.raw_os_error() {
        Some(libc::EADDRINUSE) => "somebody else has it now",
        Some(libc::EADDRNOTAVAIL | libc::ENODEV) => "this machine does not have it",
        _ => return failed("make a socket")(error),
    };
    let reason = format!("cannot have the address of its socket: {how}");
    let found = image.processes.iter().find_map(|process| {
        let mut descriptors = process.descriptors.iter();
        let descriptor = descriptors.find(|descriptor| descriptor.file == index)?;
        let place = ProcessPart::Descriptor(descriptor.fd);
        Some(Refusal::new(process.pid, place, reason.clone()))
    });
    found.map_or(Error::BadImage("a socket is nobody's"), |refusal| {
        Error::Refused(vec![refusal])
    })
}

/// The reason why a socket cannot be at its path, if there is one.
pub fn path_refusal(socket: &Socket) -> Option<String> {
    let path = socket.path()?;
    let shown = path.display();
    match std::fs::symlink_metadata(path) {
        Err(_) if path.parent().is_some_and(Path::is_dir) => None,
        Err(_) => Some(format!("was a socket at {shown}, which has no directory")),
        Ok(found) if !found.file_type().is_socket() => Some(format!(
            "was a socket at {shown}, where there is another file now"
        )),
        Ok(found) if is_in_use(socket, found.ino()) => Some(format!(
            "was a socket at {shown}, which somebody else has now"
        )),
        Ok(_) => None,
    }
}

/// True if somebody has the socket whose file has this number. Only then it is tried: a server
/// would notice.
fn is_in_use(socket: &Socket, file: u64) -> bool {
    let all = sys::unix_sockets().unwrap_or_default();
    if all.iter().all(|other| other.file != file) {
        return false;
    }
    let tried = sys::make_socket(socket.family, socket.kind | libc::SOCK_NONBLOCK, 0)
        .and_then(|probe| sys::connect(probe.as_fd(), &socket.address));
    !tried.is_err_and(|error| error.raw_os_error() == Some(libc::ECONNREFUSED))
}
