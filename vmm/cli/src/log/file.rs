//! The log file of a VM process in the background.
//!
//! `NAME.log` has the newest lines, `NAME.log.1` those before. Both are open from the start, and no
//! path is used later: a VM process may not open files while its guest runs.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

/// Largest size of each of the two files, in bytes.
pub const LOG_BYTES_MAX: u64 = 1 << 20;
const COPY_BYTES: usize = 64 << 10;

/// A log of bounded size.
#[derive(Debug)]
pub struct LogFile {
    file: File,
    before: File,
    bytes_max: u64,
    /// Bytes in `file`.
    bytes: Mutex<u64>,
}

impl LogFile {
    /// Opens both files, for their owner alone, and goes on at the end of the first one.
    ///
    /// # Errors
    /// One of them cannot be opened.
    pub fn open(path: &Path, before: &Path, bytes_max: u64) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.read(true).append(true).create(true).mode(0o600);
        options.custom_flags(libc::O_NOFOLLOW);
        let (file, before) = (options.open(path)?, options.open(before)?);
        let bytes = file.metadata()?.len();
        Ok(Self {
            file,
            before,
            bytes_max,
            bytes: Mutex::new(bytes),
        })
    }

    /// Adds whole lines. Whatever fails is not told to anybody: this is where failures are told.
    pub fn write_lines(&self, lines: &[u8]) {
        let mut bytes = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        if *bytes + lines.len() as u64 > self.bytes_max {
            // The bound holds, whatever becomes of the older lines.
            let _ = self.keep_before(*bytes);
            let _ = self.file.set_len(0);
            *bytes = 0;
        }
        if (&self.file).write_all(lines).is_ok() {
            *bytes += lines.len() as u64;
        }
    }

    /// Copies the lines to the second file, in place of what it has. The files do not change their
    /// names, as that takes paths.
    fn keep_before(&self, bytes: u64) -> io::Result<()> {
        self.before.set_len(0)?;
        let mut copied = 0;
        let mut part = vec![0; COPY_BYTES];
        while copied < bytes {
            let wanted = COPY_BYTES.min((bytes - copied) as usize);
            match self.file.read_at(&mut part[..wanted], copied)? {
                0 => break,
                len => {
                    (&self.before).write_all(&part[..len])?;
                    copied += len as u64;
                }
            }
        }
        Ok(())
    }
}

/// The newest lines: others may append to it, for example through standard error.
impl AsFd for LogFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

#[cfg(test)]
#[path = "file_test.rs"]
mod file_test;
