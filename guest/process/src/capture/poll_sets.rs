//! The entries of poll sets (epoll): which open file each of them watches.

use std::collections::HashMap;
use std::os::fd::AsFd;

use super::files::borrow;
use super::observed::Observed;
use crate::error::{Error, Pid, ProcessPart, Refusal, failed};
use crate::image::{OpenFile, PollEntry, What};
use crate::observe::Descriptor;
use crate::special::{self, Entry, FLAGS};
use crate::sys;

/// Everything that a file can be ready for without an error.
const ANY: i16 = libc::POLLIN | libc::POLLOUT | libc::POLLPRI | libc::POLLRDHUP;

/// The entries of all poll sets among the files, each with the index of its set.
pub fn entries(
    files: &[OpenFile],
    owners: &[(Pid, Descriptor)],
    numbers: &HashMap<(Pid, i32), u32>,
    processes: &[Observed],
) -> Result<Vec<(usize, Vec<PollEntry>)>, Error> {
    let mut all = Vec::new();
    let mut refusals = Vec::new();
    let search = Search {
        files,
        owners,
        numbers,
    };
    for (index, (file, (owner, set))) in files.iter().zip(owners).enumerate() {
        if !matches!(file.what, What::PollSet { .. }) {
            continue;
        }
        let read = special::entries(&set.info);
        let read = read.map_err(failed(format!("read the entries of fd {}", set.fd)))?;
        let mut found = Vec::new();
        for entry in read {
            match search.entry(*owner, set.fd, &entry)? {
                Ok(entry) => found.push(entry),
                Err(reason) => refusals.push(refuse(processes, *owner, set.fd, reason)),
            }
        }
        all.push((index, found));
    }
    if refusals.is_empty() {
        Ok(all)
    } else {
        Err(Error::Refused(refusals))
    }
}

fn refuse(processes: &[Observed], pid: Pid, fd: i32, reason: String) -> Refusal {
    let part = ProcessPart::Descriptor(fd);
    match processes.iter().find(|process| process.pid == pid) {
        Some(process) => process.refuse(part, reason),
        None => Refusal::new(pid, part, reason),
    }
}

/// The open files that an entry may be about.
struct Search<'a> {
    files: &'a [OpenFile],
    owners: &'a [(Pid, Descriptor)],
    numbers: &'a HashMap<(Pid, i32), u32>,
}

impl Search<'_> {
    /// The entry with its file, or the reason why it cannot be had.
    fn entry(
        &self,
        owner: Pid,
        set: i32,
        entry: &Entry,
    ) -> Result<Result<PollEntry, String>, Error> {
        let Some(file) = self.file(owner, set, entry)? else {
            return Ok(Err(format!(
                "is an epoll that watches a file (its number was {}) which no captured process \
                 has open any more",
                entry.fd
            )));
        };
        if self.has_fired_for_good(file, entry)? {
            return Ok(Err(format!(
                "is an epoll with a one-shot entry for fd {} that has fired, and Linux cannot \
                 make such an entry again while the file is not ready",
                entry.fd
            )));
        }
        Ok(Ok(PollEntry {
            fd: entry.fd,
            file,
            events: entry.events,
            data: entry.data,
        }))
    }

    /// Mostly it is the file that has the entry's number now.
    fn file(&self, owner: Pid, set: i32, entry: &Entry) -> Result<Option<u32>, Error> {
        let watches = |pid: Pid, fd: i32| {
            sys::is_watched((pid, fd), (owner, set), entry.fd, entry.place).map_err(failed(
                format!("ask what fd {set} of process {owner} watches"),
            ))
        };
        if let Some(file) = self.numbers.get(&(owner, entry.fd))
            && watches(owner, entry.fd)?
        {
            return Ok(Some(*file));
        }
        for (index, (pid, open)) in self.owners.iter().enumerate() {
            if watches(*pid, open.fd)? {
                return Ok(Some(index as u32));
            }
        }
        Ok(None)
    }

    /// True if the entry fired, and cannot be made to fire again: the kernel waits for errors and
    /// hang-ups in every entry that is added. Files with a state of their own have neither.
    fn has_fired_for_good(&self, file: u32, entry: &Entry) -> Result<bool, Error> {
        let (what, (owner, open)) = (&self.files[file as usize].what, &self.owners[file as usize]);
        let has_no_errors = matches!(what, What::Special(_) | What::PollSet { .. });
        if entry.events & !FLAGS != 0 || has_no_errors {
            return Ok(false);
        }
        let copy = borrow(*owner, open.fd)?;
        let ready = sys::is_ready(copy.as_fd(), ANY).map_err(failed("poll a file"))?;
        Ok(!ready)
    }
}
