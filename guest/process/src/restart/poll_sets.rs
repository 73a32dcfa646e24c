//! Poll sets (epoll) of stubs. The kernel notes by which process and number a file was added, so a
//! stub that has the set open adds its entries, each by its old number.

use std::collections::HashSet;

use super::fetch::Fetch;
use super::files::OpenFiles;
use super::stubs::Stub;
use crate::error::{Error, failed};
use crate::image::{Image, PollEntry, What};
use crate::special::FLAGS;

const ONE_SHOT: u32 = libc::EPOLLONESHOT as u32;
/// Everything that a file can be ready for.
const ANY: u32 = (libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLPRI | libc::EPOLLRDHUP) as u32;

/// The poll sets of an image, each to be filled once.
#[derive(Debug)]
pub struct PollSets<'a> {
    image: &'a Image,
    filled: HashSet<u32>,
}

impl<'a> PollSets<'a> {
    pub fn new(image: &'a Image) -> Self {
        Self {
            image,
            filled: HashSet::new(),
        }
    }

    /// Fills those sets that this stub will have open, and that are empty yet. The stub has no
    /// descriptors.
    pub fn fill(&mut self, stub: &Stub, files: &OpenFiles) -> Result<(), Error> {
        for descriptor in &stub.process.descriptors {
            let file = &self.image.files[descriptor.file as usize];
            let What::PollSet { entries } = &file.what else {
                continue;
            };
            if entries.is_empty() || !self.filled.insert(descriptor.file) {
                continue;
            }
            fill(stub, files, descriptor.file, entries)?;
        }
        Ok(())
    }
}

fn fill(stub: &Stub, files: &OpenFiles, set: u32, entries: &[PollEntry]) -> Result<(), Error> {
    let above = entries.iter().map(|entry| entry.fd).max().unwrap_or(0) + 1;
    stub.raise_descriptor_limit()?;
    let fetch = Fetch::new(&stub.blank, above)?;
    let got = fetch.get(&stub.blank, files.number(set))?;
    let high = [got, libc::F_DUPFD_CLOEXEC as u64, above as u64];
    let set = stub.call("move a descriptor", libc::SYS_fcntl, &high)?;
    stub.call("close a descriptor", libc::SYS_close, &[got])?;
    // While the set is empty, what fires in it is the entry that was just added.
    let (fired, waiting): (Vec<&PollEntry>, Vec<&PollEntry>) =
        entries.iter().partition(|entry| has_fired(entry));
    for entry in fired.into_iter().chain(waiting) {
        let got = fetch.get(&stub.blank, files.number(entry.file))?;
        let fd = entry.fd as u64;
        if got != fd {
            stub.call("move a descriptor", libc::SYS_dup3, &[got, fd, O_CLOEXEC])?;
            stub.call("close a descriptor", libc::SYS_close, &[got])?;
        }
        add(stub, files, set, entry)?;
        // The entry stays as long as the file is open anywhere.
        stub.call("close a descriptor", libc::SYS_close, &[fd])?;
    }
    stub.call("close a descriptor", libc::SYS_close, &[set])?;
    fetch.end(&stub.blank)
}

/// True for a one-shot entry whose events were told: the kernel leaves it none.
fn has_fired(entry: &PollEntry) -> bool {
    entry.events & !FLAGS == 0 && entry.events & ONE_SHOT != 0
}

const O_CLOEXEC: u64 = libc::O_CLOEXEC as u64;

/// Adds one entry; one that had fired is made to fire.
fn add(stub: &Stub, files: &OpenFiles, set: u64, entry: &PollEntry) -> Result<(), Error> {
    let is_replaced = files.is_replaced(entry.file);
    let add_for = |events: u32| {
        // struct epoll_event is packed on x86-64: the events, then the data.
        let mut bytes = events.to_le_bytes().to_vec();
        bytes.extend(entry.data.to_le_bytes());
        let address = stub.put(&bytes)?;
        let arguments = [set, libc::EPOLL_CTL_ADD as u64, entry.fd as u64, address];
        match stub.leader().try_call(libc::SYS_epoll_ctl, &arguments)? {
            // What takes the place of a standard stream, such as /dev/null, may be no file that
            // can be waited for.
            Err(error) if is_replaced && error.raw_os_error() == Some(libc::EPERM) => Ok(()),
            done => done.map(drop).map_err(failed("add to an epoll")),
        }
    };
    // Files with a state of their own have no errors and no hang-ups, which alone are waited for
    // in an entry without events.
    if !has_fired(entry) || files.has_no_errors(entry.file) {
        return add_for(entry.events);
    }
    add_for(entry.events | ANY)?;
    let room = stub.put(&[0; 12])?;
    let arguments = [set, room, 1, 0];
    let fired = stub.call("wait for an epoll", libc::SYS_epoll_wait, &arguments)?;
    if fired != 1 && !is_replaced {
        let source = std::io::ErrorKind::WouldBlock.into();
        return Err(failed::<std::io::Error>(format!(
            "make the one-shot entry for fd {} fire again",
            entry.fd
        ))(source));
    }
    Ok(())
}
