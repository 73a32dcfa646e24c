//! Byte-range locks that the kernel drops when a process dies (open file description locks,
//! fcntl(2)).
//!
//! They lie far behind the end of the pool, so they never meet a lock on the pool's bytes.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

use crate::error::{Error, Result};

const LOCKS_START: i64 = 1 << 62;
const SLOTS_START: i64 = LOCKS_START + 4096;

/// The meaning of a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LockPlace {
    /// The right to change the catalog, the reference counts and who has which lease.
    Catalog,
    /// Shared: the pool is open. Exclusive: nobody else has it open.
    Open,
    /// The holder of this slot lives.
    Holder(u32),
}

/// The mode of a lock: others may have it too, or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LockMode {
    Shared,
    Exclusive,
}

/// Takes a lock without waiting. False when another open file has a lock that excludes it.
pub(crate) fn try_lock(file: &File, place: LockPlace, mode: LockMode) -> Result<bool> {
    match retry(|| {
        fcntl(
            file,
            FcntlArg::F_OFD_SETLK(&request(place, mode_type(mode))),
        )
    }) {
        Ok(_) => Ok(true),
        Err(Errno::EAGAIN | Errno::EACCES) => Ok(false),
        Err(errno) => Err(Error::io("locking the pool")(errno)),
    }
}

/// Takes a lock, waiting for it.
pub(crate) fn lock(file: &File, place: LockPlace, mode: LockMode) -> Result<()> {
    retry(|| {
        fcntl(
            file,
            FcntlArg::F_OFD_SETLKW(&request(place, mode_type(mode))),
        )
    })
    .map_err(Error::io("locking the pool"))?;
    Ok(())
}

/// Gives a lock back.
pub(crate) fn unlock(file: &File, place: LockPlace) -> Result<()> {
    retry(|| {
        fcntl(
            file,
            FcntlArg::F_OFD_SETLK(&request(place, libc::F_UNLCK as i16)),
        )
    })
    .map_err(Error::io("unlocking the pool"))?;
    Ok(())
}

/// True when another open file description has the lock.
pub(crate) fn is_locked_elsewhere(file: &File, place: LockPlace) -> Result<bool> {
    let mut asked = request(place, libc::F_WRLCK as i16);
    retry(|| fcntl(file, FcntlArg::F_OFD_GETLK(&mut asked)))
        .map_err(Error::io("asking for a lock of the pool"))?;
    Ok(asked.l_type != libc::F_UNLCK as i16)
}

/// Opens the same file once more. The new descriptor has locks of its own.
pub(crate) fn reopen(file: &File, path: &Path) -> Result<File> {
    // The path may name another file by now; the descriptor cannot.
    let own = format!("/proc/self/fd/{}", file.as_raw_fd());
    std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(own)
        .map_err(Error::io(format!("opening {} again", path.display())))
}

/// Openings of the pool's file for holders that are made later.
#[derive(Debug, Default)]
pub(crate) struct SpareFiles {
    state: Mutex<Spares>,
}

#[derive(Debug, Default)]
struct Spares {
    files: Vec<File>,
    kept_max: usize,
}

impl SpareFiles {
    /// Keeps `count` openings from now on.
    pub(crate) fn fill(&self, file: &File, path: &Path, count: usize) -> Result<()> {
        let mut spares = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        spares.kept_max = count;
        while spares.files.len() < count {
            let spare = reopen(file, path)?;
            spares.files.push(spare);
        }
        Ok(())
    }

    /// An opening that has no lock: a spare one, or a new one.
    pub(crate) fn take(&self, file: &File, path: &Path) -> Result<File> {
        let mut spares = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        spares.files.pop().map_or_else(|| reopen(file, path), Ok)
    }

    /// Gives an opening back, which has no lock any more. It is closed unless spares are kept.
    pub(crate) fn give_back(&self, file: File) {
        let mut spares = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if spares.files.len() < spares.kept_max {
            spares.files.push(file);
        }
    }
}

fn mode_type(mode: LockMode) -> i16 {
    match mode {
        LockMode::Shared => libc::F_RDLCK as i16,
        LockMode::Exclusive => libc::F_WRLCK as i16,
    }
}

fn request(place: LockPlace, kind: i16) -> libc::flock {
    let start = match place {
        LockPlace::Catalog => LOCKS_START,
        LockPlace::Open => LOCKS_START + 1,
        LockPlace::Holder(slot) => SLOTS_START + i64::from(slot),
    };
    libc::flock {
        l_type: kind,
        l_whence: libc::SEEK_SET as i16,
        l_start: start,
        l_len: 1,
        l_pid: 0,
    }
}

fn retry<T>(mut call: impl FnMut() -> nix::Result<T>) -> nix::Result<T> {
    loop {
        match call() {
            Err(Errno::EINTR) => {}
            done => return done,
        }
    }
}
