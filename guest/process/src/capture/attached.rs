//! Properties of an open file beside its kind: an owner for signals, and locks.

use std::os::fd::BorrowedFd;

use super::observed::Observed;
use crate::error::{Error, Pid, ProcessPart, failed};
use crate::image::{Attached, RecordLock};
use crate::observe::{self, Descriptor, Lock, LockKind};
use crate::sys;

/// Reads what the open file has; `copy` is a descriptor of it. None: nothing.
pub fn read(index: u32, open: &Descriptor, copy: BorrowedFd) -> Result<Option<Attached>, Error> {
    let locks = observe::locks(&open.info);
    let of = |kind| locks.iter().filter(move |lock| lock.kind == kind);
    // What was opened for its path only has no owner.
    let (owner, signal) = match open.flags & libc::O_PATH {
        0 => sys::file_owner(copy).map_err(failed("ask for the owner of an open file"))?,
        _ => (None, 0),
    };
    let found = Attached {
        file: index,
        owner,
        signal,
        lock: of(LockKind::Whole).next().map(|lock| lock.exclusive),
        record_locks: of(LockKind::OfOpenFile)
            .map(|lock| record_lock(index, lock))
            .collect(),
    };
    let nothing = Attached {
        file: index,
        ..Attached::default()
    };
    let is_some = found != nothing || open.flags & libc::O_ASYNC != 0;
    Ok(is_some.then_some(found))
}

/// A lock of a range of this file.
pub fn record_lock(file: u32, lock: &Lock) -> RecordLock {
    RecordLock {
        file,
        exclusive: lock.exclusive,
        start: lock.start,
        len_bytes: lock.len_bytes,
    }
}

/// Refuses files whose signals go to a process that is not captured with them.
pub fn refuse_others(
    all: &[Attached],
    owners: &[(Pid, Descriptor)],
    processes: &[Observed],
) -> Result<(), Error> {
    let mut refusals = Vec::new();
    for attached in all {
        let Some((kind, owner)) = attached.owner else {
            continue;
        };
        let is_ours = |process: &Observed| match kind {
            sys::OWNER_GROUP => process.pid == owner && process.leader().group == owner,
            sys::OWNER_THREAD => process.threads.iter().any(|(tid, _)| *tid == owner),
            _ => process.pid == owner,
        };
        if processes.iter().any(is_ours) {
            continue;
        }
        let (pid, open) = &owners[attached.file as usize];
        let reason = format!(
            "sends its signals (F_SETOWN) to {}, which is not captured with it",
            observe::named(owner)
        );
        let process = processes.iter().find(|process| process.pid == *pid);
        let part = ProcessPart::Descriptor(open.fd);
        refusals.extend(process.map(|process| process.refuse(part, reason)));
    }
    if refusals.is_empty() {
        Ok(())
    } else {
        Err(Error::Refused(refusals))
    }
}
