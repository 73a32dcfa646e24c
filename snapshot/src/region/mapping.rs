//! Parts of a pool's file in this process's address space.

use std::fs::File;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::os::raw::c_void;
use std::ptr::NonNull;
use std::sync::OnceLock;

use nix::errno::Errno;
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap, mmap_anonymous, munmap};

use super::{Medium, available_bytes};
use crate::error::{Error, Result};
use crate::fault::{Resource, ask_for};
use crate::number::CHUNK_SIZE_BYTES;

/// A part of the file. When the pool grows, one more mapping follows: those before it stay where
/// they are.
pub(super) struct Mapping {
    /// The end of the mapping in the file.
    end: u64,
    base: NonNull<c_void>,
    len: usize,
    next: OnceLock<Box<Mapping>>,
}

/// The way in which stores through the mapping become durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DurableBy {
    /// At once, as far as memory can be durable.
    Nothing,
    /// The kernel writes them out.
    Sync,
    /// Once they have left the CPU's caches: the mapping is of a device, or one with
    /// `MAP_SYNC`, in which the file system has made a block's place durable before the block
    /// can be stored to.
    CacheLines,
}

// SAFETY: a mapping belongs to the process, not to a thread, and lives as long as the value. Every
// access is a copy through raw pointers or an atomic; no reference to mapped bytes is ever handed
// out.
unsafe impl Send for Mapping {}
// SAFETY: as above; concurrent copies of the same bytes are ordered by the catalog lock or by the
// lease on the block.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps a part of the pool so that stores to it become durable in the cheapest way that the
    /// medium has.
    pub(super) fn map(
        file: &File,
        medium: Medium,
        range: Range<u64>,
        overcommit: bool,
    ) -> Result<(Mapping, DurableBy)> {
        let size = usize::try_from(range.end - range.start).ok();
        let (Some(size), Ok(offset)) =
            (size.and_then(NonZeroUsize::new), i64::try_from(range.start))
        else {
            return Err(Error::InvalidSize {
                size_bytes: range.end,
                why: "it cannot be mapped".to_owned(),
            });
        };
        let mapped = map_shared(file, medium, offset, size, overcommit);
        if mapped == Err(Errno::ENOMEM) && medium == Medium::Hugetlbfs {
            return Err(Error::NoSpaceOnMedium {
                medium: medium.name(),
                needed_bytes: range.end - range.start,
                available_bytes: available_bytes(file, medium)?,
            });
        }
        let (base, durable_by) =
            mapped.map_err(Error::io(format!("mapping {size} bytes of the pool")))?;
        // A core dump of this process would hold the memory of other guests. Where the kernel
        // refuses, it is as large as it was.
        // SAFETY: the range is this new mapping; the advice changes nothing that it holds.
        let _ = unsafe { madvise(base, size.get(), MmapAdvise::MADV_DONTDUMP) };
        let mapping = Mapping {
            end: range.end,
            base,
            len: size.get(),
            next: OnceLock::new(),
        };
        Ok((mapping, durable_by))
    }

    fn last(&self) -> &Mapping {
        let mut last = self;
        while let Some(next) = last.next.get() {
            last = next;
        }
        last
    }

    /// The end in the file of this mapping and of those that follow it.
    pub(super) fn end(&self) -> u64 {
        self.last().end
    }

    /// Adds the mapping of what follows. False when another one was added meanwhile.
    pub(super) fn append(&self, more: Mapping) -> bool {
        let last = self.last();
        last.end == more.end - more.len as u64 && last.next.set(Box::new(more)).is_ok()
    }

    /// The address of a range of the file that lies in one mapping. Nothing that the pool reads or
    /// writes as one lies in two: a mapping begins with a segment.
    pub(super) fn at(&self, offset: u64, len: usize) -> Option<*mut u8> {
        let mut mapping = self;
        while mapping.end <= offset && (len > 0 || mapping.end < offset) {
            mapping = mapping.next.get()?;
        }
        let in_mapping = offset.checked_sub(mapping.end - mapping.len as u64)?;
        let in_mapping = usize::try_from(in_mapping).ok()?;
        if in_mapping.checked_add(len)? > mapping.len {
            return None;
        }
        // SAFETY: in_mapping + len <= the mapping's length, so the result stays inside of it.
        Some(unsafe { mapping.base.as_ptr().cast::<u8>().add(in_mapping) })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range was mapped by `map`, and no pointer into it outlives `self`.
        if let Err(errno) = unsafe { munmap(self.base, self.len) } {
            tracing::warn!(%errno, "could not unmap the pool");
        }
    }
}

fn map_shared(
    file: &File,
    medium: Medium,
    offset: i64,
    size: NonZeroUsize,
    overcommit: bool,
) -> nix::Result<(NonNull<c_void>, DurableBy)> {
    let prot = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    let map = |mut flags: MapFlags| {
        if overcommit {
            flags |= MapFlags::MAP_NORESERVE;
        }
        ask_for(Resource::Mapping).map_err(|_| Errno::ENOMEM)?;
        // SAFETY: a new mapping at an address of the kernel's choice cannot overlap memory in use.
        unsafe { mmap(None, size, prot, flags, file, offset) }
    };
    let shared = |durable_by| Ok((map(MapFlags::MAP_SHARED)?, durable_by));
    match medium {
        Medium::Hugetlbfs => shared(DurableBy::Nothing),
        Medium::Tmpfs => {
            let mut flags = MapFlags::MAP_SHARED | MapFlags::MAP_FIXED;
            flags.set(MapFlags::MAP_NORESERVE, overcommit);
            let place = chunk_aligned(offset as usize, size)?;
            // SAFETY: the range was reserved for this, and nothing is in it.
            let mapped = unsafe { mmap(Some(place.addr()), size, prot, flags, file, offset) };
            if mapped.is_err() {
                // SAFETY: as above.
                let _ = unsafe { munmap(place, size.get()) };
            }
            Ok((mapped?, DurableBy::Nothing))
        }
        Medium::File => {
            let mapped = shared(DurableBy::Sync)?;
            // What the kernel would read ahead of a block's neighbours counts as written from then
            // on, also where the file has never been.
            // SAFETY: the range is this new mapping; the advice changes nothing that it holds.
            unsafe { madvise(mapped.0, size.get(), MmapAdvise::MADV_RANDOM) }?;
            Ok(mapped)
        }
        Medium::Devdax => shared(DurableBy::CacheLines),
        Medium::Fsdax => match map(MapFlags::MAP_SHARED_VALIDATE | MapFlags::MAP_SYNC) {
            Ok(base) => Ok((base, DurableBy::CacheLines)),
            // A device that has to be told to flush, or a file system that cannot promise it.
            Err(Errno::EOPNOTSUPP) => shared(DurableBy::Sync),
            Err(errno) => Err(errno),
        },
    }
}

/// Reserves `size` bytes of addresses whose remainder in chunks is that of `offset`: a chunk can be
/// mapped as one page only where its address is a multiple of its size.
fn chunk_aligned(offset: usize, size: NonZeroUsize) -> nix::Result<NonNull<c_void>> {
    const CHUNK: usize = CHUNK_SIZE_BYTES as usize;
    let padded = size.checked_add(CHUNK).ok_or(Errno::ENOMEM)?;
    let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE;
    ask_for(Resource::Mapping).map_err(|_| Errno::ENOMEM)?;
    // SAFETY: a new mapping at an address of the kernel's choice cannot overlap memory in use.
    let start = unsafe { mmap_anonymous(None, padded, ProtFlags::PROT_NONE, flags) }?;
    let lead = (offset % CHUNK + CHUNK - start.addr().get() % CHUNK) % CHUNK;
    let tail = CHUNK - lead;
    // SAFETY: parts of the new mapping that nothing uses.
    unsafe {
        if lead > 0 {
            munmap(start, lead)?;
        }
        munmap(start.byte_add(lead + size.get()), tail)?;
        Ok(start.byte_add(lead))
    }
}
