//! Sockets at which programs of the host reach a VM.

use std::fs::Permissions;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::sys::socket::{
    AddressFamily, Shutdown, SockFlag, SockType, UnixAddr, connect, shutdown, socket,
};

use crate::sys;

/// A listening unix socket, for its owner only. The file goes away when this is dropped.
pub struct HostSocket {
    pub(crate) listener: UnixListener,
    path: PathBuf,
    stopped: AtomicBool,
    connector: Option<Connector>,
}

/// Connects to the program that listens at the path of a [`HostSocket`] with `_` and this number
/// added.
pub type Connector = Arc<dyn Fn(u32) -> io::Result<UnixStream> + Send + Sync>;

impl HostSocket {
    /// Listens at `path`. A socket file that a dead process left there is replaced.
    ///
    /// # Errors
    /// Somebody listens there already (`AddrInUse`), something else than a socket is there, or the
    /// host refuses.
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
            stopped: AtomicBool::new(false),
            connector: None,
        };
        std::fs::set_permissions(path, Permissions::from_mode(0o600))?;
        socket.listener.set_nonblocking(true)?;
        Ok(socket)
    }

    /// Waits for a program that connects.
    ///
    /// # Errors
    /// The host refuses, or [`HostSocket::stop_listening`] was called.
    pub fn accept(&self) -> io::Result<UnixStream> {
        loop {
            sys::poll_ready(self.listener.as_raw_fd(), libc::POLLIN, Duration::MAX)?;
            match self.listener.accept() {
                Ok((stream, _)) => return Ok(stream),
                // It is gone again. Or nobody can come any more, which the kernel says with the
                // same words.
                Err(error)
                    if error.kind() == io::ErrorKind::WouldBlock
                        && !self.stopped.load(Ordering::SeqCst) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Accepts no more connections: [`HostSocket::accept`] fails from now on, also a call that
    /// waits already.
    pub fn stop_listening(&self) {
        self.stopped.store(true, Ordering::SeqCst);
        // Fails only for a descriptor that is no socket.
        let _ = shutdown(self.listener.as_raw_fd(), Shutdown::Both);
    }

    /// Has `connector` make the connections of [`HostSocket::connect`]: for a process that may not
    /// connect by itself.
    pub fn with_connector(mut self, connector: Connector) -> Self {
        self.connector = Some(connector);
        self
    }

    /// Connects to the program of the host that listens at this path with `_` and `port` added.
    /// Never waits for that program: one that does not accept is not there.
    ///
    /// # Errors
    /// What connect(2) says.
    pub(crate) fn connect(&self, port: u32) -> io::Result<UnixStream> {
        match &self.connector {
            Some(connector) => connector(port),
            None => connect_to_port(&self.path, port),
        }
    }

    /// Path of the socket.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl AsFd for HostSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

/// Connects, without waiting, to whoever listens at `path` with `_` and `port` added. The stream
/// is non-blocking.
///
/// # Errors
/// What connect(2) says.
pub fn connect_to_port(path: &Path, port: u32) -> io::Result<UnixStream> {
    let mut path = path.as_os_str().to_owned();
    path.push(format!("_{port}"));
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let fd = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    connect(fd.as_raw_fd(), &UnixAddr::new(&PathBuf::from(path))?)?;
    Ok(UnixStream::from(fd))
}

/// True for a socket file at `path` that nobody listens at.
fn is_dead_socket(path: &Path) -> bool {
    let is_socket =
        std::fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket());
    is_socket
        && UnixStream::connect(path)
            .is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

impl Drop for HostSocket {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::debug!(path = %self.path.display(), %error, "cannot remove a socket");
        }
    }
}
