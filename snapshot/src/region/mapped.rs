//! A region that is a file or a device mapped shared.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use nix::errno::Errno;
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};

use super::huge::{HugePages, collapse};
use super::mapping::{DurableBy, Mapping};
use super::reclaim::{Reclaim, page_bytes};
use super::write_back::{OfThisHost, SyncQueue, WriteBack};
use super::{Medium, Region, holes, streaming};
use crate::error::{Error, Result};
use crate::number::{BLOCK_SIZE_BYTES, CHUNK_BLOCKS, CHUNK_SIZE_BYTES};
use crate::wording::SizeText;

/// A file or a device from its start on, mapped `MAP_SHARED`.
pub(crate) struct MappedRegion {
    file: File,
    first: Mapping,
    medium: Medium,
    /// The unit in which the medium gives memory.
    page_bytes: u64,
    /// The pool may promise more than its medium has: nothing is set aside for it.
    overcommit: AtomicBool,
    durable_by: DurableBy,
    write_back: Box<dyn WriteBack>,
    unsynced: SyncQueue,
    huge: HugePages,
}

impl MappedRegion {
    /// Maps the first `len` bytes of a file, which must have them.
    pub(crate) fn map(
        file: File,
        len: u64,
        medium: Medium,
        overcommit: bool,
    ) -> Result<MappedRegion> {
        let page_bytes = page_bytes(&file, medium)?;
        if medium == Medium::File {
            // Only advice, as for the mapping: nothing is read ahead that then counts as written.
            let _ = posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_RANDOM);
        }
        let (first, durable_by) = Mapping::map(&file, medium, 0..len, overcommit)?;
        Ok(MappedRegion {
            file,
            first,
            medium,
            page_bytes,
            overcommit: AtomicBool::new(overcommit),
            durable_by,
            write_back: Box::new(OfThisHost::new()),
            unsynced: SyncQueue::default(),
            huge: HugePages::new(),
        })
    }

    fn at(&self, offset: u64, len: usize) -> Result<*mut u8> {
        self.first.at(offset, len).ok_or_else(|| {
            Error::damaged(format!(
                "a reference to byte {offset} (+{len}) behind the pool's end"
            ))
        })
    }

    fn words(&self, offset: u64, count: usize) -> Result<&[AtomicU32]> {
        let place = self.at(offset, count.saturating_mul(4))?;
        if !offset.is_multiple_of(4) {
            return Err(Error::damaged(format!("a word at the odd offset {offset}")));
        }
        // SAFETY: in bounds (`at`), aligned (mappings begin at whole pages of the file, the offset
        // is a multiple of 4), valid as long as `self`, and words are accessed atomically
        // wherever threads or processes may meet.
        Ok(unsafe { std::slice::from_raw_parts(place.cast::<AtomicU32>(), count) })
    }

    fn word(&self, offset: u64) -> Result<&AtomicU32> {
        Ok(&self.words(offset, 1)?[0])
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

    /// The same for a long range, which may have holes: touching those would fill page tables for
    /// nothing.
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

    fn reclaim(&self) -> Reclaim {
        Reclaim::on(self.medium, self.overcommit.load(Ordering::Relaxed))
    }

    /// The first piece that is not zero, for a medium that does not tell its holes.
    fn first_not_zero(&self, range: Range<u64>) -> Result<Option<Range<u64>>> {
        holes::first_not_zero(range, |at, piece| {
            if self.medium == Medium::Hugetlbfs {
                // Looking through the mapping would fill its holes.
                let read = self.file.read_at(piece, at);
                read.map_err(Error::io("reading the pool's file"))
            } else {
                self.read(at, piece).map(|()| piece.len())
            }
        })
    }

    /// Zeroes parts of pages, but no hole: that would take a page of the medium for nothing.
    fn zero_parts(&self, range: Range<u64>) -> Result<()> {
        let mut rest = range;
        while let Some(written) = self.next_written(rest.clone())? {
            self.zero(written.start, written.end - written.start)?;
            rest.start = written.end;
        }
        Ok(())
    }
}

impl Region for MappedRegion {
    fn len_bytes(&self) -> u64 {
        self.first.end()
    }

    fn extend(&self, len_bytes: u64, overcommit: bool) -> Result<()> {
        self.overcommit.store(overcommit, Ordering::Relaxed);
        let end = self.first.end();
        if len_bytes <= end {
            return Ok(());
        }
        let metadata = self.file.metadata();
        let medium_bytes = metadata
            .map_err(Error::io("looking at the pool's file"))?
            .len();
        if medium_bytes < len_bytes {
            return Err(Error::damaged(format!(
                "it was cut off: {} of {} are left",
                SizeText::left(medium_bytes),
                SizeText::of(len_bytes)
            )));
        }
        let (more, durable_by) = Mapping::map(&self.file, self.medium, end..len_bytes, overcommit)?;
        if durable_by != self.durable_by || !self.first.append(more) {
            return Err(Error::damaged(format!(
                "the bytes added from byte {end} on cannot be mapped like the others"
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

    fn read_unfilled(&self, offset: u64, into: &mut [u8]) -> Result<()> {
        if self.medium == Medium::Devdax {
            return self.read(offset, into);
        }
        self.at(offset, into.len())?;
        self.file
            .read_exact_at(into, offset)
            .map_err(Error::io("reading the pool's file"))
    }

    fn forget_cached(&self, offset: u64, len: u64) -> Result<()> {
        if self.medium == Medium::File {
            let (start, len) = (holes::signed(offset)?, holes::signed(len)?);
            // Only advice: pages that are dirty or mapped stay.
            let _ = posix_fadvise(
                &self.file,
                start,
                len,
                PosixFadviseAdvice::POSIX_FADV_DONTNEED,
            );
        }
        Ok(())
    }

    fn write(&self, offset: u64, from: &[u8]) -> Result<()> {
        let place = self.at(offset, from.len())?;
        // SAFETY: `at` checked the target range; `from` is a Rust slice outside of the mapping.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), place, from.len()) };
        Ok(())
    }

    fn copy_chunk(&self, from: u64, to: u64) -> Result<()> {
        let (source, target) = (
            self.at(from, CHUNK_SIZE_BYTES as usize)?,
            self.at(to, CHUNK_SIZE_BYTES as usize)?,
        );
        let aligned = [from, to]
            .iter()
            .all(|at| at.is_multiple_of(BLOCK_SIZE_BYTES));
        if !aligned || from.abs_diff(to) < CHUNK_SIZE_BYTES {
            return Err(Error::invalid(format!(
                "the chunk at byte {from} cannot be copied to byte {to}"
            )));
        }
        // SAFETY: `at` checked both ranges; they do not overlap, and mappings begin at whole pages
        // of the file.
        unsafe { streaming::copy_blocks(source, target, CHUNK_BLOCKS as usize) };
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

    /// On media where the first store to a block waits for the file system's journal, writing it
    /// through the file system does not.
    fn write_foreign(&self, offset: u64, from: &[u8]) -> Result<()> {
        if (self.medium, self.durable_by) != (Medium::Fsdax, DurableBy::CacheLines) {
            return self.write(offset, from);
        }
        self.at(offset, from.len())?;
        let written = self.file.write_all_at(from, offset);
        written.map_err(Error::io("writing to the pool's file"))
    }

    fn fence(&self) -> Result<()> {
        if self.durable_by == DurableBy::CacheLines {
            self.write_back.drain();
        }
        self.unsynced.sync(&self.file, &*self.write_back)
    }

    fn punch(&self, offset: u64, len: u64) -> Result<()> {
        self.at(offset, usize::try_from(len).unwrap_or(usize::MAX))?;
        self.huge.forget(offset..offset + len);
        let reclaim = self.reclaim();
        let (granule, end) = (self.punch_granule_bytes(), offset + len);
        let whole = offset.next_multiple_of(granule)..end / granule * granule;
        if whole.is_empty()
            || reclaim == Reclaim::Store
            || !holes::discard(&self.file, whole.clone(), reclaim == Reclaim::Keep)?
        {
            return self.zero_parts(offset..end);
        }
        self.zero_parts(offset..whole.start)?;
        self.zero_parts(whole.end..end)
    }

    fn punch_granule_bytes(&self) -> u64 {
        match self.reclaim() {
            Reclaim::Store => BLOCK_SIZE_BYTES,
            Reclaim::Punch | Reclaim::Keep => self.page_bytes,
        }
    }

    fn keeps_punched_parts(&self) -> bool {
        // A tmpfs with huge pages (its mount option `huge`) cannot always split one.
        matches!(self.medium, Medium::Hugetlbfs | Medium::Tmpfs)
    }

    fn load_u32(&self, offset: u64) -> Result<u32> {
        Ok(u32::from_le(self.word(offset)?.load(Ordering::Acquire)))
    }

    fn store_u32(&self, offset: u64, value: u32) -> Result<()> {
        self.word(offset)?.store(value.to_le(), Ordering::Release);
        Ok(())
    }

    fn replace_u32(&self, offset: u64, before: u32, after: u32) -> Result<bool> {
        let (before, after) = (before.to_le(), after.to_le());
        let word = self.word(offset)?;
        let replaced = word.compare_exchange(before, after, Ordering::AcqRel, Ordering::Acquire);
        Ok(replaced.is_ok())
    }

    fn load_words(&self, offset: u64, into: &mut [u32]) -> Result<()> {
        let words = self.words(offset, into.len())?;
        for (value, word) in into.iter_mut().zip(words) {
            *value = u32::from_le(word.load(Ordering::Acquire));
        }
        Ok(())
    }

    fn store_words(&self, offset: u64, values: &[u32]) -> Result<()> {
        for (value, word) in values.iter().zip(self.words(offset, values.len())?) {
            word.store(value.to_le(), Ordering::Release);
        }
        Ok(())
    }

    fn next_written(&self, range: Range<u64>) -> Result<Option<Range<u64>>> {
        if range.is_empty() {
            return Ok(None);
        }
        if matches!(self.medium, Medium::Hugetlbfs | Medium::Devdax) {
            return self.first_not_zero(range);
        }
        holes::first_written(&self.file, range)
    }

    fn provide(&self, offset: u64, len: u64) -> Result<()> {
        self.at(offset, usize::try_from(len).unwrap_or(usize::MAX))?;
        holes::provide(&self.file, self.medium, offset..offset + len)?;
        Ok(())
    }

    fn make_one_page(&self, chunks: Range<u64>) -> Result<bool> {
        let bytes = usize::try_from(chunks.end - chunks.start).unwrap_or(usize::MAX);
        let place = self.at(chunks.start, bytes)?;
        let fits = place.addr().is_multiple_of(CHUNK_SIZE_BYTES as usize);
        if self.medium != Medium::Tmpfs || !fits {
            return Ok(false);
        }
        Ok(self.huge.make(chunks.clone(), || {
            // The kernel makes no huge page of a chunk that is one hole.
            for chunk in chunks.step_by(CHUNK_SIZE_BYTES as usize) {
                let first = chunk..chunk + BLOCK_SIZE_BYTES;
                if !matches!(holes::provide(&self.file, self.medium, first), Ok(true)) {
                    return Err(Errno::ENOSPC);
                }
            }
            // SAFETY: `at` checked that the range is mapped; its place was just looked at.
            unsafe { collapse(place, bytes) }
        }))
    }

    fn may_make_one_page(&self) -> bool {
        self.medium == Medium::Tmpfs && self.huge.may_ask()
    }

    fn pages_at_once(&self, wanted: usize) -> usize {
        self.huge.at_once(wanted)
    }

    fn is_likely_to_make_one_page(&self) -> bool {
        self.medium == Medium::Tmpfs && self.huge.are_likely()
    }

    fn is_one_page(&self, chunk: u64) -> bool {
        self.huge.is_known(chunk)
    }

    fn want_huge_pages(&self, wanted: bool) {
        self.huge.want(wanted);
    }

    fn huge_pages_made(&self) -> u64 {
        self.huge.made()
    }

    fn set_aside(&self, range: Range<u64>) -> Result<()> {
        if matches!(self.medium, Medium::Fsdax | Medium::File)
            && !holes::provide(&self.file, self.medium, range)?
        {
            return Err(Error::Io {
                op: "this file system cannot set space aside (fallocate(2)): create the pool with \
                     --overcommit and take the risk that VMs stop when it is full"
                    .to_owned(),
                source: std::io::ErrorKind::Unsupported.into(),
            });
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "write_back_test.rs"]
mod write_back_test;
