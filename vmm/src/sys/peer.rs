//! The process at the other end of a unix socket, and of a lock on a file.
//!
//! Such a process is named by the kernel. A number that was written to a file may be that of any
//! other process by now, or of one in another PID namespace.

use std::fs::Metadata;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};

use super::check;

/// Socket option of Linux 6.5, not in libc (include/uapi/asm-generic/socket.h).
const SO_PEERPIDFD: libc::c_int = 77;

/// Reasons why a process cannot be named.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    /// The process has no number in this process's PID namespace.
    #[error("it runs in another PID namespace (another container)")]
    OtherNamespace,
    /// The process has ended.
    #[error("it has ended")]
    Ended,
    /// Several processes could be it.
    #[error("several processes could be it: {0}")]
    Ambiguous(String),
    /// Anything else.
    #[error(transparent)]
    Os(#[from] io::Error),
}

/// A process, whatever happens to its number meanwhile.
#[derive(Debug)]
pub struct NamedProcess {
    pid: u32,
    pidfd: OwnedFd,
}

impl NamedProcess {
    /// The process that listens on the socket which `stream` is connected to.
    ///
    /// # Errors
    /// [`PeerError`].
    pub fn listening_for(stream: &UnixStream) -> Result<Self, PeerError> {
        let pid = peer_pid(stream).ok_or(PeerError::OtherNamespace)?;
        let pidfd = match peer_pidfd(stream) {
            Ok(pidfd) => pidfd,
            // Before Linux 6.5. The number is that of the process as long as it keeps the
            // connection.
            Err(error) if error.raw_os_error() == Some(libc::ENOPROTOOPT) => {
                let pidfd = open_pidfd(pid)?;
                if is_hung_up(stream) {
                    return Err(PeerError::Ended);
                }
                pidfd
            }
            Err(error) => return Err(ended_or(error)),
        };
        Ok(Self { pid, pidfd })
    }

    /// The process that has a lock (flock(2)) on a file.
    ///
    /// # Errors
    /// [`PeerError`].
    pub fn locking(file: &Metadata) -> Result<Self, PeerError> {
        let pid = flock_holder(file)?.ok_or(PeerError::OtherNamespace)?;
        let pidfd = open_pidfd(pid)?;
        // It still is that process: the kernel drops its locks before it gives its number away.
        if flock_holder(file)? != Some(pid) {
            return Err(PeerError::Ended);
        }
        Ok(Self { pid, pidfd })
    }

    /// The process of this user that has this name (proc_pid_comm(5)) and of which `is_it` is true.
    ///
    /// # Errors
    /// [`PeerError`]; [`PeerError::Ended`] when there is none.
    pub fn called(name: &str, is_it: impl Fn(u32) -> bool) -> Result<Self, PeerError> {
        let has_name = |pid: u32| {
            let found = std::fs::read_to_string(format!("/proc/{pid}/comm"));
            found.is_ok_and(|found| found.strip_suffix('\n') == Some(name)) && is_own(pid)
        };
        let all = std::fs::read_dir("/proc")?;
        let mut found: Vec<u32> = all
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .filter(|pid| has_name(*pid) && is_it(*pid))
            .collect();
        let pid = match (found.pop(), found.is_empty()) {
            (None, _) => return Err(PeerError::Ended),
            (Some(pid), true) => pid,
            (Some(pid), false) => {
                found.push(pid);
                let pids: Vec<String> = found.iter().map(u32::to_string).collect();
                return Err(PeerError::Ambiguous(pids.join(", ")));
            }
        };
        let pidfd = open_pidfd(pid)?;
        // Its number may have become another one's before it was opened.
        match has_name(pid) && is_it(pid) {
            true => Ok(Self { pid, pidfd }),
            false => Err(PeerError::Ended),
        }
    }

    /// Number of the process.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Ends the process with SIGKILL.
    ///
    /// # Errors
    /// [`PeerError`].
    pub fn kill(&self) -> Result<(), PeerError> {
        self.signal(libc::SIGKILL)
    }

    /// Asks the process to end, with SIGTERM.
    ///
    /// # Errors
    /// [`PeerError`].
    pub fn ask_to_end(&self) -> Result<(), PeerError> {
        self.signal(libc::SIGTERM)
    }

    /// Waits for the end of the process, at most this long. False when it still lives.
    ///
    /// # Errors
    /// Errors of poll(2).
    pub fn wait_end(&self, limit: Duration) -> io::Result<bool> {
        let until = Instant::now() + limit;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let left = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            let mut wait = [PollFd::new(self.pidfd.as_fd(), PollFlags::POLLIN)];
            match poll(&mut wait, left) {
                Err(nix::errno::Errno::EINTR) => {}
                done => return Ok(done? > 0),
            }
        }
    }

    fn signal(&self, signal: libc::c_int) -> Result<(), PeerError> {
        // SAFETY: pidfd_send_signal(2) takes numbers and, here, no siginfo; the descriptor is open.
        let sent = unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                self.pidfd.as_raw_fd(),
                signal,
                std::ptr::null::<libc::siginfo_t>(),
                0,
            )
        };
        check(sent as libc::c_int).map_err(|error| match error.raw_os_error() {
            Some(libc::EINVAL) => PeerError::OtherNamespace,
            _ => ended_or(error),
        })
    }
}

/// True if a process runs as the user of this one.
fn is_own(pid: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let uids = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    let uid = uids.and_then(|uids| uids.split_whitespace().next()?.parse().ok());
    uid == Some(nix::unistd::getuid().as_raw())
}

fn ended_or(error: io::Error) -> PeerError {
    match error.raw_os_error() {
        Some(libc::ESRCH | libc::ENODATA) => PeerError::Ended,
        _ => PeerError::Os(error),
    }
}

/// Number of the process that called listen(2) on the socket which `stream` is connected to, in
/// this process's PID namespace. `None` when it has none there.
pub fn peer_pid(stream: &UnixStream) -> Option<u32> {
    let peer = getsockopt(stream, PeerCredentials).ok()?;
    u32::try_from(peer.pid()).ok().filter(|pid| *pid != 0)
}

fn peer_pidfd(stream: &UnixStream) -> io::Result<OwnedFd> {
    let mut fd: libc::c_int = -1;
    let mut len = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: SO_PEERPIDFD (unix(7)) writes one descriptor number to `fd`, whose size `len` is.
    check(unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_PEERPIDFD,
            (&raw mut fd).cast(),
            &raw mut len,
        )
    })?;
    // SAFETY: the kernel has just made this descriptor for us; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn open_pidfd(pid: u32) -> Result<OwnedFd, PeerError> {
    // SAFETY: pidfd_open(2) takes numbers and makes a new descriptor.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid as libc::pid_t, 0) };
    let fd = fd as libc::c_int;
    check(fd).map_err(ended_or)?;
    // SAFETY: the kernel has just made this descriptor for us; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Number of the process that has the exclusive lock (flock(2)) on a file, by proc_locks(5).
/// `None` when no process of this PID namespace has it.
///
/// # Errors
/// /proc/locks cannot be read.
pub fn flock_holder(file: &Metadata) -> io::Result<Option<u32>> {
    let locks = std::fs::read_to_string("/proc/locks")?;
    Ok(locks.lines().find_map(|line| holder_in(line, file)))
}

/// `3: FLOCK  ADVISORY  WRITE 12345 00:1b:5678 0 EOF`. A line of a process that waits has `->`
/// behind its number.
fn holder_in(line: &str, file: &Metadata) -> Option<u32> {
    let mut fields = line.split_whitespace().skip(1);
    if fields.next()? != "FLOCK" {
        return None;
    }
    let pid: u32 = fields.nth(2)?.parse().ok()?;
    let mut place = fields.next()?.split(':');
    let (major, minor, inode) = (place.next()?, place.next()?, place.next()?);
    let major = u32::from_str_radix(major, 16).ok()?;
    let minor = u32::from_str_radix(minor, 16).ok()?;
    let is_it = libc::makedev(major, minor) == file.dev() && inode.parse() == Ok(file.ino());
    (is_it && pid != 0).then_some(pid)
}

/// True when the other end of a connection is closed, and so whoever had it is gone or has given
/// up. An end that only sends no more counts as open.
pub fn is_hung_up(stream: &UnixStream) -> bool {
    let mut wait = [PollFd::new(stream.as_fd(), PollFlags::empty())];
    match poll(&mut wait, PollTimeout::ZERO) {
        Ok(_) => wait[0]
            .revents()
            .is_some_and(|events| events.intersects(PollFlags::POLLHUP | PollFlags::POLLERR)),
        Err(_) => false,
    }
}

/// Whoever asked for some work over a connection, and may be gone before it is done. The default
/// one is this process itself, which is always there.
#[derive(Clone, Debug, Default)]
pub struct Caller(Option<Arc<UnixStream>>);

impl Caller {
    /// The caller at the other end of a connection.
    pub fn at(stream: UnixStream) -> Self {
        Self(Some(Arc::new(stream)))
    }

    /// True when nobody waits for the work any more.
    pub fn is_gone(&self) -> bool {
        self.0.as_deref().is_some_and(is_hung_up)
    }
}

#[cfg(test)]
#[path = "peer_test.rs"]
mod peer_test;
