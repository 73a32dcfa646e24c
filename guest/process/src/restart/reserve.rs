//! Memory that is ready before a process needs it.
//!
//! The kernel clears each page that it gives to a process. When the page's frame is then repointed
//! to another page, that was in vain, and it is most of what a restart of a large process takes. A
//! reserve has it behind itself: it is a process that only has memory, in frames that stay. The
//! next process to be restarted begins as a second one with the same memory (CLONE_VM), the
//! first one ends, and pieces of the memory are moved to where they are needed (mremap(2)), which
//! neither touches nor moves a page.

use std::collections::HashSet;

use super::advice::{MADV_POPULATE_WRITE, advise, advise_range};
use super::blank::{self, Blank};
use super::fetch::Fetch;
use super::pin::Pinned;
use super::workspace::{Workspace, used_by};
use crate::arch::{HUGE_PAGE_BYTES, PAGE_BYTES};
use crate::error::{Error, failed};
use crate::image::{Advice, Image, Mapped, Mapping};
use crate::inject::{Memory, Remote};
use crate::observe::{Listing, Pagemap, Pages};
use crate::pages::Placed;
use crate::sys;

/// Score by which the kernel takes memory from here first when memory runs out.
const OOM_SCORE_ADJ_MAX: &str = "1000";
const NICE_MAX: i32 = 19;
const NAME: &[u8] = b"nvvmm-reserve\0";
/// Smaller runs of pages are not worth a mapping of their own.
const RUN_PAGES_MIN: u64 = 16;
/// Pieces that it is cut into at most: each is a mapping of the process.
const PIECES_MAX: usize = 1024;

/// Memory for one restart. When dropped, it is given back.
#[derive(Debug)]
pub struct Reserve {
    pid: i32,
    workspace: Workspace,
    vdso: Vec<(u64, u64)>,
    len_bytes: u64,
    pinned: Pinned,
}

impl Reserve {
    /// The most that there is room for at the address of one.
    pub const BYTES_MAX: u64 = 15 << 30;

    /// Makes one of about so many bytes, without memory at first. It is a child of the calling
    /// thread, with which it ends, and so is the process that is restarted with it. For a
    /// moment it has all that this process has open.
    pub fn begin(bytes: u64) -> Result<Empty, Error> {
        let len_bytes = bytes.min(Self::BYTES_MAX).next_multiple_of(HUGE_PAGE_BYTES);
        let workspace = Workspace::choose(None, len_bytes)?;
        let pid = sys::clone_stub(None).map_err(failed("make a process"))?;
        let made = Blank::of_copy(pid, workspace).inspect_err(|_| blank::end(pid));
        made.map(|blank| Empty { blank, len_bytes })
    }

    /// Its size.
    pub fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    /// Its frames: the first number and the count, for each run. The frames stay the same.
    ///
    /// # Errors
    /// Fails if it is gone: the kernel takes it when memory runs out.
    pub fn frames(&self) -> Result<Vec<(u64, u64)>, Error> {
        let mut listing = Listing::default();
        let start = self.workspace.behind();
        let end = start + self.len_bytes;
        Pagemap::open(self.pid)?.list(start, end, Pages::Own, &mut listing)?;
        Ok(listing
            .runs
            .iter()
            .map(|run| (run.frame, run.pages))
            .collect())
    }

    /// The process that holds it meanwhile.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// True if its addresses are free in all processes of the image.
    pub(super) fn fits(&self, image: &Image) -> bool {
        let taken: Vec<(u64, u64)> = used_by(image).collect();
        self.workspace.is_clear_of(&taken, self.len_bytes)
    }

    /// Makes a process with this number that has the memory. `None` if it is gone: where memory is
    /// short the kernel takes it.
    pub(super) fn into_process(mut self, pid: i32) -> Result<Option<(Blank, Frames)>, Error> {
        if blank::stop(self.pid).is_err() {
            return Ok(None);
        }
        let first = Blank {
            leader: Remote::new(self.pid, self.workspace.start())?,
            memory: Memory::open(self.pid)?,
            workspace: self.workspace,
            vdso: std::mem::take(&mut self.vdso),
        };
        let leader = first.clone_with(pid, (libc::CLONE_VM | libc::CLONE_PARENT) as u64, 0)?;
        let blank = Blank { leader, ..first };
        let frames = Frames {
            start: self.workspace.behind(),
            len_bytes: self.len_bytes,
            _pinned: std::mem::take(&mut self.pinned),
        };
        // Ends the first process, whose memory the new one shares.
        drop(self);
        Ok(Some((blank, frames)))
    }
}

/// A reserve that has no memory yet.
#[derive(Debug)]
pub struct Empty {
    blank: Blank,
    len_bytes: u64,
}

impl Empty {
    /// Gives it its memory, on the thread that made it. That takes its time, and is done with
    /// little priority.
    ///
    /// # Errors
    /// There is not so much memory.
    pub fn fill(self) -> Result<Reserve, Error> {
        let pid = self.blank.leader.tid();
        self.try_fill().inspect_err(|_| blank::end(pid))
    }

    fn try_fill(self) -> Result<Reserve, Error> {
        let Self { blank, len_bytes } = self;
        let pid = blank.leader.tid();
        let score = format!("/proc/{pid}/oom_score_adj");
        std::fs::write(&score, OOM_SCORE_ADJ_MAX).map_err(failed(format!("write {score}")))?;
        sys::set_nice(pid, NICE_MAX).map_err(failed("set a nice value"))?;
        let name = blank.put(NAME)?;
        blank.call(
            "name a process",
            libc::SYS_prctl,
            &[libc::PR_SET_NAME as u64, name],
        )?;
        // Without its parent it is of no use.
        let arguments = [libc::PR_SET_PDEATHSIG as u64, libc::SIGKILL as u64];
        blank.call("tie a process to its parent", libc::SYS_prctl, &arguments)?;
        let pinned = populate(&blank, len_bytes)?;
        sys::set_nice(pid, 0).map_err(failed("set a nice value"))?;
        blank.leader.idle(blank.workspace.idle())?;
        sys::detach(pid).map_err(failed(format!("release process {pid}")))?;
        Ok(Reserve {
            pid,
            workspace: blank.workspace,
            vdso: blank.vdso,
            len_bytes,
            pinned,
        })
    }
}

/// Gives a process memory behind its workspace, in frames that stay.
fn populate(blank: &Blank, len_bytes: u64) -> Result<Pinned, Error> {
    let start = blank.workspace.behind();
    let protection = (libc::PROT_READ | libc::PROT_WRITE) as u64;
    let flags = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE) as u64;
    let arguments = [start, len_bytes, protection, flags, u64::MAX, 0];
    blank.call("map memory", libc::SYS_mmap, &arguments)?;
    // Otherwise a child of the process would share it.
    advise(blank, start, len_bytes, libc::MADV_DONTFORK as u64)?;
    advise(blank, start, len_bytes, MADV_POPULATE_WRITE)?;
    blank.call("lock memory", libc::SYS_mlock, &[start, len_bytes])?;
    let all = Placed {
        address: start,
        image_page: 0,
        pages: len_bytes / PAGE_BYTES,
        frame: None,
    };
    let fetch = Fetch::new(blank, 0)?;
    let pinned = Pinned::new(blank, &fetch, &[all])?;
    fetch.end(blank)?;
    Ok(pinned)
}

impl Drop for Reserve {
    fn drop(&mut self) {
        blank::end(self.pid);
    }
}

/// The memory of a reserve, in a stub.
#[derive(Debug)]
pub struct Frames {
    start: u64,
    len_bytes: u64,
    _pinned: Pinned,
}

impl Frames {
    /// Moves pieces of the memory to where the process needs pages, as long as there are any.
    /// Leaves out the runs whose addresses are in `there`. Returns what got pages, and what did
    /// not.
    pub fn hand_out(
        &self,
        blank: &Blank,
        mappings: &[Mapping],
        there: &HashSet<u64>,
    ) -> Result<(Vec<Placed>, Vec<Placed>), Error> {
        let (mut given, mut left) = (Vec::new(), Vec::new());
        let mut from = self.start;
        for mapping in mappings {
            for run in mapping
                .pages
                .iter()
                .filter(|run| !there.contains(&run.address))
            {
                let mut wanted = Placed::from(run);
                if can_have(mapping)
                    && given.len() < PIECES_MAX
                    && let Some((piece, pages)) = self.piece(&wanted, from)
                {
                    let (part, rest) = cut(wanted, pages);
                    move_to(blank, piece, &part, mapping)?;
                    from = piece + pages * PAGE_BYTES;
                    given.push(part);
                    wanted = rest;
                }
                if wanted.pages > 0 {
                    left.push(wanted);
                }
            }
        }
        blank.call(
            "unmap memory",
            libc::SYS_munmap,
            &[self.start, self.len_bytes],
        )?;
        Ok((given, left))
    }

    /// Finds a piece for these pages, or for the first of them: its address and number of pages.
    /// The piece is aligned like the pages, where they can be huge pages.
    fn piece(&self, wanted: &Placed, from: u64) -> Option<(u64, u64)> {
        let mut start = from;
        if wanted.pages * PAGE_BYTES >= HUGE_PAGE_BYTES {
            start += wanted.address.wrapping_sub(from) % HUGE_PAGE_BYTES;
        }
        let room = (self.start + self.len_bytes).saturating_sub(start) / PAGE_BYTES;
        let pages = wanted.pages.min(room);
        (pages >= RUN_PAGES_MIN).then_some((start, pages))
    }
}

/// Cuts a run behind its first pages.
fn cut(run: Placed, pages: u64) -> (Placed, Placed) {
    let rest = Placed {
        address: run.address + pages * PAGE_BYTES,
        image_page: run.image_page + pages,
        pages: run.pages - pages,
        frame: None,
    };
    (Placed { pages, ..run }, rest)
}

/// True if anonymous memory that was mapped elsewhere can become a part of this mapping.
fn can_have(mapping: &Mapping) -> bool {
    let is_special = |advice: &Advice| matches!(advice, Advice::GrowsDown | Advice::NoReserve);
    mapping.what == Mapped::Anonymous && !mapping.advice.iter().any(is_special)
}

fn move_to(blank: &Blank, piece: u64, wanted: &Placed, mapping: &Mapping) -> Result<(), Error> {
    let len = wanted.pages * PAGE_BYTES;
    let flags = (libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED) as u64;
    let arguments = [piece, len, len, flags, wanted.address];
    blank.call("move memory", libc::SYS_mremap, &arguments)?;
    advise(blank, wanted.address, len, libc::MADV_DOFORK as u64)?;
    let protection = mapping.protection | libc::PROT_READ | libc::PROT_WRITE;
    let arguments = [wanted.address, len, protection as u64];
    blank.call("protect memory", libc::SYS_mprotect, &arguments)?;
    advise_range(blank, mapping, wanted.address, wanted.address + len)
}
