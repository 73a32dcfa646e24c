//! Memory that a medium gives to a file and takes back from it.

use std::fs::File;
use std::ops::Range;

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::unistd::{Whence, lseek};

use super::{Medium, available_bytes};
use crate::error::{Error, Result};

/// Has the medium give what a range takes. False when it cannot be asked.
pub(super) fn provide(file: &File, medium: Medium, range: Range<u64>) -> Result<bool> {
    let needed_bytes = range.end - range.start;
    match change(file, FallocateFlags::FALLOC_FL_KEEP_SIZE, range)? {
        Ok(()) => Ok(true),
        Err(Errno::EOPNOTSUPP | Errno::ENOSYS | Errno::ENODEV) => Ok(false),
        Err(Errno::ENOSPC | Errno::ENOMEM | Errno::EDQUOT) => Err(Error::MediumFull {
            medium: medium.name(),
            needed_bytes,
            available_bytes: available_bytes(file, medium)?,
        }),
        Err(errno) => Err(Error::io("asking the medium for space for the pool")(errno)),
    }
}

/// Makes a range read as zero and gives it back to the medium, or, where it is `kept`, leaves it to
/// the file. False when the medium cannot do it.
pub(super) fn discard(file: &File, range: Range<u64>, kept: bool) -> Result<bool> {
    let mode = if kept {
        FallocateFlags::FALLOC_FL_ZERO_RANGE
    } else {
        FallocateFlags::FALLOC_FL_PUNCH_HOLE
    };
    match change(
        file,
        mode | FallocateFlags::FALLOC_FL_KEEP_SIZE,
        range.clone(),
    )? {
        Ok(()) => Ok(true),
        Err(Errno::EOPNOTSUPP | Errno::ENOSYS | Errno::ENODEV | Errno::EPERM) => Ok(false),
        Err(errno) => {
            tracing::warn!(%errno, ?range, "the medium did not take back free blocks of the pool");
            Ok(false)
        }
    }
}

fn change(file: &File, mode: FallocateFlags, range: Range<u64>) -> Result<nix::Result<()>> {
    let (offset, len) = (signed(range.start)?, signed(range.end - range.start)?);
    loop {
        match fallocate(file, mode, offset, len) {
            Err(Errno::EINTR) => {}
            done => return Ok(done),
        }
    }
}

/// The first stretch of a range that is no hole. A file system that tells no holes has none.
pub(super) fn first_written(file: &File, range: Range<u64>) -> Result<Option<Range<u64>>> {
    let start = match lseek(file, signed(range.start)?, Whence::SeekData) {
        Ok(start) => (start as u64).max(range.start),
        Err(Errno::ENXIO) => return Ok(None),
        Err(_) => return Ok(Some(range)),
    };
    if start >= range.end {
        return Ok(None);
    }
    let end = lseek(file, signed(start)?, Whence::SeekHole).map_or(range.end, |end| end as u64);
    Ok(Some(start..end.clamp(start + 1, range.end)))
}

/// Bytes that are looked at in one go where a medium does not tell its holes.
const SCAN_BYTES: u64 = 64 << 10;
static ZEROS: [u8; SCAN_BYTES as usize] = [0; SCAN_BYTES as usize];

/// The first piece of a range with something else than zeros. `read` may read less than was asked
/// for: what is missing is zero.
pub(super) fn first_not_zero(
    range: Range<u64>,
    read: impl Fn(u64, &mut [u8]) -> Result<usize>,
) -> Result<Option<Range<u64>>> {
    let mut bytes = vec![0; SCAN_BYTES.min(range.end.saturating_sub(range.start)) as usize];
    let mut at = range.start;
    while at < range.end {
        let end = range.end.min(at + SCAN_BYTES);
        let piece = &mut bytes[..(end - at) as usize];
        let count = read(at, piece)?;
        if piece[..count] != ZEROS[..count] {
            return Ok(Some(at..end));
        }
        at = end;
    }
    Ok(None)
}

pub(super) fn signed(offset: u64) -> Result<i64> {
    i64::try_from(offset)
        .map_err(|_| Error::damaged(format!("the offset {offset} is beyond any file")))
}
