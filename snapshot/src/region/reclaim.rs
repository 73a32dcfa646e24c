//! Freed blocks: whether their memory goes back to the medium, and in which pieces.

use std::fs::File;
use std::os::unix::fs::MetadataExt;

use super::Medium;
use crate::error::{Error, Result};
use crate::number::CHUNK_SIZE_BYTES;

/// The way in which freed blocks become zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reclaim {
    /// Their memory goes back to the medium.
    Punch,
    /// The file keeps their space, which was set aside for it; the file system zeroes them.
    Keep,
    /// Zeros are stored: the medium takes nothing back, or it would not set aside again what it
    /// took (hugetlbfs).
    Store,
}

impl Reclaim {
    /// On a medium, for a pool that may promise more than the medium has, or not.
    pub(super) fn on(medium: Medium, overcommit: bool) -> Reclaim {
        match medium {
            Medium::Devdax => Reclaim::Store,
            Medium::Hugetlbfs if !overcommit => Reclaim::Store,
            Medium::Fsdax | Medium::File if !overcommit => Reclaim::Keep,
            _ => Reclaim::Punch,
        }
    }
}

/// The unit in which the medium gives and takes back. A tmpfs with huge pages (`huge=`) says so by
/// the size that it likes to be read in.
pub(super) fn page_bytes(file: &File, medium: Medium) -> Result<u64> {
    let metadata = file
        .metadata()
        .map_err(Error::io("looking at the pool's file"))?;
    Ok(
        if medium == Medium::Tmpfs && metadata.blksize() >= CHUNK_SIZE_BYTES {
            CHUNK_SIZE_BYTES
        } else {
            medium.page_bytes()
        },
    )
}
