//! The decision who has the VM. It is made once, on the other host, in a file that both a migration
//! under way and a later question lock.
//!
//! A migration may lose its connection between `Go` and the answer. The source then asks again.
//! Whoever has the lock first decides: the VM runs here, or it never will.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nvvmm::control::RuntimeDir;
use nvvmm::{ErrorKind, VmError};

/// Time for whoever has the lock.
const LOCK_TIMEOUT: Duration = Duration::from_secs(10);
const LOCK_POLL: Duration = Duration::from_millis(2);
/// Age of files that nobody will ask for.
const KEPT: Duration = Duration::from_secs(24 * 3600);
const PREFIX: &str = "migration-";

/// The state of a migration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decided {
    /// Nothing is decided.
    Open,
    /// The VM is the target's.
    Taken,
    /// The VM stays with the source.
    NotTaken,
}

impl Decided {
    fn word(self) -> &'static str {
        match self {
            Self::Open => "",
            Self::Taken => "taken",
            Self::NotTaken => "not taken",
        }
    }
}

/// The lock on a decision.
pub(super) struct Decision {
    file: Flock<File>,
    path: PathBuf,
}

impl Decision {
    /// Takes the lock of a migration.
    ///
    /// # Errors
    /// Another process has it for too long; the file cannot be opened.
    pub(super) fn lock(dir: &RuntimeDir, id: &str) -> Result<Decision, VmError> {
        let path = dir.path().join(format!("{PREFIX}{id}"));
        let failed = |e: &std::io::Error| VmError::io(format_args!("open {}", path.display()), e);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).mode(0o600);
        let mut file = options.open(&path).map_err(|e| failed(&e))?;
        let until = Instant::now() + LOCK_TIMEOUT;
        loop {
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(file) => return Ok(Decision { file, path }),
                Err((_, Errno::EAGAIN)) if Instant::now() >= until => {
                    let why = format!("another process has {} locked", path.display());
                    return Err(VmError::new(ErrorKind::Refused, why));
                }
                Err((same, Errno::EAGAIN | Errno::EINTR)) => {
                    file = same;
                    thread::sleep(LOCK_POLL);
                }
                Err((_, errno)) => return Err(failed(&errno.into())),
            }
        }
    }

    /// The decision.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(super) fn decided(&mut self) -> Result<Decided, VmError> {
        let mut text = String::new();
        self.file
            .rewind()
            .and_then(|()| self.file.read_to_string(&mut text))
            .map_err(|e| self.failed("read", &e))?;
        let all = [Decided::Open, Decided::Taken];
        let found = all.into_iter().find(|decided| decided.word() == text);
        Ok(found.unwrap_or(Decided::NotTaken))
    }

    /// Decides, if nothing was decided.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(super) fn decide(&mut self, decided: Decided) -> Result<(), VmError> {
        self.file
            .write_all(decided.word().as_bytes())
            .map_err(|e| self.failed("write", &e))
    }

    fn failed(&self, what: &str, error: &std::io::Error) -> VmError {
        VmError::io(format_args!("{what} {}", self.path.display()), error)
    }
}

/// Removes the files of migrations that ended long ago.
pub(super) fn sweep(dir: &RuntimeDir) {
    let Ok(files) = fs::read_dir(dir.path()) else {
        return;
    };
    for file in files.flatten() {
        let is_one = file.file_name().to_string_lossy().starts_with(PREFIX);
        if is_one && is_old(&file.path()) {
            // Somebody else may have removed it.
            let _ = fs::remove_file(file.path());
        }
    }
}

fn is_old(path: &Path) -> bool {
    let changed = fs::symlink_metadata(path).and_then(|found| found.modified());
    changed.is_ok_and(|time| time.elapsed().is_ok_and(|age| age > KEPT))
}

#[cfg(test)]
#[path = "decision_test.rs"]
mod decision_test;
