//! What the console is connected to on the host.

use std::collections::HashMap;
use std::fs::{File, Permissions};
use std::io;
use std::os::fd::{AsFd, RawFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use super::client::Client;

/// Where console input comes from and output goes to. All of it may be missing.
#[derive(Default)]
pub struct ConsoleStreams {
    /// Input, usually a duplicate of standard input. Putting a terminal into raw mode is the caller's part.
    pub input: Option<File>,
    /// Output, usually a duplicate of standard output.
    pub output: Option<File>,
    /// A socket that clients connect to for both.
    pub socket: Option<ConsoleSocket>,
    /// Those who are connected to it already.
    pub(super) clients: HashMap<RawFd, Client>,
}

impl ConsoleStreams {
    /// Standard output, and standard input when `with_input`.
    ///
    /// # Errors
    /// A descriptor cannot be duplicated: it is closed, or there are too many.
    pub fn stdio(with_input: bool) -> io::Result<Self> {
        let output = Some(File::from(io::stdout().as_fd().try_clone_to_owned()?));
        let input = match with_input {
            true => Some(File::from(io::stdin().as_fd().try_clone_to_owned()?)),
            false => None,
        };
        Ok(Self {
            input,
            output,
            ..Self::default()
        })
    }
}

/// A listening unix socket, for its owner only. The file goes away when this is dropped.
pub struct ConsoleSocket {
    pub(super) listener: UnixListener,
    path: PathBuf,
}

impl ConsoleSocket {
    /// Listens at `path`. A socket file that a dead process left there is replaced.
    ///
    /// # Errors
    /// Somebody listens there already (`AddrInUse`), something else than a socket is there, or the host refuses.
    pub fn bind(path: &Path) -> io::Result<Self> {
        let listener = match UnixListener::bind(path) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_dead_socket(path) => {
                std::fs::remove_file(path)?;
                UnixListener::bind(path)
            }
            other => other,
        }?;
        let socket = Self {
            listener,
            path: path.to_owned(),
        };
        std::fs::set_permissions(path, Permissions::from_mode(0o600))?;
        socket.listener.set_nonblocking(true)?;
        Ok(socket)
    }

    /// Where the socket is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Whether a socket file is at `path` that nobody listens at.
fn is_dead_socket(path: &Path) -> bool {
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket());
    is_socket
        && UnixStream::connect(path).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

impl Drop for ConsoleSocket {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::debug!(path = %self.path.display(), %error, "cannot remove the console socket");
        }
    }
}
