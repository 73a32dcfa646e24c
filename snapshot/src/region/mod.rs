//! The bytes a pool is made of: where they are kept, and what their medium can promise.

mod detect;
mod durability;
mod holes;
mod huge;
mod mapped;
mod mapping;
mod medium;
mod reclaim;
#[cfg(test)]
pub(crate) mod sim;
mod space;
mod streaming;
mod write_back;

use std::ops::Range;

pub(crate) use detect::{Detected, detect, unfit_kind};
pub(crate) use durability::durability_limit;
pub(crate) use mapped::MappedRegion;
pub use medium::{EngineKind, Medium};
pub(crate) use space::available_bytes;

use crate::error::Result;
use crate::number::{BLOCK_SIZE_BYTES, CHUNK_SIZE_BYTES};

/// The bytes of a pool. All that the pool itself reads and writes goes through here, so that tests
/// can put a medium underneath that loses what was not flushed.
///
/// Offsets and lengths are in bytes. What lies outside of the region is an error, never a panic.
pub(crate) trait Region: Send + Sync {
    /// Length of the region.
    fn len_bytes(&self) -> u64;

    /// Makes more of the medium part of the region, whose medium must be this long already.
    fn extend(&self, len_bytes: u64, overcommit: bool) -> Result<()>;

    /// Cuts the medium off behind `keep_bytes`, and then makes it `len_bytes` long: all behind
    /// reads as zero. The new length is durable when this returns; the region itself does not
    /// change.
    fn resize_medium(&self, keep_bytes: u64, len_bytes: u64) -> Result<()>;

    /// Copies bytes out.
    fn read(&self, offset: u64, into: &mut [u8]) -> Result<()>;

    /// Copies bytes out without filling holes. An error of the medium is an [`crate::Error::Io`]
    /// where the medium can tell one; `read` kills the process then.
    fn read_unfilled(&self, offset: u64, into: &mut [u8]) -> Result<()> {
        self.read(offset, into)
    }

    /// Has the next `read_unfilled` of a range come from the medium and no cache, as far as the
    /// system lets us.
    fn forget_cached(&self, _offset: u64, _len: u64) -> Result<()> {
        Ok(())
    }

    /// Copies bytes in. They are durable only after `flush` of their range and then `fence`.
    fn write(&self, offset: u64, from: &[u8]) -> Result<()>;

    /// Copies a chunk, from one offset to another.
    fn copy_chunk(&self, from: u64, to: u64) -> Result<()> {
        let mut bytes = [0; BLOCK_SIZE_BYTES as usize];
        for at in (0..CHUNK_SIZE_BYTES).step_by(bytes.len()) {
            self.read(from + at, &mut bytes)?;
            self.write(to + at, &bytes)?;
        }
        Ok(())
    }

    /// Starts making a range durable that was stored to by `write` or `store_u32`.
    fn flush(&self, offset: u64, len: u64) -> Result<()>;

    /// Starts making a range durable that may have been stored to by anyone in any way: by a guest
    /// through a mapping of its own, with pwrite(2), by another process. On a DAX file that
    /// takes the file system, which otherwise may not find such blocks again.
    fn flush_foreign(&self, offset: u64, len: u64) -> Result<()> {
        self.flush(offset, len)
    }

    /// Copies bytes in that `flush_foreign` will make durable. It may cost less than `write` does.
    fn write_foreign(&self, offset: u64, from: &[u8]) -> Result<()> {
        self.write(offset, from)
    }

    /// Returns when all that this thread flushed before is as durable as the medium can make it.
    fn fence(&self) -> Result<()>;

    /// Makes a range read as zero and gives its memory back to the medium, as far as its granule
    /// allows.
    fn punch(&self, offset: u64, len: u64) -> Result<()>;

    /// Smallest aligned range whose memory `punch` gives back.
    fn punch_granule_bytes(&self) -> u64;

    /// True when a chunk that was punched in parts may still take memory until it is punched as a
    /// whole.
    fn keeps_punched_parts(&self) -> bool {
        self.punch_granule_bytes() >= CHUNK_SIZE_BYTES
    }

    /// Loads an aligned little-endian word atomically (acquire).
    fn load_u32(&self, offset: u64) -> Result<u32>;

    /// Stores an aligned little-endian word atomically (release).
    fn store_u32(&self, offset: u64, value: u32) -> Result<()>;

    /// Stores an aligned word if it has the value `before`, atomically. True when it did.
    fn replace_u32(&self, offset: u64, before: u32, after: u32) -> Result<bool>;

    /// Adds to an aligned word, atomically; what is carried beyond 32 bits is lost.
    fn add_u32(&self, offset: u64, change: u32) -> Result<()> {
        loop {
            let before = self.load_u32(offset)?;
            if self.replace_u32(offset, before, before.wrapping_add(change))? {
                return Ok(());
            }
        }
    }

    /// Loads aligned words that follow each other, as `load_u32` does each of them.
    fn load_words(&self, offset: u64, into: &mut [u32]) -> Result<()> {
        for (word, at) in into.iter_mut().zip((offset..).step_by(4)) {
            *word = self.load_u32(at)?;
        }
        Ok(())
    }

    /// Stores aligned words that follow each other, as `store_u32` does each of them.
    fn store_words(&self, offset: u64, values: &[u32]) -> Result<()> {
        for (value, at) in values.iter().zip((offset..).step_by(4)) {
            self.store_u32(at, *value)?;
        }
        Ok(())
    }

    /// The first stretch of `range` that may hold something else than zeros.
    fn next_written(&self, range: Range<u64>) -> Result<Option<Range<u64>>>;

    /// Has the medium keep a range for this pool alone, written or not, where it does not do so by
    /// itself and can. hugetlbfs does when the range is mapped; tmpfs cannot without filling
    /// it.
    fn set_aside(&self, _range: Range<u64>) -> Result<()> {
        Ok(())
    }

    /// Makes sure that the medium has memory for a range before it is written to: a store to a
    /// sparse medium that is full kills the process.
    fn provide(&self, offset: u64, len: u64) -> Result<()>;

    /// Makes each chunk of a range one page of the medium with memory behind it; what they hold
    /// stays. False when not all of them are, whatever the reason.
    fn make_one_page(&self, _chunks: Range<u64>) -> Result<bool> {
        Ok(false)
    }

    /// True if it is worth calling `make_one_page`. After a refusal it is not for some time.
    fn may_make_one_page(&self) -> bool {
        false
    }

    /// Chunks of which `make_one_page` is best called at once, of `wanted`.
    fn pages_at_once(&self, wanted: usize) -> usize {
        wanted
    }

    /// True if `make_one_page` may make one page of a chunk: the medium has not refused it lately.
    fn is_likely_to_make_one_page(&self) -> bool {
        false
    }

    /// True if the chunk at an offset became one page by `make_one_page`, and is so still as far as
    /// this process knows.
    fn is_one_page(&self, _chunk: u64) -> bool {
        false
    }

    /// Sets whether `make_one_page` asks the medium. It does unless it is told not to.
    fn want_huge_pages(&self, _wanted: bool) {}

    /// Chunks that `make_one_page` found to be one page in the end.
    fn huge_pages_made(&self) -> u64 {
        0
    }
}
