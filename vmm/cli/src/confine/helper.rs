//! A process that does one thing to the file system on behalf of a confined command.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;

use nix::fcntl::OFlag;
use nix::sys::wait::waitpid;
use nix::unistd::{Pid, pipe2};

use crate::sys::{Side, fork_alone};

/// A copy of this process that was made before anything was parsed. It waits for one byte, does
/// what it was made for, and ends.
///
/// A confined command that is taken over can have it done too early, or not at all; it cannot
/// change what is done.
pub struct Helper {
    process: Pid,
    go: File,
    answer: File,
}

impl Helper {
    /// Makes a helper for `work`, whose result is a number or an error of the system. `otherwise`
    /// is done when this process ends without having asked.
    ///
    /// # Errors
    /// This process has several threads already, or the system has no more processes.
    pub fn new(
        work: impl FnOnce() -> io::Result<u8>,
        otherwise: impl FnOnce(),
    ) -> io::Result<Self> {
        let (asked, go) = pipe()?;
        let (answer, answering) = pipe()?;
        match fork_alone()? {
            Side::Parent(process) => Ok(Self {
                process,
                go,
                answer,
            }),
            Side::Child => {
                drop((go, answer));
                serve(asked, answering, work, otherwise);
                // Nothing that was copied from the other process is to be ended here.
                std::process::exit(0)
            }
        }
    }

    /// Has it done, and gives its result.
    ///
    /// # Errors
    /// The error of the work, or the helper is gone.
    pub fn carry_out(mut self) -> io::Result<u8> {
        self.go.write_all(&[1])?;
        let mut answer = [0; 5];
        self.answer.read_exact(&mut answer)?;
        // It ends now.
        let _ = waitpid(self.process, None);
        let [done, error @ ..] = answer;
        match i32::from_le_bytes(error) {
            0 => Ok(done),
            errno => Err(io::Error::from_raw_os_error(errno)),
        }
    }
}

fn pipe() -> io::Result<(File, File)> {
    let (read, write): (OwnedFd, OwnedFd) = pipe2(OFlag::O_CLOEXEC)?;
    Ok((File::from(read), File::from(write)))
}

fn serve(
    mut asked: File,
    mut answering: File,
    work: impl FnOnce() -> io::Result<u8>,
    otherwise: impl FnOnce(),
) {
    let mut go = [0];
    if asked.read_exact(&mut go).is_err() {
        return otherwise();
    }
    let (done, errno) = match work() {
        Ok(done) => (done, 0),
        Err(error) => (0, error.raw_os_error().unwrap_or(libc::EIO)),
    };
    let mut answer = vec![done];
    answer.extend(errno.to_le_bytes());
    // The command may have been killed meanwhile.
    let _ = answering.write_all(&answer);
}

#[cfg(test)]
#[path = "helper_test.rs"]
mod helper_test;
