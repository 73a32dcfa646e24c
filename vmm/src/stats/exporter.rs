//! A small server of metrics, for monitoring on the same host.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    os::fd::{AsFd, BorrowedFd},
    path::PathBuf,
    str::FromStr,
    thread,
    time::Duration,
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nvvmm_devices::HostSocket;

use super::{
    exposition::CONTENT_TYPE,
    http::{self, Answer},
};

/// Time that one client has in all. The next client waits meanwhile.
const PATIENCE: Duration = Duration::from_secs(2);
/// The only path there is.
const PATH: &str = "/metrics";

/// Address at which metrics are served. Another host can reach none of these.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExporterAddress {
    /// A unix socket, for its owner only.
    Unix(PathBuf),
    /// A port of this host's own; 0: any that is free.
    Loopback(SocketAddr),
}

impl FromStr for ExporterAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(path) = text.strip_prefix("unix:") {
            return match path {
                "" => Err("the path of the socket is missing".to_owned()),
                path => Ok(Self::Unix(path.into())),
            };
        }
        let address: SocketAddr = text
            .parse()
            .map_err(|_| "use unix:PATH, 127.0.0.1:PORT or [::1]:PORT".to_owned())?;
        if !address.ip().is_loopback() {
            return Err(format!(
                "{} can be reached from outside of this host: use 127.0.0.1, [::1] or unix:PATH",
                address.ip()
            ));
        }
        Ok(Self::Loopback(address))
    }
}

/// Listens, and answers one client after the other.
pub struct Exporter {
    listener: Listener,
}

enum Listener {
    Unix(HostSocket),
    Tcp(TcpListener),
}

impl Exporter {
    /// Listens at `address`. A socket file that a dead process left there is replaced; the new one
    /// goes away with this.
    pub fn bind(address: &ExporterAddress) -> io::Result<Self> {
        let listener = match address {
            ExporterAddress::Unix(path) => Listener::Unix(HostSocket::bind(path)?),
            ExporterAddress::Loopback(address) => {
                let listener = TcpListener::bind(address)?;
                // A client may be gone again between being told of and being accepted.
                listener.set_nonblocking(true)?;
                Listener::Tcp(listener)
            }
        };
        Ok(Self { listener })
    }

    /// The address as text, for the user.
    pub fn place(&self) -> io::Result<String> {
        Ok(match &self.listener {
            Listener::Unix(socket) => format!("unix:{}, path {PATH}", socket.path().display()),
            Listener::Tcp(listener) => format!("http://{}{PATH}", listener.local_addr()?),
        })
    }

    /// Answers clients until `stop` is readable; `scrape` makes the text of each answer.
    pub fn serve(&self, stop: BorrowedFd<'_>, scrape: impl Fn() -> String) -> io::Result<()> {
        loop {
            let mut waits = [
                PollFd::new(self.listener.as_fd(), PollFlags::POLLIN),
                PollFd::new(stop, PollFlags::POLLIN),
            ];
            match poll(&mut waits, PollTimeout::NONE) {
                Ok(_) => {}
                Err(nix::errno::Errno::EINTR) => continue,
                Err(error) => return Err(error.into()),
            }
            if waits[1].any() == Some(true) {
                return Ok(());
            }
            match self.answer_one(&scrape) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => {
                    tracing::warn!(%error, "a client was not taken");
                    // Out of descriptors: it is still there, so do not spin on it.
                    thread::sleep(Duration::from_millis(100));
                }
                Ok(Err(error)) => tracing::debug!(%error, "a client got no metrics"),
                Ok(Ok(())) => {}
            }
        }
    }

    /// Accepts one client and answers it. The outer error is that of the listener, the inner one
    /// that of the client.
    fn answer_one(&self, scrape: impl Fn() -> String) -> io::Result<io::Result<()>> {
        let get = |target: &str| {
            if target.split('?').next() == Some(PATH) {
                Answer {
                    status: "200 OK",
                    content_type: CONTENT_TYPE,
                    body: scrape(),
                }
            } else {
                Answer::refusal("404 Not Found", "the metrics are at /metrics")
            }
        };
        match &self.listener {
            Listener::Unix(socket) => {
                let stream = socket.accept()?;
                stream.set_nonblocking(false)?;
                Ok(http::converse(stream, PATIENCE, get))
            }
            Listener::Tcp(listener) => {
                let (stream, _) = listener.accept()?;
                stream.set_nonblocking(false)?;
                Ok(http::converse(stream, PATIENCE, get))
            }
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Unix(socket) => socket.as_fd(),
            Self::Tcp(listener) => listener.as_fd(),
        }
    }
}

#[cfg(test)]
#[path = "exporter_test.rs"]
mod exporter_test;
