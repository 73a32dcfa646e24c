//! The helper of a VM process: a small process that does what needs a path of the host after the VM
//! process has confined itself.
//!
//! It takes three requests: to connect to the program at a host port of the guest, which is a
//! socket beside the VM's own; to remove the VM's files; and to look for them under the name that
//! somebody else has given them. Numbers and that name come from the VM process, never paths. It
//! ends with the VM process. It then removes what a killed one left, and notes the end in its
//! record.

use std::borrow::Cow;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::prctl::set_name;
use nix::unistd::{dup2_stderr, dup2_stdin, dup2_stdout, setsid};
use nvvmm::VmError;
use nvvmm::control::registry::{VM_NAME_BYTES_MAX, check_vm_name};
use nvvmm::control::{Claim, RuntimeDir, VmRuntimePaths};
use nvvmm_devices::{Connector, connect_to_port};
use tracing::subscriber::NoSubscriber;
use vmm_sys_util::sock_ctrl_msg::ScmSocket;

use super::{filter, landlocked, privileges, sys};
use crate::privileges::Account;

/// Time that the helper has for an answer. It waits for nothing but the registry's lock.
const PATIENCE: Duration = Duration::from_secs(5);
/// Interval of looks for the end of a VM process that was killed.
const END_POLL: Duration = Duration::from_millis(10);
const CONNECT: u8 = b'c';
const REMOVE: u8 = b'r';
const RENAME: u8 = b'n';
/// A request: its kind, and a port, or the length of the name that follows.
const REQUEST_BYTES: usize = 5;
/// An answer: the error's number, or 0. A stream may come with it.
const ANSWER_BYTES: usize = 4;

/// The VM process's side of its helper.
#[derive(Clone, Debug)]
pub struct Helper {
    /// `None` after an answer that did not come: the next one could be of another request.
    stream: Arc<Mutex<Option<UnixStream>>>,
}

impl Helper {
    /// Starts the helper, which is a process of `account` if one is given. The process must have
    /// one thread, and should have few files open.
    ///
    /// # Errors
    /// No process or descriptor can be had.
    pub fn start(claim: &Claim, account: Option<&Account>) -> Result<Self, VmError> {
        let failed = |e: io::Error| VmError::io("start the helper of the VM process", &e);
        let (ours, theirs) = UnixStream::pair().map_err(failed)?;
        let vm_process = std::process::id();
        let serve = || {
            // One that could not become the user does nothing: its streams end.
            if account.is_none_or(|account| account.become_it().is_ok()) {
                serve(&theirs, claim.directory(), claim.paths(), vm_process);
            }
        };
        sys::fork(serve).map_err(failed)?;
        ours.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
        Ok(Self {
            stream: Arc::new(Mutex::new(Some(ours))),
        })
    }

    /// Connects to the programs at the guest's host ports.
    pub fn connector(&self) -> Connector {
        let helper = self.clone();
        Arc::new(move |port| {
            let stream = helper.ask(CONNECT, port)?;
            stream.ok_or_else(|| io::Error::other("the helper gave no stream"))
        })
    }

    /// Removes the VM's files, and ends the helper.
    ///
    /// # Errors
    /// The helper does not answer.
    pub fn remove_files(&self) -> io::Result<()> {
        self.ask(REMOVE, 0).map(drop)
    }

    /// Tells that the VM's files have the name of another VM now.
    ///
    /// # Errors
    /// They have not, or the helper does not answer.
    pub fn rename(&self, name: &str) -> io::Result<()> {
        let length = u32::try_from(name.len()).map_err(io::Error::other)?;
        self.ask_with(RENAME, length, name.as_bytes()).map(drop)
    }

    fn ask(&self, kind: u8, port: u32) -> io::Result<Option<UnixStream>> {
        self.ask_with(kind, port, &[])
    }

    fn ask_with(&self, kind: u8, port: u32, more: &[u8]) -> io::Result<Option<UnixStream>> {
        let mut place = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
        let gone = || io::Error::other("the helper of the VM process is gone");
        let stream = place.take().ok_or_else(gone)?;
        let mut request = vec![kind];
        request.extend_from_slice(&port.to_le_bytes());
        request.extend_from_slice(more);
        let mut answer = [0; ANSWER_BYTES];
        let (count, descriptor) =
            send(&stream, &request, None).and_then(|()| receive(&stream, &mut answer))?;
        if count != ANSWER_BYTES {
            return Err(gone());
        }
        *place = Some(stream);
        match i32::from_le_bytes(answer) {
            0 => Ok(descriptor.map(UnixStream::from)),
            errno => Err(io::Error::from_raw_os_error(errno)),
        }
    }
}

fn send(stream: &UnixStream, bytes: &[u8], descriptor: Option<&UnixStream>) -> io::Result<()> {
    let mut plain = stream;
    let sent = match descriptor {
        Some(descriptor) => stream
            .send_with_fd(bytes, descriptor.as_raw_fd())
            .map_err(|e| io::Error::from_raw_os_error(e.errno())),
        None => plain.write(bytes),
    }?;
    if sent == bytes.len() {
        Ok(())
    } else {
        Err(io::ErrorKind::WriteZero.into())
    }
}

fn receive(stream: &UnixStream, bytes: &mut [u8]) -> io::Result<(usize, Option<OwnedFd>)> {
    loop {
        match stream.recv_with_fd(bytes) {
            Ok((count, descriptor)) => {
                return Ok((count, descriptor.map(OwnedFd::from)));
            }
            Err(e) if e.errno() == libc::EINTR => {}
            Err(e) => return Err(io::Error::from_raw_os_error(e.errno())),
        }
    }
}

/// Lets go of all that was the VM process's, so that nothing of it lives longer than it does.
fn become_helper(stream: &UnixStream, directory: &Path) {
    let _ = set_name(c"nvvmm-helper");
    sys::ignore_requests_to_end();
    let _ = setsid();
    sys::close_all_but(stream.as_raw_fd());
    if let Ok(null) = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/null")
    {
        let _ = dup2_stdin(&null);
        let _ = dup2_stdout(&null);
        let _ = dup2_stderr(&null);
    }
    // Without one of these it is as powerful as the command that started it; it takes no paths.
    let _ = privileges::drop_all();
    landlocked::allow_removal_in(directory);
    let _ = filter::enter_helper();
}

fn serve(stream: &UnixStream, directory: &RuntimeDir, paths: &VmRuntimePaths, vm_process: u32) {
    // The log's descriptors are closed, and others may get their numbers.
    let _silent = tracing::subscriber::set_default(NoSubscriber::default());
    let lock = paths.lock_identity().ok();
    become_helper(stream, directory.path());
    answer_all(stream, directory, (paths, lock), vm_process);
}

fn answer_all(
    stream: &UnixStream,
    directory: &RuntimeDir,
    (paths, lock): (&VmRuntimePaths, Option<(u64, u64)>),
    vm_process: u32,
) {
    let mut paths = Cow::Borrowed(paths);
    let mut request = [0; REQUEST_BYTES];
    while let Ok((REQUEST_BYTES, _)) = receive(stream, &mut request) {
        let [kind, port @ ..] = request;
        let done = match kind {
            CONNECT => connect_to_port(&paths.vsock, u32::from_le_bytes(port)).map(Some),
            REMOVE => {
                directory.remove_entry(&paths);
                Ok(None)
            }
            RENAME => {
                let renamed = renamed(stream, directory, u32::from_le_bytes(port), lock);
                renamed.map(|new| {
                    paths = Cow::Owned(new);
                    None
                })
            }
            _ => Err(io::Error::from_raw_os_error(libc::EINVAL)),
        };
        let errno = match &done {
            Ok(_) => 0,
            Err(error) => error.raw_os_error().unwrap_or(libc::EIO),
        };
        let connected = done.ok().flatten();
        if send(stream, &errno.to_le_bytes(), connected.as_ref()).is_err() || kind == REMOVE {
            return;
        }
    }
    // The VM process is gone without a word, or is about to be: its lock is free in a moment,
    // unless another one has the name by now.
    let until = Instant::now() + PATIENCE;
    while directory.is_living(&paths.name).unwrap_or(false) && Instant::now() < until {
        thread::sleep(END_POLL);
    }
    directory.note_killed(&paths, vm_process);
}

/// Paths of the VM's files, which have another name now. The VM process says which; it is believed
/// only if the lock of that name is its own: only another process of the user can have renamed it.
fn renamed(
    stream: &UnixStream,
    directory: &RuntimeDir,
    length: u32,
    lock: Option<(u64, u64)>,
) -> io::Result<VmRuntimePaths> {
    let refused = || io::Error::from_raw_os_error(libc::EINVAL);
    let mut name = [0; VM_NAME_BYTES_MAX];
    let name = name.get_mut(..length as usize).ok_or_else(refused)?;
    if receive(stream, name)?.0 != name.len() {
        return Err(refused());
    }
    let name = std::str::from_utf8(name).map_err(|_| refused())?;
    check_vm_name(name).map_err(|_| refused())?;
    let paths = directory.paths(name);
    match lock.is_some() && paths.lock_identity().ok() == lock {
        true => Ok(paths),
        false => Err(io::Error::from_raw_os_error(libc::EPERM)),
    }
}

#[cfg(test)]
#[path = "helper_test.rs"]
mod helper_test;
