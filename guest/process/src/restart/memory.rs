//! The memory of a stub.

use std::collections::HashSet;
use std::os::fd::AsRawFd;
use std::time::Instant;

use super::advice::{MADV_POPULATE_WRITE, advise_range};
use super::fetch::Fetch;
use super::files::open_mapped;
use super::options::Restarted;
use super::overlay;
use super::pin::{Pinned, in_parts};
use super::stubs::Stub;
use crate::arch::{HUGE_PAGE_BYTES, PAGE_BYTES};
use crate::error::{Error, failed};
use crate::image::{Advice, Mapped, MappedFile, Mapping};
use crate::observe::{Kernel, Listing, Pagemap};
use crate::pages::{PageSource, Placed};

const PR_SET_THP_DISABLE: u64 = libc::PR_SET_THP_DISABLE as u64;
const PR_GET_THP_DISABLE: u64 = libc::PR_GET_THP_DISABLE as u64;
const PR_SET_MEMORY_MERGE: u64 = 67;
const MADV_GUARD_INSTALL: u64 = 102;
/// The most listings of pinned pages.
const LISTINGS_MAX: u32 = 64;
const WRITABLE: i32 = libc::PROT_READ | libc::PROT_WRITE;

/// Builds the memory: mappings, their content, and their properties.
pub fn build(
    stub: &mut Stub,
    kernel: &Kernel,
    source: &mut dyn PageSource,
    done: &mut Restarted,
) -> Result<(), Error> {
    move_vdso(stub, kernel)?;
    let fetch = Fetch::new(&stub.blank, 0)?;
    for mapping in &stub.process.mappings {
        map(stub, &fetch, mapping)?;
        advise_range(&stub.blank, mapping, mapping.start, mapping.end)?;
    }
    fill(stub, &fetch, source, done)?;
    for mapping in &stub.process.mappings {
        finish(stub, mapping)?;
    }
    set_layout(stub, &fetch)?;
    fetch.end(&stub.blank)?;
    set_future(stub)
}

/// Sets what holds for memory to come.
fn set_future(stub: &Stub) -> Result<(), Error> {
    let Some(settings) = stub.settings else {
        return Ok(());
    };
    switch_huge_pages_off(stub, settings.huge_pages_off.into())?;
    if settings.merges_memory {
        let arguments = [PR_SET_MEMORY_MERGE, 1, 0, 0, 0];
        stub.call("make all memory mergeable", libc::SYS_prctl, &arguments)?;
    }
    if settings.locks_memory != 0 {
        let flags = settings.locks_memory as u64;
        stub.call("lock memory to come", libc::SYS_mlockall, &[flags])?;
    }
    Ok(())
}

/// Moves the vDSO to where the process had it. Old and new place may overlap, so it goes by way of
/// the parking place.
fn move_vdso(stub: &mut Stub, kernel: &Kernel) -> Result<(), Error> {
    if stub.blank.vdso.iter().map(|(_, len)| len).sum::<u64>() != kernel.vdso_bytes {
        return Err(Error::BadImage(
            "its vDSO has another size than this kernel's",
        ));
    }
    for target in [stub.blank.workspace.parking(), stub.process.vdso] {
        let mut to = target;
        for index in 0..stub.blank.vdso.len() {
            let (from, len) = stub.blank.vdso[index];
            let flags = (libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED) as u64;
            stub.call(
                "move the vDSO",
                libc::SYS_mremap,
                &[from, len, len, flags, to],
            )?;
            stub.blank.vdso[index].0 = to;
            to += len;
        }
    }
    Ok(())
}

fn map(stub: &Stub, fetch: &Fetch, mapping: &Mapping) -> Result<(), Error> {
    let mut flags = libc::MAP_FIXED_NOREPLACE;
    for (advice, flag) in [
        (Advice::GrowsDown, libc::MAP_GROWSDOWN),
        (Advice::NoReserve, libc::MAP_NORESERVE),
    ] {
        if mapping.advice.contains(&advice) {
            flags |= flag;
        }
    }
    // Pages can be placed only in writable memory.
    let protection = if mapping.pages.is_empty() {
        mapping.protection
    } else {
        mapping.protection | WRITABLE
    };
    let (fd, offset) = match mapping.what {
        Mapped::Anonymous => {
            flags |= libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            (None, 0)
        }
        Mapped::Droppable => {
            flags |= libc::MAP_DROPPABLE | libc::MAP_ANONYMOUS;
            (None, 0)
        }
        Mapped::PrivateFile { file, offset } => {
            flags |= libc::MAP_PRIVATE;
            (
                Some(fetch_mapped(
                    stub,
                    fetch,
                    &stub.process.mapped_files[file as usize],
                    false,
                )?),
                offset,
            )
        }
        Mapped::SharedFile {
            file,
            offset,
            writable,
        } => {
            flags |= libc::MAP_SHARED;
            (
                Some(fetch_mapped(
                    stub,
                    fetch,
                    &stub.process.mapped_files[file as usize],
                    writable,
                )?),
                offset,
            )
        }
    };
    let len = mapping.end - mapping.start;
    let arguments = [
        mapping.start,
        len,
        protection as u64,
        flags as u64,
        fd.unwrap_or(u64::MAX),
        offset,
    ];
    stub.call(
        &format!("map memory at {:#x}", mapping.start),
        libc::SYS_mmap,
        &arguments,
    )?;
    match fd {
        Some(fd) => stub
            .call("close a descriptor", libc::SYS_close, &[fd])
            .map(drop),
        None => Ok(()),
    }
}

fn fetch_mapped(
    stub: &Stub,
    fetch: &Fetch,
    file: &MappedFile,
    writable: bool,
) -> Result<u64, Error> {
    fetch.get(&stub.blank, open_mapped(file, writable)?.as_raw_fd())
}

fn fill(
    stub: &mut Stub,
    fetch: &Fetch,
    source: &mut dyn PageSource,
    done: &mut Restarted,
) -> Result<(), Error> {
    let frames = stub.frames.take();
    let stub = &*stub;
    let (began, placing) = (Instant::now(), done.place);
    let from_window = match source.window() {
        Some(file) => overlay::map(stub, fetch, file)?,
        None => HashSet::new(),
    };
    let (given, wanted) = match &frames {
        Some(frames) => frames.hand_out(&stub.blank, &stub.process.mappings, &from_window)?,
        None => (Vec::new(), all_pages_but(stub, &from_window)),
    };
    if given.is_empty() && wanted.is_empty() {
        return Ok(());
    }
    let huge_pages_off = stub.call(
        "ask about huge pages",
        libc::SYS_prctl,
        &[PR_GET_THP_DISABLE, 0, 0, 0, 0],
    )?;
    if source.wants_frames() {
        for run in &wanted {
            populate_huge_pages(stub, run)?;
        }
    }
    // A huge page would fill the holes beside the pages that are wanted.
    switch_huge_pages_off(stub, 1)?;
    let mut placing_pages = Placing { stub, source, done };
    placing_pages.place_given(&given)?;
    placing_pages.place_all(fetch, &wanted)?;
    drop(frames);
    done.populate += began.elapsed().saturating_sub(done.place - placing);
    switch_huge_pages_off(stub, huge_pages_off)
}

fn all_pages_but(stub: &Stub, there: &HashSet<u64>) -> Vec<Placed> {
    let runs = stub
        .process
        .mappings
        .iter()
        .flat_map(|mapping| &mapping.pages);
    runs.filter(|run| !there.contains(&run.address))
        .map(Placed::from)
        .collect()
}

/// Populates those parts of a run that a huge page each could hold.
fn populate_huge_pages(stub: &Stub, run: &Placed) -> Result<(), Error> {
    let start = run.address.next_multiple_of(HUGE_PAGE_BYTES);
    let end = (run.address + run.pages * PAGE_BYTES) / HUGE_PAGE_BYTES * HUGE_PAGE_BYTES;
    if start < end {
        let arguments = [start, end - start, MADV_POPULATE_WRITE];
        stub.call("populate memory", libc::SYS_madvise, &arguments)?;
    }
    Ok(())
}

/// Takes what the kernel answers to PR_GET_THP_DISABLE: 1, with flags from Linux 6.18 on.
fn switch_huge_pages_off(stub: &Stub, off: u64) -> Result<(), Error> {
    let arguments = [PR_SET_THP_DISABLE, off & 1, off & !1, 0, 0];
    stub.call("switch huge pages", libc::SYS_prctl, &arguments)
        .map(drop)
}

/// A stub whose pages are placed.
struct Placing<'a, 's> {
    stub: &'a Stub<'s>,
    source: &'a mut dyn PageSource,
    done: &'a mut Restarted,
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
        let frames = frames(self.stub, wanted)?;
        self.place(&with_frames(wanted, &frames))?;
        if self::frames(self.stub, wanted)? != frames {
            let pid = self.stub.process.pid;
            return Err(Error::Unstable { pid, rounds: 1 });
        }
        Ok(())
    }

    /// Pages out of a reserve: they are there, locked and pinned.
    fn place_given(&mut self, given: &[Placed]) -> Result<(), Error> {
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

    fn place_all(&mut self, fetch: &Fetch, wanted: &[Placed]) -> Result<(), Error> {
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
fn frames(stub: &Stub, placed: &[Placed]) -> Result<Listing, Error> {
    let pid = stub.process.pid;
    let mut pagemap = Pagemap::open(pid)?;
    let wanted: u64 = placed.iter().map(|run| run.pages).sum();
    for _ in 0..LISTINGS_MAX {
        let mut listing = Listing::default();
        for run in placed {
            pagemap.list(
                run.address,
                run.address + run.pages * PAGE_BYTES,
                &mut listing,
            )?;
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

/// Sets what can only be set once the pages are there.
fn finish(stub: &Stub, mapping: &Mapping) -> Result<(), Error> {
    let (start, len) = (mapping.start, mapping.end - mapping.start);
    if !mapping.pages.is_empty() && mapping.protection & WRITABLE != WRITABLE {
        stub.call(
            "protect memory",
            libc::SYS_mprotect,
            &[start, len, mapping.protection as u64],
        )?;
    }
    for (address, pages) in &mapping.guards {
        let arguments = [*address, pages * PAGE_BYTES, MADV_GUARD_INSTALL];
        stub.call("install a guard", libc::SYS_madvise, &arguments)?;
    }
    for advice in &mapping.advice {
        let flags = match advice {
            Advice::Locked => 0,
            Advice::LockedOnFault => libc::MLOCK_ONFAULT as u64,
            // Not before the pages are there: a merged page must not be overwritten.
            Advice::Mergeable => {
                let arguments = [start, len, libc::MADV_MERGEABLE as u64];
                stub.call("make memory mergeable", libc::SYS_madvise, &arguments)?;
                continue;
            }
            _ => continue,
        };
        stub.call("lock memory", libc::SYS_mlock2, &[start, len, flags])?;
    }
    Ok(())
}

fn set_layout(stub: &Stub, fetch: &Fetch) -> Result<(), Error> {
    const PR_SET_MM: u64 = 35;
    const PR_SET_MM_MAP: u64 = 14;
    const MAP_BYTES: u64 = 104;
    let program = fetch_mapped(stub, fetch, &stub.process.executable, false)?;
    let layout = &stub.process.layout;
    let auxv = &stub.process.auxv;
    let numbers = [
        layout.start_code,
        layout.end_code,
        layout.start_data,
        layout.end_data,
        layout.start_brk,
        stub.process.brk,
        layout.start_stack,
        layout.arg_start,
        layout.arg_end,
        layout.env_start,
        layout.env_end,
        stub.blank.workspace.arguments() + MAP_BYTES,
        auxv.len() as u64 | program << 32,
    ];
    let mut bytes = numbers.map(u64::to_le_bytes).concat();
    bytes.extend(auxv);
    let address = stub.put(&bytes)?;
    let arguments = [PR_SET_MM, PR_SET_MM_MAP, address, MAP_BYTES, 0];
    stub.call("set the layout of memory", libc::SYS_prctl, &arguments)?;
    stub.call("close a descriptor", libc::SYS_close, &[program])
        .map(drop)
}
