//! The memory of a stub.

use std::collections::HashSet;
use std::os::fd::AsRawFd;
use std::time::Instant;

use nix::fcntl::OFlag;

use super::advice::{MADV_POPULATE_WRITE, advise_range};
use super::fetch::Fetch;
use super::files::open_mapped;
use super::held::HeldFiles;
use super::inherited::{self, Inherited};
use super::options::Restarted;
use super::overlay;
use super::placing::Placing;
use super::stubs::Stub;
use crate::arch::{HUGE_PAGE_BYTES, PAGE_BYTES};
use crate::error::Error;
use crate::image::{Advice, HeldKind, Image, Mapped, MappedFile, Mapping, Process};
use crate::observe::{Kernel, Pages};
use crate::pages::{PageSource, Placed};

const PR_SET_THP_DISABLE: u64 = libc::PR_SET_THP_DISABLE as u64;
const PR_GET_THP_DISABLE: u64 = libc::PR_GET_THP_DISABLE as u64;
const PR_SET_MEMORY_MERGE: u64 = 67;
const MADV_GUARD_INSTALL: u64 = 102;
const WRITABLE: i32 = libc::PROT_READ | libc::PROT_WRITE;

/// The memory of a stub is built: mappings and their content.
pub struct Building<'a> {
    pub image: &'a Image,
    /// The parent of the process; the stub has its memory.
    pub parent: Option<&'a Process>,
    pub held: &'a HeldFiles,
}

impl Building<'_> {
    /// Builds it. What a stub has from its parent is kept as far as both have it. [`finish`] comes
    /// when all stubs are there, so that these can have it.
    pub fn build(
        &self,
        stub: &mut Stub,
        source: &mut dyn PageSource,
        done: &mut Restarted,
    ) -> Result<(), Error> {
        // Pages of a window are as good as shared.
        let inherited = match self.parent.filter(|_| source.window().is_none()) {
            Some(parent) => Inherited::choose(stub.process, parent),
            None => Inherited::default(),
        };
        if self.parent.is_some() {
            stub.blank.keep(inherited.kept(stub.process))?;
        }
        move_vdso(stub, &self.image.kernel)?;
        let fetch = Fetch::new(&stub.blank, 0)?;
        let mut wanted = Vec::new();
        for (index, mapping) in stub.process.mappings.iter().enumerate() {
            let of = inherited.of(index);
            match of {
                Some(of) => inherited::adapt(&stub.blank, mapping, of)?,
                None => self.map(stub, &fetch, mapping)?,
            }
            wanted.extend(inherited::lacking(mapping, of));
        }
        fill(stub, &fetch, wanted, source, done)?;
        fetch.end(&stub.blank)
    }

    fn map(&self, stub: &Stub, fetch: &Fetch, mapping: &Mapping) -> Result<(), Error> {
        if let Mapped::SharedHeld { held, writable, .. } = mapping.what
            && let HeldKind::Segment { id, .. } = self.image.held[held as usize].kind
        {
            attach(stub, mapping, id, writable)?;
        } else {
            self.map_file(stub, fetch, mapping)?;
        }
        advise_range(&stub.blank, mapping, mapping.start, mapping.end)
    }

    /// The file that a mapping is of, as a descriptor of the stub, and the offset in it.
    fn file_of(
        &self,
        stub: &Stub,
        fetch: &Fetch,
        mapping: &Mapping,
    ) -> Result<Option<(u64, u64)>, Error> {
        let mapped = |file: u32| &stub.process.mapped_files[file as usize];
        let (opened, offset) = match mapping.what {
            Mapped::Anonymous | Mapped::Droppable => return Ok(None),
            Mapped::PrivateFile { file, offset } => (open_mapped(mapped(file), false)?, offset),
            Mapped::SharedFile {
                file,
                offset,
                writable,
            } => (open_mapped(mapped(file), writable)?, offset),
            Mapped::PrivateHeld { held, offset } => {
                (self.held.open(held, OFlag::O_RDONLY)?, offset)
            }
            Mapped::SharedHeld {
                held,
                offset,
                writable: true,
            } => (self.held.open(held, OFlag::O_RDWR)?, offset),
            Mapped::SharedHeld { held, offset, .. } => {
                (self.held.open(held, OFlag::O_RDONLY)?, offset)
            }
        };
        let fd = fetch.get(&stub.blank, opened.as_raw_fd())?;
        Ok(Some((fd, offset)))
    }

    fn map_file(&self, stub: &Stub, fetch: &Fetch, mapping: &Mapping) -> Result<(), Error> {
        let mut flags = libc::MAP_FIXED_NOREPLACE
            | match mapping.what {
                Mapped::Anonymous => libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                Mapped::Droppable => libc::MAP_DROPPABLE | libc::MAP_ANONYMOUS,
                Mapped::PrivateFile { .. } | Mapped::PrivateHeld { .. } => libc::MAP_PRIVATE,
                Mapped::SharedFile { .. } | Mapped::SharedHeld { .. } => libc::MAP_SHARED,
            };
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
        let file = self.file_of(stub, fetch, mapping)?;
        let (fd, offset) = file.unwrap_or((u64::MAX, 0));
        let arguments = [
            mapping.start,
            mapping.end - mapping.start,
            protection as u64,
            flags as u64,
            fd,
            offset,
        ];
        stub.call(
            &format!("map memory at {:#x}", mapping.start),
            libc::SYS_mmap,
            &arguments,
        )?;
        match file {
            Some((fd, _)) => stub
                .call("close a descriptor", libc::SYS_close, &[fd])
                .map(drop),
            None => Ok(()),
        }
    }
}

/// Attaches a segment of System V shared memory, which is mapped as a whole.
fn attach(stub: &Stub, mapping: &Mapping, id: i32, writable: bool) -> Result<(), Error> {
    let mut flags = 0;
    if !writable {
        flags |= libc::SHM_RDONLY;
    }
    if mapping.protection & libc::PROT_EXEC != 0 {
        flags |= libc::SHM_EXEC;
    }
    let arguments = [id as u64, mapping.start, flags as u64];
    stub.call("attach memory", libc::SYS_shmat, &arguments)?;
    let len = mapping.end - mapping.start;
    let arguments = [mapping.start, len, mapping.protection as u64];
    stub.call("protect memory", libc::SYS_mprotect, &arguments)
        .map(drop)
}

/// Sets what is not for children, or can only be set once the pages are there.
pub fn finish(stub: &Stub) -> Result<(), Error> {
    for mapping in &stub.process.mappings {
        finish_mapping(stub, mapping)?;
    }
    let fetch = Fetch::new(&stub.blank, 0)?;
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
    if stub.blank.vdso.first().map(|(start, _)| *start) == Some(stub.process.vdso) {
        return Ok(());
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
    mut wanted: Vec<Placed>,
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
    wanted.retain(|run| !from_window.contains(&run.address));
    // Only the first stub has a reserve, and it lacks all of its pages.
    let (given, wanted) = match &frames {
        Some(frames) => frames.hand_out(&stub.blank, &stub.process.mappings, &from_window)?,
        None => (Vec::new(), wanted),
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
    let mut placing_pages = Placing {
        stub,
        pages: Pages::Own,
        source,
        done,
    };
    placing_pages.place_given(&given)?;
    placing_pages.place_all(fetch, &wanted)?;
    drop(frames);
    done.populate += began.elapsed().saturating_sub(done.place - placing);
    switch_huge_pages_off(stub, huge_pages_off)
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

/// Sets what can only be set once the pages are there.
fn finish_mapping(stub: &Stub, mapping: &Mapping) -> Result<(), Error> {
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
