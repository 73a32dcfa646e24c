//! A pool as a read-only file system: a directory for each snapshot, with its memory and its state
//! as files.
//!
//! Nothing is held in the pool. Each answer to the kernel is what was found in it now, and memory
//! is given out only if its snapshot is still there ([`nvvmm_snapshot::SnapshotReader`]).

mod files;
mod tree;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use fuser::{BackgroundSession, Config, MountOption, Session};
use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
use nvvmm_snapshot::Pool;
use signal_hook::iterator::Signals;

use self::files::SnapshotFiles;

/// More do not read faster.
const THREADS_MAX: usize = 4;

/// A pool that is mounted and not served yet: who looks into it waits.
pub struct Mount {
    session: Session<SnapshotFiles>,
    signals: Signals,
    directory: PathBuf,
}

/// End of serving.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// The file system is unmounted.
    Unmounted,
    /// The file system is unmounted, and programs with open files of it get errors from now on.
    InUse,
}

impl Mount {
    /// Mounts a pool on a directory, until one of `signals` comes.
    ///
    /// # Errors
    /// Errors of the kernel, or of fusermount3 if that mounts.
    pub fn new(pool: Arc<Pool>, directory: &Path, signals: Signals) -> io::Result<Self> {
        let directory = directory.canonicalize()?;
        if !directory.is_dir() {
            return Err(Errno::ENOTDIR.into());
        }
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
        })
    }

    /// Answers until it is unmounted, by anybody or because a signal came.
    ///
    /// # Errors
    /// Errors of the kernel.
    pub fn serve(mut self) -> io::Result<Ended> {
        let session = self.session.spawn()?;
        if self.signals.forever().next().is_some() {
            return unmount(session, &self.directory);
        }
        // The file system has ended, nearly always as it was unmounted. fuser would unmount once
        // more what is mounted there now.
        match fs::metadata(&self.directory) {
            Err(error) if error.raw_os_error() == Some(Errno::ENOTCONN as i32) => {
                unmount(session, &self.directory)
            }
            _ => {
                std::mem::forget(session);
                Ok(Ended::Unmounted)
            }
        }
    }
}

fn unmount(session: BackgroundSession, directory: &Path) -> io::Result<Ended> {
    match session.umount_and_join() {
        Ok(()) => Ok(Ended::Unmounted),
        Err(error) if error.raw_os_error() == Some(Errno::EBUSY as i32) => {
            umount2(directory, MntFlags::MNT_DETACH)?;
            Ok(Ended::InUse)
        }
        Err(error) => Err(error),
    }
}
