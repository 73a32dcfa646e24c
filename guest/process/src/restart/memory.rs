//! The memory of a process in the making.

use std::os::fd::AsRawFd;

use super::descriptors::Fetch;
use super::files::open_mapped;
use super::nursery::Stub;
use crate::error::{Error, failed};
use crate::image::{Advice, Mapped, MappedFile, Mapping};
use crate::observe::{Kernel, Listing, Pagemap};
use crate::pages::{PageSource, Placed};
use crate::sys::PAGE_BYTES;

const MADV_POPULATE_WRITE: u64 = 23;
const MADV_GUARD_INSTALL: u64 = 102;
const WRITABLE: i32 = libc::PROT_READ | libc::PROT_WRITE;

/// Builds all of it: mappings, what is in them, and what the kernel knows about them.
pub fn build(stub: &mut Stub, kernel: &Kernel, source: &mut dyn PageSource) -> Result<(), Error> {
    move_vdso(stub, kernel)?;
    let fetch = Fetch::new(stub, 0)?;
    for mapping in &stub.process.mappings {
        map(stub, &fetch, mapping)?;
        advise(stub, mapping)?;
    }
    fill(stub, source)?;
    for mapping in &stub.process.mappings {
        finish(stub, mapping)?;
    }
    set_layout(stub, &fetch)?;
    fetch.end(stub)
}

/// Moves the vDSO to where the process had it. Old and new place may overlap, so it goes by way of the parking place.
fn move_vdso(stub: &mut Stub, kernel: &Kernel) -> Result<(), Error> {
    if stub.vdso.iter().map(|(_, len)| len).sum::<u64>() != kernel.vdso_bytes {
        return Err(Error::BadImage("its vDSO has another size than this kernel's"));
    }
    for target in [stub.workspace.parking(), stub.process.vdso] {
        let mut to = target;
        for index in 0..stub.vdso.len() {
            let (from, len) = stub.vdso[index];
            let flags = (libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED) as u64;
            stub.call("move the vDSO", libc::SYS_mremap, &[from, len, len, flags, to])?;
            stub.vdso[index].0 = to;
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
    // Pages can be placed in what is writable only.
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
        Some(fd) => stub.call("close a descriptor", libc::SYS_close, &[fd]).map(drop),
        None => Ok(()),
    }
}

fn fetch_mapped(stub: &Stub, fetch: &Fetch, file: &MappedFile, writable: bool) -> Result<u64, Error> {
    fetch.get(stub, open_mapped(file, writable)?.as_raw_fd())
}

/// What must be known before there are pages.
fn advise(stub: &Stub, mapping: &Mapping) -> Result<(), Error> {
    for advice in &mapping.advice {
        let value = match advice {
            Advice::GrowsDown | Advice::NoReserve | Advice::Locked | Advice::LockedOnFault => continue,
            // That kind of memory has these anyway.
            Advice::WipeOnFork | Advice::DontDump if mapping.what == Mapped::Droppable => continue,
            Advice::DontFork => libc::MADV_DONTFORK,
            Advice::WipeOnFork => libc::MADV_WIPEONFORK,
            Advice::DontDump => libc::MADV_DONTDUMP,
            Advice::HugePage => libc::MADV_HUGEPAGE,
            Advice::NoHugePage => libc::MADV_NOHUGEPAGE,
            Advice::Mergeable => libc::MADV_MERGEABLE,
            Advice::Sequential => libc::MADV_SEQUENTIAL,
            Advice::Random => libc::MADV_RANDOM,
        };
        let arguments = [mapping.start, mapping.end - mapping.start, value as u64];
        stub.call(
            &format!("advise memory ({advice:?})"),
            libc::SYS_madvise,
            &arguments,
        )?;
    }
    Ok(())
}

fn fill(stub: &Stub, source: &mut dyn PageSource) -> Result<(), Error> {
    let pid = stub.process.pid;
    let runs = stub.process.mappings.iter().flat_map(|mapping| &mapping.pages);
    let mut placed: Vec<Placed> = runs
        .map(|run| Placed {
            address: run.address,
            image_page: run.image_page,
            pages: run.pages,
            frame: None,
        })
        .collect();
    if placed.is_empty() {
        return Ok(());
    }
    let place = |source: &mut dyn PageSource, placed: &[Placed]| {
        source
            .place(pid, placed)
            .map_err(failed(format!("place pages of process {pid}")))
    };
    if !source.wants_frames() {
        return place(source, &placed);
    }
    for run in &placed {
        let len = run.pages * PAGE_BYTES;
        stub.call(
            "populate memory",
            libc::SYS_madvise,
            &[run.address, len, MADV_POPULATE_WRITE],
        )?;
        stub.call("lock memory", libc::SYS_mlock, &[run.address, len])?;
    }
    let frames = frames(pid, &placed)?;
    placed = with_frames(&placed, &frames);
    place(source, &placed)?;
    if self::frames(pid, &placed)? != frames {
        return Err(Error::Unstable { pid, rounds: 1 });
    }
    for run in &placed {
        stub.call(
            "unlock memory",
            libc::SYS_munlock,
            &[run.address, run.pages * PAGE_BYTES],
        )?;
    }
    Ok(())
}

fn frames(pid: i32, placed: &[Placed]) -> Result<Listing, Error> {
    let mut pagemap = Pagemap::open(pid)?;
    let mut listing = Listing::default();
    for run in placed {
        pagemap.list(run.address, run.address + run.pages * PAGE_BYTES, &mut listing)?;
    }
    Ok(listing)
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

/// What can only be said once the pages are there.
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
        stub.workspace.arguments() + MAP_BYTES,
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
