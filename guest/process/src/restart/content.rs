//! The content of held files, by way of a stub that has no memory of its own yet.
//!
//! Pages of memory are placed where they stay. A file of a disk is written: the kernel may write
//! its pages back at any time, and would not notice what a host puts into their frames.

use std::os::fd::AsRawFd;

use super::fetch::Fetch;
use super::held::HeldFiles;
use super::options::Restarted;
use super::pin::in_parts;
use super::placing::Placing;
use super::stubs::Stub;
use crate::arch::PAGE_BYTES;
use crate::error::{Error, failed};
use crate::image::{HeldFile, HeldKind, Image};
use crate::observe::Pages;
use crate::pages::{PageSource, Placed};

/// Pages of a file that are written at a time.
const WRITTEN_PAGES: u64 = 2048;
const READ_WRITE: u64 = (libc::PROT_READ | libc::PROT_WRITE) as u64;
const MADV_REMOVE: u64 = libc::MADV_REMOVE as u64;

/// Fills all held files of an image.
pub fn fill(
    stub: &Stub,
    image: &Image,
    held: &HeldFiles,
    source: &mut dyn PageSource,
    done: &mut Restarted,
) -> Result<(), Error> {
    if image.held.is_empty() {
        return Ok(());
    }
    let fetch = Fetch::new(&stub.blank, 0)?;
    for (index, file) in (0..).zip(&image.held) {
        let fd = match held.file(index) {
            Some(made) => Some(fetch.get(&stub.blank, made.as_raw_fd())?),
            None => None,
        };
        let mut filling = Filling {
            file,
            fetch: &fetch,
            placing: Placing {
                stub,
                pages: Pages::OfFile,
                source,
                done,
            },
        };
        match (&file.kind, fd) {
            (HeldKind::Segment { id, .. }, _) => filling.segment(*id)?,
            (HeldKind::Deleted { .. }, Some(fd)) => filling.write(fd)?,
            (_, Some(fd)) => filling.memory(fd)?,
            (_, None) => return Err(Error::BadImage("a held file was not made")),
        }
        if let Some(fd) = fd {
            stub.call("close a descriptor", libc::SYS_close, &[fd])?;
        }
    }
    fetch.end(&stub.blank)
}

/// A held file that gets its content.
struct Filling<'a, 'p, 's> {
    file: &'a HeldFile,
    fetch: &'a Fetch,
    placing: Placing<'p, 's>,
}

impl Filling<'_, '_, '_> {
    fn memory(&mut self, fd: u64) -> Result<(), Error> {
        let len = self.file.size_bytes.next_multiple_of(PAGE_BYTES);
        if self.file.pages.is_empty() {
            return Ok(());
        }
        let stub = self.placing.stub;
        let arguments = [0, len, READ_WRITE, libc::MAP_SHARED as u64, fd, 0];
        let at = stub.call("map a file", libc::SYS_mmap, &arguments)?;
        self.place_at(at)?;
        stub.call("unmap a file", libc::SYS_munmap, &[at, len])
            .map(drop)
    }

    fn segment(&mut self, id: i32) -> Result<(), Error> {
        let stub = self.placing.stub;
        let at = stub.call("attach memory", libc::SYS_shmat, &[id as u64, 0, 0])?;
        // It may be one that outlived its processes.
        let len = self.file.size_bytes.next_multiple_of(PAGE_BYTES);
        stub.call("empty memory", libc::SYS_madvise, &[at, len, MADV_REMOVE])?;
        self.place_at(at)?;
        stub.call("detach memory", libc::SYS_shmdt, &[at]).map(drop)
    }

    fn place_at(&mut self, at: u64) -> Result<(), Error> {
        let runs = self.file.pages.iter().map(Placed::from);
        let wanted: Vec<Placed> = runs
            .map(|run| Placed {
                address: at + run.address,
                ..run
            })
            .collect();
        match wanted.is_empty() {
            true => Ok(()),
            false => self.placing.place_all(self.fetch, &wanted),
        }
    }

    /// Writes the content from memory that the stub has for a moment.
    fn write(&mut self, fd: u64) -> Result<(), Error> {
        let stub = self.placing.stub;
        self.placing.pages = Pages::Own;
        let runs: Vec<Placed> = self.file.pages.iter().map(Placed::from).collect();
        for part in in_parts(&runs, WRITTEN_PAGES) {
            let len = part.iter().map(|run| run.pages * PAGE_BYTES).sum();
            let flags = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as u64;
            let arguments = [0, len, READ_WRITE, flags, u64::MAX, 0];
            let at = stub.call("map memory", libc::SYS_mmap, &arguments)?;
            let mut next = at;
            let mut wanted = Vec::new();
            for run in &part {
                wanted.push(Placed {
                    address: next,
                    ..*run
                });
                next += run.pages * PAGE_BYTES;
            }
            self.placing.place_all(self.fetch, &wanted)?;
            for (run, placed) in part.iter().zip(&wanted) {
                let end = (run.address + run.pages * PAGE_BYTES).min(self.file.size_bytes);
                self.write_one(fd, placed.address, run.address, end - run.address)?;
            }
            stub.call("unmap memory", libc::SYS_munmap, &[at, len])?;
        }
        Ok(())
    }

    fn write_one(&self, fd: u64, from: u64, offset: u64, len_bytes: u64) -> Result<(), Error> {
        let arguments = [fd, from, len_bytes, offset];
        let stub = self.placing.stub;
        let written = stub.call("write a file", libc::SYS_pwrite64, &arguments)?;
        if written != len_bytes {
            let source = std::io::ErrorKind::StorageFull.into();
            return Err(failed::<std::io::Error>("write all of a deleted file")(
                source,
            ));
        }
        Ok(())
    }
}
