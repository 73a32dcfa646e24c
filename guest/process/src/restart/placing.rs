//! Pages of an image, placed in the memory of a stub.

use std::time::Instant;

use super::advice::MADV_POPULATE_WRITE;
use super::fetch::Fetch;
use super::options::Restarted;
use super::pin::{Pinned, in_parts};
use super::stubs::Stub;
use crate::arch::PAGE_BYTES;
use crate::error::{Error, failed};
use crate::observe::{Listing, Pagemap, Pages};
use crate::pages::{PageSource, Placed};

/// The most listings of pinned pages.
const LISTINGS_MAX: u32 = 64;

/// A stub whose pages are placed.
pub struct Placing<'a, 's> {
    pub stub: &'a Stub<'s>,
    /// The kind of its memory.
    pub pages: Pages,
    pub source: &'a mut dyn PageSource,
    pub done: &'a mut Restarted,
}

impl Placing<'_, '_> {
    fn place(&mut self, placed: &[Placed]) -> Result<(), Error> {
        let pid = self.stub.process.pid;
        let began = Instant::now();
        let placed = self.source.place(pid, placed);
        self.done.place += began.elapsed();
        placed.map_err(failed(format!("place pages of process {pid}")))
    }

    /// Pages that have frames which stay.
    fn place_pinned(&mut self, wanted: &[Placed]) -> Result<(), Error> {
        let frames = frames(self.stub, self.pages, wanted)?;
        self.place(&with_frames(wanted, &frames))?;
        if self::frames(self.stub, self.pages, wanted)? != frames {
            let pid = self.stub.process.pid;
            return Err(Error::Unstable { pid, rounds: 1 });
        }
        Ok(())
    }

    /// Pages out of a reserve: they are there, locked and pinned.
    pub fn place_given(&mut self, given: &[Placed]) -> Result<(), Error> {
        if given.is_empty() {
            return Ok(());
        }
        if self.source.wants_frames() {
            self.place_pinned(given)?;
        } else {
            self.place(given)?;
        }
        self.done.pages_reserved += given.iter().map(|run| run.pages).sum::<u64>();
        unlock(self.stub, given)
    }

    /// Pages that are not there yet.
    pub fn place_all(&mut self, fetch: &Fetch, wanted: &[Placed]) -> Result<(), Error> {
        if !self.source.wants_frames() {
            return self.place(wanted);
        }
        let stub = self.stub;
        for run in wanted {
            let (address, len) = (run.address, run.pages * PAGE_BYTES);
            let arguments = [address, len, MADV_POPULATE_WRITE];
            stub.call("populate memory", libc::SYS_madvise, &arguments)?;
            stub.call("lock memory", libc::SYS_mlock, &[address, len])?;
        }
        for part in in_parts(wanted, Pinned::PAGES_MAX) {
            let _pinned = Pinned::new(&stub.blank, fetch, &part)?;
            self.place_pinned(&part)?;
        }
        unlock(stub, wanted)
    }
}

fn unlock(stub: &Stub, runs: &[Placed]) -> Result<(), Error> {
    for run in runs {
        let arguments = [run.address, run.pages * PAGE_BYTES];
        stub.call("unlock memory", libc::SYS_munlock, &arguments)?;
    }
    Ok(())
}

/// Lists the frames of pinned pages. No other process has any of these frames.
fn frames(stub: &Stub, pages: Pages, placed: &[Placed]) -> Result<Listing, Error> {
    let pid = stub.process.pid;
    let mut pagemap = Pagemap::open(pid)?;
    let wanted: u64 = placed.iter().map(|run| run.pages).sum();
    for _ in 0..LISTINGS_MAX {
        let mut listing = Listing::default();
        for run in placed {
            let end = run.address + run.pages * PAGE_BYTES;
            pagemap.list(run.address, end, pages, &mut listing)?;
        }
        if listing.pages() == wanted && listing.shared == 0 {
            return Ok(listing);
        }
        // The kernel tries to move a page, and will fail.
        for address in &listing.absent {
            stub.blank.memory.read(*address, &mut [0])?;
        }
    }
    Err(Error::Unstable {
        pid,
        rounds: LISTINGS_MAX,
    })
}

/// Both are by address, and cover the same pages.
fn with_frames(placed: &[Placed], frames: &Listing) -> Vec<Placed> {
    let mut all = Vec::new();
    for run in placed {
        let end = run.address + run.pages * PAGE_BYTES;
        for found in &frames.runs {
            let from = found.address.max(run.address);
            let to = (found.address + found.pages * PAGE_BYTES).min(end);
            if from < to {
                all.push(Placed {
                    address: from,
                    image_page: run.image_page + (from - run.address) / PAGE_BYTES,
                    pages: (to - from) / PAGE_BYTES,
                    frame: Some(found.frame + (from - found.address) / PAGE_BYTES),
                });
            }
        }
    }
    all
}
