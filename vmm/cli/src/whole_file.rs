//! Files that are read whole: regular files and pipes, to a bound and within a time.

use std::fs::{File, FileType, OpenOptions};
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, poll};
use nvvmm::{ErrorKind, VmError};

use super::output;

/// Milliseconds that a pipe may be silent.
const SILENCE_MS: u16 = 10_000;

/// A file that is open, and not read yet.
pub struct WholeFile<'a> {
    what: &'a str,
    path: &'a Path,
    file: File,
}

impl<'a> WholeFile<'a> {
    /// Opens a regular file or a pipe. Never waits for the other end of a pipe, and opens no
    /// device. `what` names its purpose, with its article.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] for another kind of file; the system's answer.
    pub fn open(what: &'a str, path: &'a Path) -> Result<Self, VmError> {
        let failed = |e| VmError::io(format_args!("read {what} {}", path.display()), &e);
        let check = |kind: FileType| match kind_unless_readable(kind) {
            None => Ok(()),
            Some(kind) => Err(VmError::new(
                ErrorKind::Usage,
                format!("{what} {} is {kind}", path.display()),
            )
            .with_remedy("give a regular file, or a pipe")),
        };
        // Before: to open a device may start something. After: it may be another file by then.
        check(path.metadata().map_err(failed)?.file_type())?;
        let mut options = OpenOptions::new();
        options.read(true);
        options.custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY);
        let file = options.open(path).map_err(failed)?;
        check(file.metadata().map_err(failed)?.file_type())?;
        Ok(Self { what, path, file })
    }

    /// The open file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Reads it to its end.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] when it is empty or has more than `bytes_max`;
    /// [`ErrorKind::Refused`] for a pipe that is silent for too long; the system's answer.
    pub fn read(mut self, bytes_max: u64) -> Result<Vec<u8>, VmError> {
        let mut bytes = Vec::new();
        let mut part = [0; 4096];
        loop {
            match self.file.read(&mut part) {
                Ok(0) if bytes.is_empty() && self.is_silent_pipe()? => {}
                Ok(0) => break,
                Ok(count) => bytes.extend_from_slice(&part[..count]),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.wait()?,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(self.failed(&e)),
            }
            if bytes.len() as u64 > bytes_max {
                return Err(self.usage(&format!("has more than {}", output::size(bytes_max))));
            }
        }
        match bytes.is_empty() {
            true => Err(self.usage("is empty")),
            false => Ok(bytes),
        }
    }

    /// True for a pipe that nobody has written to yet, after a wait for that.
    fn is_silent_pipe(&self) -> Result<bool, VmError> {
        let metadata = self.file.metadata().map_err(|e| self.failed(&e))?;
        if !metadata.file_type().is_fifo() {
            return Ok(false);
        }
        let mut now = [PollFd::new(self.file.as_fd(), PollFlags::POLLIN)];
        match poll(&mut now, 0_u16) {
            Err(Errno::EINTR) => Ok(true),
            Err(e) => Err(self.failed(&e.into())),
            Ok(0) => self.wait().map(|()| true),
            // Without anything to read, its writer has come and is gone.
            Ok(_) => {
                let found = now[0].revents().unwrap_or(PollFlags::empty());
                Ok(found.contains(PollFlags::POLLIN))
            }
        }
    }

    fn wait(&self) -> Result<(), VmError> {
        let mut wait = [PollFd::new(self.file.as_fd(), PollFlags::POLLIN)];
        match poll(&mut wait, SILENCE_MS) {
            Err(Errno::EINTR) => Ok(()),
            Err(e) => Err(self.failed(&e.into())),
            Ok(0) => Err(VmError::new(
                ErrorKind::Refused,
                format!(
                    "nothing came from {} {} for {} seconds",
                    self.what,
                    self.path.display(),
                    SILENCE_MS / 1000
                ),
            )
            .with_remedy("start the program that writes to the pipe, or give a file")),
            Ok(_) => Ok(()),
        }
    }

    fn usage(&self, why: &str) -> VmError {
        let text = format!("{} {} {why}", self.what, self.path.display());
        VmError::new(ErrorKind::Usage, text)
    }

    fn failed(&self, error: &io::Error) -> VmError {
        let (what, path) = (self.what, self.path.display());
        VmError::io(format_args!("read {what} {path}"), error)
    }
}

fn kind_unless_readable(kind: FileType) -> Option<&'static str> {
    if kind.is_file() || kind.is_fifo() {
        None
    } else if kind.is_dir() {
        Some("a directory")
    } else if kind.is_socket() {
        Some("a socket")
    } else {
        Some("a device")
    }
}

#[cfg(test)]
#[path = "whole_file_test.rs"]
mod whole_file_test;
