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
use crate::fault::{Resource, ask_for};
use crate::lock_holder::{DISTANCES, LockHolder};

/// Byte of the catalog lock. Who has the lock has bytes before it, too, whose number names the
/// process.
const LOCKS_START: i64 = 1 << 62;
const SLOTS_START: i64 = LOCKS_START + 4096;
/// Byte of the cleaner lock, with bytes before it like the catalog lock.
const CLEANER_START: i64 = 1 << 61;

/// The meaning of a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LockPlace {
    /// The right to change the catalog, the reference counts and who has which lease.
    Catalog,
    /// The right to clean freed blocks.
    Cleaner,
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
    Ok(found_elsewhere(file, place)?.is_some())
}

/// The process that has the catalog lock or the cleaner lock on another open file description.
/// `None` when it is free by now.
pub(crate) fn holder_of(file: &File, place: LockPlace) -> Result<Option<LockHolder>> {
    let found = found_elsewhere(file, place)?;
    Ok(found.map(|found| LockHolder::at_distance(range(place).l_start - found.l_start)))
}

/// A lock on another open file description that excludes this one.
fn found_elsewhere(file: &File, place: LockPlace) -> Result<Option<libc::flock>> {
    let mut asked = libc::flock {
        l_type: libc::F_WRLCK as i16,
        ..range(place)
    };
    retry(|| fcntl(file, FcntlArg::F_OFD_GETLK(&mut asked)))
        .map_err(Error::io("asking for a lock of the pool"))?;
    Ok((asked.l_type != libc::F_UNLCK as i16).then_some(asked))
}

/// Opens the same file once more. The new descriptor has locks of its own.
pub(crate) fn reopen(file: &File, path: &Path) -> Result<File> {
    // The path may name another file by now; the descriptor cannot.
    let own = format!("/proc/self/fd/{}", file.as_raw_fd());
    let mut options = std::fs::OpenOptions::new();
    ask_for(Resource::Descriptor)
        .and_then(|()| options.read(true).write(true).open(own))
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
    let mut asked = range(place);
    asked.l_type = kind;
    if matches!(place, LockPlace::Catalog | LockPlace::Cleaner) {
        let before = if kind == libc::F_UNLCK as i16 {
            // Whichever there were.
            DISTANCES
        } else {
            LockHolder::next_turn().distance()
        };
        asked.l_start -= before;
        asked.l_len += before;
    }
    asked
}

/// The byte that all locks of this place exclude each other by.
fn range(place: LockPlace) -> libc::flock {
    let start = match place {
        LockPlace::Catalog => LOCKS_START,
        LockPlace::Cleaner => CLEANER_START,
        LockPlace::Open => LOCKS_START + 1,
        LockPlace::Holder(slot) => SLOTS_START + i64::from(slot),
    };
    libc::flock {
        l_type: 0,
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

#[cfg(test)]
#[path = "file_lock_test.rs"]
mod file_lock_test;
