//! A region that is a file or a device mapped shared.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::unistd::{Whence, lseek};

use super::mapping::{DurableBy, Mapping};
use super::write_back::{OfThisHost, SyncQueue, WriteBack};
use super::{Medium, Region, available_bytes};
use crate::error::{Error, Result};
use crate::number::CHUNK_SIZE_BYTES;

/// A file or a device from its start on, mapped `MAP_SHARED`.
pub(crate) struct MappedRegion {
    file: File,
    first: Mapping,
    medium: Medium,
    durable_by: DurableBy,
    write_back: Box<dyn WriteBack>,
    unsynced: SyncQueue,
}

impl MappedRegion {
    /// Maps the first `len` bytes of a file, which must have them.
    pub(crate) fn map(file: File, len: u64, medium: Medium, overcommit: bool) -> Result<MappedRegion> {
        let (first, durable_by) = Mapping::map(&file, medium, 0..len, overcommit)?;
        Ok(MappedRegion {
            file,
            first,
            medium,
            durable_by,
            write_back: Box::new(OfThisHost::new()),
            unsynced: SyncQueue::default(),
        })
    }

    fn at(&self, offset: u64, len: usize) -> Result<*mut u8> {
        self.first.at(offset, len).ok_or_else(|| {
            Error::damaged(format!(
                "a reference to byte {offset} (+{len}) behind the pool's end"
            ))
        })
    }

    fn word(&self, offset: u64) -> Result<&AtomicU32> {
        let place = self.at(offset, 4)?;
        if !offset.is_multiple_of(4) {
            return Err(Error::damaged(format!("a word at the odd offset {offset}")));
        }
        // SAFETY: in bounds (`at`), aligned (mappings begin at whole pages of the file, the offset is a multiple of 4), valid as long as
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

impl Region for MappedRegion {
    fn len_bytes(&self) -> u64 {
        self.first.end()
    }

    fn extend(&self, len_bytes: u64, overcommit: bool) -> Result<()> {
        let end = self.first.end();
        if len_bytes <= end {
            return Ok(());
        }
        let metadata = self.file.metadata();
        let medium_bytes = metadata.map_err(Error::io("looking at the pool's file"))?.len();
        if medium_bytes < len_bytes {
            return Err(Error::damaged(format!(
                "it was cut off: {medium_bytes} of {len_bytes} bytes are left"
            )));
        }
        let (more, durable_by) = Mapping::map(&self.file, self.medium, end..len_bytes, overcommit)?;
        if durable_by != self.durable_by || !self.first.append(more) {
            return Err(Error::damaged(format!(
                "what was added from byte {end} on cannot be mapped as the rest is"
            )));
        }
        Ok(())
    }

    fn resize_medium(&self, keep_bytes: u64, len_bytes: u64) -> Result<()> {
        self.file
            .set_len(keep_bytes)
            .and_then(|()| self.file.set_len(len_bytes))
            .map_err(Error::io("giving the pool's file another length"))?;
        if self.durable_by != DurableBy::Nothing {
            self.unsynced.note();
        }
        self.fence()
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
