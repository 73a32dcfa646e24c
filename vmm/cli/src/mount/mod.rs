//! A pool as a read-only file system: a directory for each snapshot, with its memory and its state
//! as files.
//!
//! Nothing is held in the pool. Each answer to the kernel is what was found in it now, and memory
//! is given out only if its snapshot is still there ([`nvvmm_snapshot::SnapshotReader`]).

mod files;
mod tree;

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;

use fuser::{Config, MountOption, Session};
use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
use nvvmm_snapshot::Pool;
use signal_hook::iterator::Signals;

use self::files::SnapshotFiles;
use crate::confine::Helper;

/// More do not read faster.
const THREADS_MAX: usize = 4;

/// A pool that is mounted and not served yet: who looks into it waits.
pub struct Mount {
    session: Session<SnapshotFiles>,
    signals: Signals,
    directory: PathBuf,
    unmounter: Unmounter,
}

/// Unmounts for a process that is confined by then. Made before the pool is opened.
pub struct Unmounter {
    directory: PathBuf,
    helper: Helper,
}

impl Unmounter {
    /// Prepares to unmount what will be mounted on a directory.
    ///
    /// # Errors
    /// There is no such directory, or no more process.
    pub fn of(directory: &Path) -> io::Result<Self> {
        let directory = directory.canonicalize()?;
        if !directory.is_dir() {
            return Err(Errno::ENOTDIR.into());
        }
        let mounted_on = directory.clone();
        let helper = Helper::new(move || unmount(&mounted_on).map(|ended| ended as u8), || {})?;
        Ok(Self { directory, helper })
    }

    fn unmount(self) -> io::Result<Ended> {
        match self.helper.carry_out()? {
            in_use if in_use == Ended::InUse as u8 => Ok(Ended::InUse),
            _ => Ok(Ended::Unmounted),
        }
    }
}

/// End of serving.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// The file system is unmounted.
    Unmounted = 0,
    /// The file system is unmounted, and programs with open files of it get errors from now on.
    InUse = 1,
}

impl Mount {
    /// Mounts a pool on the directory of `unmounter`, until one of `signals` comes.
    ///
    /// # Errors
    /// Errors of the kernel, or of fusermount3 if that mounts.
    pub fn new(pool: Arc<Pool>, unmounter: Unmounter, signals: Signals) -> io::Result<Self> {
        let directory = unmounter.directory.clone();
        let mut config = Config::default();
        // Options are told apart by commas.
        let source = pool.path().to_string_lossy().replace(',', "?");
        config.mount_options = vec![
            MountOption::FSName(source),
            MountOption::Subtype("nvvmm".into()),
            MountOption::RO,
            MountOption::NoDev,
            MountOption::NoSuid,
            MountOption::NoExec,
            MountOption::DefaultPermissions,
        ];
        config.n_threads = Some(thread::available_parallelism()?.get().min(THREADS_MAX));
        let files = SnapshotFiles::of(pool, signals.handle());
        let session = Session::new(files, &directory, &config)?;
        Ok(Self {
            session,
            signals,
            directory,
            unmounter,
        })
    }

    /// Answers until it is unmounted, by anybody or because a signal came. This process may be
    /// confined.
    ///
    /// # Errors
    /// Errors of the kernel.
    pub fn serve(mut self) -> io::Result<Ended> {
        // Dropping it would unmount: that is for the helper to do.
        let session = std::mem::ManuallyDrop::new(self.session.spawn()?);
        let asked = self.signals.forever().next().is_some();
        // Without a signal the file system has ended, nearly always as it was unmounted. Another
        // may be mounted there now.
        let is_left = || {
            let found = fs::metadata(&self.directory);
            found.is_err_and(|error| error.raw_os_error() == Some(Errno::ENOTCONN as i32))
        };
        if !asked && !is_left() {
            return Ok(Ended::Unmounted);
        }
        let ended = self.unmounter.unmount()?;
        if ended == Ended::Unmounted {
            // The last answers are given.
            let _ = std::mem::ManuallyDrop::into_inner(session).guard.join();
        }
        Ok(ended)
    }
}

/// Unmounts; a file system whose files are open goes away when they are closed. The work of the
/// helper.
fn unmount(directory: &Path) -> io::Result<Ended> {
    match umount2(directory, MntFlags::empty()) {
        Ok(()) => Ok(Ended::Unmounted),
        Err(Errno::EBUSY) => {
            umount2(directory, MntFlags::MNT_DETACH)?;
            Ok(Ended::InUse)
        }
        // Users mount and unmount through a program that root has made for it.
        Err(Errno::EPERM) => unmount_as_user(directory),
        Err(errno) => Err(errno.into()),
    }
}

fn unmount_as_user(directory: &Path) -> io::Result<Ended> {
    let fusermount = |options: &[&str]| {
        let mut command = Command::new("fusermount3");
        command.args(options).arg("--").arg(OsStr::new(directory));
        command.stdout(Stdio::null()).stderr(Stdio::null()).status()
    };
    if fusermount(&["-u"])?.success() {
        return Ok(Ended::Unmounted);
    }
    match fusermount(&["-u", "-z"])?.success() {
        true => Ok(Ended::InUse),
        false => Err(Errno::EPERM.into()),
    }
}
