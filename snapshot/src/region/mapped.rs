//! A region that is a file or a device mapped shared.

use std::fs::File;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::os::raw::c_void;
use std::os::unix::fs::FileExt;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use nix::unistd::{Whence, lseek};

use super::write_back::{OfThisHost, SyncQueue, WriteBack};
use super::{Medium, Region, available_bytes};
use crate::error::{Error, Result};
use crate::number::CHUNK_SIZE_BYTES;

/// The whole of a file, mapped `MAP_SHARED`.
pub(crate) struct MappedRegion {
    file: File,
    base: NonNull<c_void>,
    len: usize,
    medium: Medium,
    durable_by: DurableBy,
    write_back: Box<dyn WriteBack>,
    unsynced: SyncQueue,
}

/// How stores through the mapping become durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum DurableBy {
    /// They are, as far as memory can be.
    Nothing,
    /// The kernel writes them out.
    Sync,
    /// They are once they have left the CPU's caches: the mapping is of a device, or one with `MAP_SYNC`, in which the
    /// file system has made a block's place durable before the block can be stored to.
    CacheLines,
}

/// Maps a part of the pool so that stores to it become durable in the cheapest way that the medium has.
fn map_shared(
    file: &File,
    medium: Medium,
    offset: i64,
    size: NonZeroUsize,
    overcommit: bool,
) -> nix::Result<(NonNull<c_void>, DurableBy)> {
    let map = |mut flags: MapFlags| {
        if overcommit {
            flags |= MapFlags::MAP_NORESERVE;
        }
        let prot = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice cannot overlap memory in use.
        unsafe { mmap(None, size, prot, flags, file, offset) }
    };
    let shared = |durable_by| Ok((map(MapFlags::MAP_SHARED)?, durable_by));
    match medium {
        Medium::Tmpfs | Medium::Hugetlbfs => shared(DurableBy::Nothing),
        Medium::File => shared(DurableBy::Sync),
        Medium::Devdax => shared(DurableBy::CacheLines),
        Medium::Fsdax => match map(MapFlags::MAP_SHARED_VALIDATE | MapFlags::MAP_SYNC) {
            Ok(base) => Ok((base, DurableBy::CacheLines)),
            // A device that has to be told to flush, or a file system that cannot promise it.
            Err(Errno::EOPNOTSUPP) => shared(DurableBy::Sync),
            Err(errno) => Err(errno),
        },
    }
}

// SAFETY: the mapping belongs to the process, not to a thread, and lives as long as the value. Every access is a copy
// through raw pointers or an atomic; no reference to mapped bytes is ever handed out.
unsafe impl Send for MappedRegion {}
// SAFETY: as above; concurrent copies of the same bytes are ordered by the catalog lock or by the lease on the block.
unsafe impl Sync for MappedRegion {}

impl MappedRegion {
    /// Maps the first `len` bytes of a file, which must have them.
    pub(crate) fn map(file: File, len: u64, medium: Medium, overcommit: bool) -> Result<MappedRegion> {
        let size = usize::try_from(len).ok().and_then(NonZeroUsize::new);
        let Some(size) = size else {
            return Err(Error::InvalidSize {
                size_bytes: len,
                why: "it cannot be mapped",
            });
        };
        let (base, durable_by) = map_shared(&file, medium, 0, size, overcommit)
            .map_err(Error::io(format!("mapping the pool's {len} bytes")))?;
        Ok(MappedRegion {
            file,
            base,
            len: size.get(),
            medium,
            durable_by,
            write_back: Box::new(OfThisHost::new()),
            unsynced: SyncQueue::default(),
        })
    }

    fn at(&self, offset: u64, len: usize) -> Result<*mut u8> {
        let start = usize::try_from(offset).ok();
        let end = start.and_then(|start| start.checked_add(len));
        let (Some(start), Some(_)) = (start, end.filter(|end| *end <= self.len)) else {
            return Err(Error::damaged(format!(
                "a reference to byte {offset} (+{len}) behind the pool's end"
            )));
        };
        // SAFETY: start + len <= the mapping's length, so the result stays inside of it.
        Ok(unsafe { self.base.as_ptr().cast::<u8>().add(start) })
    }

    fn word(&self, offset: u64) -> Result<&AtomicU32> {
        let place = self.at(offset, 4)?;
        if !offset.is_multiple_of(4) {
            return Err(Error::damaged(format!("a word at the odd offset {offset}")));
        }
        // SAFETY: in bounds (`at`), aligned (the mapping is page-aligned, the offset a multiple of 4), valid as long as
        // `self`, and words are accessed atomically wherever threads or processes may meet.
        Ok(unsafe { AtomicU32::from_ptr(place.cast::<u32>()) })
    }

    fn zero(&self, offset: u64, len: u64) -> Result<()> {
        let bytes = usize::try_from(len).unwrap_or(usize::MAX);
        let place = self.at(offset, bytes)?;
        // SAFETY: `at` checked that the range is inside of the mapping.
        unsafe { place.write_bytes(0, bytes) };
        Ok(())
    }

    fn write_back_lines(&self, range: Range<u64>) -> Result<()> {
        let bytes = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
        let start = self.at(range.start, bytes)?;
        // SAFETY: `at` checked that the range is inside of the mapping, which is readable.
        unsafe { self.write_back.lines(start, bytes) };
        Ok(())
    }

    /// The same for a long range, which may have holes: touching those would fill page tables for nothing.
    fn write_back_stretches(&self, range: Range<u64>) -> Result<()> {
        if self.medium == Medium::Devdax {
            return self.write_back_lines(range);
        }
        let mut rest = range;
        while let Some(written) = self.next_written(rest.clone())? {
            self.write_back_lines(written.clone())?;
            rest.start = written.end;
        }
        Ok(())
    }

    /// Gives whole granules back; false when the medium cannot. Zeroing is what must not fail, this may.
    fn discard(&self, range: Range<u64>) -> Result<bool> {
        let mode = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        let (offset, len) = (signed(range.start)?, signed(range.end - range.start)?);
        loop {
            match fallocate(&self.file, mode, offset, len) {
                Ok(()) => return Ok(true),
                Err(Errno::EINTR) => {}
                Err(Errno::EOPNOTSUPP | Errno::ENOSYS | Errno::ENODEV | Errno::EPERM) => return Ok(false),
                Err(errno) => {
                    tracing::warn!(%errno, ?range, "could not punch out free blocks of the pool");
                    return Ok(false);
                }
            }
        }
    }
}

/// How much is looked at in one go where a medium does not tell its holes.
const SCAN_BYTES: usize = 64 << 10;
static ZEROS: [u8; SCAN_BYTES] = [0; SCAN_BYTES];

impl MappedRegion {
    /// The first stretch with something else than zeros, for a medium that does not tell its holes. It ends with the
    /// page of the medium, or with what was looked at.
    fn scan(&self, range: Range<u64>) -> Result<Option<Range<u64>>> {
        let mut piece = vec![0; SCAN_BYTES];
        let mut at = range.start;
        while at < range.end {
            let count = (range.end - at).min(SCAN_BYTES as u64) as usize;
            let piece = &mut piece[..count];
            let read = if self.medium == Medium::Hugetlbfs {
                // Looking through the mapping would fill its holes.
                self.file
                    .read_at(piece, at)
                    .map_err(Error::io("reading the pool's file"))?
            } else {
                self.read(at, piece)?;
                count
            };
            let end = at + count as u64;
            if piece[..read] != ZEROS[..read] {
                let end = if self.medium == Medium::Hugetlbfs {
                    end.next_multiple_of(self.medium.page_bytes()).min(range.end)
                } else {
                    end
                };
                return Ok(Some(at..end));
            }
            at = end;
        }
        Ok(None)
    }
}

impl Drop for MappedRegion {
    fn drop(&mut self) {
        // SAFETY: the range was mapped by `map`, and no pointer into it outlives `self`.
        if let Err(errno) = unsafe { munmap(self.base, self.len) } {
            tracing::warn!(%errno, "could not unmap the pool");
        }
    }
}

impl Region for MappedRegion {
    fn len_bytes(&self) -> u64 {
        self.len as u64
    }

    fn read(&self, offset: u64, into: &mut [u8]) -> Result<()> {
        let from = self.at(offset, into.len())?;
        // SAFETY: `at` checked the source range; `into` is a Rust slice outside of the mapping.
        unsafe { std::ptr::copy_nonoverlapping(from, into.as_mut_ptr(), into.len()) };
        Ok(())
    }

    fn write(&self, offset: u64, from: &[u8]) -> Result<()> {
        let place = self.at(offset, from.len())?;
        // SAFETY: `at` checked the target range; `from` is a Rust slice outside of the mapping.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), place, from.len()) };
        Ok(())
    }

    fn flush(&self, offset: u64, len: u64) -> Result<()> {
        self.at(offset, usize::try_from(len).unwrap_or(usize::MAX))?;
        match self.durable_by {
            DurableBy::Nothing => {}
            DurableBy::Sync => self.unsynced.note(),
            DurableBy::CacheLines if len <= CHUNK_SIZE_BYTES => {
                self.write_back_lines(offset..offset + len)?
            }
            DurableBy::CacheLines => self.write_back_stretches(offset..offset + len)?,
        }
        Ok(())
    }

    fn flush_foreign(&self, offset: u64, len: u64) -> Result<()> {
        if (self.medium, self.durable_by) != (Medium::Fsdax, DurableBy::CacheLines) {
            return self.flush(offset, len);
        }
        self.at(offset, usize::try_from(len).unwrap_or(usize::MAX))?;
        self.unsynced.note();
        Ok(())
    }

    fn fence(&self) -> Result<()> {
        if self.durable_by == DurableBy::CacheLines {
            self.write_back.drain();
        }
        self.unsynced.sync(&self.file, &*self.write_back)
    }

    fn punch(&self, offset: u64, len: u64) -> Result<()> {
        self.at(offset, usize::try_from(len).unwrap_or(usize::MAX))?;
        let granule = self.punch_granule_bytes();
        let whole = offset.next_multiple_of(granule)..(offset + len) / granule * granule;
        if whole.is_empty() || !self.discard(whole.clone())? {
            return self.zero(offset, len);
        }
        self.zero(offset, whole.start - offset)?;
        self.zero(whole.end, offset + len - whole.end)
    }

    fn punch_granule_bytes(&self) -> u64 {
        self.medium.page_bytes()
    }

    fn load_u32(&self, offset: u64) -> Result<u32> {
        Ok(u32::from_le(self.word(offset)?.load(Ordering::Acquire)))
    }

    fn store_u32(&self, offset: u64, value: u32) -> Result<()> {
        self.word(offset)?.store(value.to_le(), Ordering::Release);
        Ok(())
    }

    fn next_written(&self, range: Range<u64>) -> Result<Option<Range<u64>>> {
        if range.is_empty() {
            return Ok(None);
        }
        if matches!(self.medium, Medium::Hugetlbfs | Medium::Devdax) {
            return self.scan(range);
        }
        let start = match lseek(&self.file, signed(range.start)?, Whence::SeekData) {
            Ok(start) => (start as u64).max(range.start),
            Err(Errno::ENXIO) => return Ok(None),
            Err(_) => return Ok(Some(range)),
        };
        if start >= range.end {
            return Ok(None);
        }
        let end = lseek(&self.file, signed(start)?, Whence::SeekHole).map_or(range.end, |end| end as u64);
        Ok(Some(start..end.clamp(start + 1, range.end)))
    }

    fn provide(&self, offset: u64, len: u64) -> Result<()> {
        self.at(offset, usize::try_from(len).unwrap_or(usize::MAX))?;
        loop {
            match fallocate(
                &self.file,
                FallocateFlags::FALLOC_FL_KEEP_SIZE,
                signed(offset)?,
                signed(len)?,
            ) {
                Ok(()) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(Errno::EOPNOTSUPP | Errno::ENOSYS | Errno::ENODEV) => return Ok(()),
                Err(Errno::ENOSPC | Errno::ENOMEM | Errno::EDQUOT) => {
                    return Err(Error::NoSpaceOnMedium {
                        medium: self.medium.name(),
                        needed_bytes: len,
                        available_bytes: available_bytes(&self.file, self.medium)?,
                    });
                }
                Err(errno) => return Err(Error::io("asking the medium for memory for the pool")(errno)),
            }
        }
    }
}

fn signed(offset: u64) -> Result<i64> {
    i64::try_from(offset).map_err(|_| Error::damaged(format!("the offset {offset} is beyond any file")))
}

#[cfg(test)]
#[path = "write_back_test.rs"]
mod write_back_test;
