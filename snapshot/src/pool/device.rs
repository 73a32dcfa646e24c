//! Pools on a device, which is there before and after the pool.

use std::fs::File;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::sync::Arc;

use super::create::{CreateOptions, format, is_at, open_medium};
use super::place;
use crate::catalog::read_current;
use crate::error::{Error, Result};
use crate::file_lock::{self, LockMode, LockPlace};
use crate::handle::Pool;
use crate::layout::{Layout, SIZE_BYTES_MIN, SUPERBLOCK_BLOCKS};
use crate::number::BLOCK_SIZE_BYTES;
use crate::random::random_uuid;
use crate::region::{Detected, MappedRegion, Medium, Region};

/// True when the path names a device.
pub(super) fn is_device(path: &Path) -> bool {
    path.metadata().is_ok_and(|metadata| {
        let kind = metadata.file_type();
        kind.is_char_device() || kind.is_block_device()
    })
}

impl Pool {
    /// The largest size of a pool on this device; `None` when the path is not that of a device.
    ///
    /// # Errors
    /// [`Error::NoDevice`], [`Error::NoDirectory`], [`Error::NoPlace`]: no pool can be made there.
    /// [`Error::Io`].
    pub fn device_size_bytes(path: &Path) -> Result<Option<u64>> {
        place::check(path)?;
        if !is_device(path) {
            return Ok(None);
        }
        Ok(Some(open_medium(path)?.1.len_bytes))
    }

    /// Makes a pool on a device, whose content is zeroed as far as the pool goes.
    pub(super) fn create_on_device(path: &Path, options: &CreateOptions) -> Result<Arc<Pool>> {
        let layout = Layout::for_size(options.size_bytes)?;
        let (file, Detected { medium, len_bytes }) = open_medium(path)?;
        if len_bytes < options.size_bytes {
            return Err(Error::NoSpaceOnMedium {
                medium: medium.name(),
                needed_bytes: options.size_bytes,
                available_bytes: len_bytes,
            });
        }
        let alone = lock_alone(&file, path)?;
        let region = MappedRegion::map(file, options.size_bytes, medium, options.overcommit)?;
        if !matches!(read_current(&region, path), Err(Error::NotAPool { .. })) {
            return Err(Error::HoldsPool {
                path: path.to_owned(),
            });
        }
        region.punch(0, options.size_bytes)?;
        region.flush(0, options.size_bytes)?;
        region.fence()?;
        format(&region, &layout, random_uuid()?, options.overcommit)?;
        drop((region, alone));
        Pool::open(path)
    }

    /// Deletes a pool that is not in use, with all its snapshots, also a damaged one or one of
    /// another version. Its file is removed; a device stays, with its bytes, but is no pool any
    /// more.
    ///
    /// # Errors
    /// [`Error::InUse`], [`Error::NotAPool`], [`Error::Io`].
    pub fn delete(path: &Path) -> Result<()> {
        let (file, medium, _alone) = loop {
            let (file, Detected { medium, .. }) = open_medium(path)?;
            let alone = lock_alone(&file, path)?;
            if is_at(&file, path)? {
                break (file, medium, alone);
            }
            // Somebody else has deleted it, and perhaps made another one.
        };
        let region = MappedRegion::map(file, SIZE_BYTES_MIN, medium, true)?;
        if let Err(error @ Error::NotAPool { .. }) = read_current(&region, path) {
            return Err(error);
        }
        if medium != Medium::Devdax {
            return std::fs::remove_file(path)
                .map_err(Error::io(format!("removing {}", path.display())));
        }
        let superblocks = vec![0; SUPERBLOCK_BLOCKS.len() * BLOCK_SIZE_BYTES as usize];
        region.write(0, &superblocks)?;
        region.flush(0, superblocks.len() as u64)?;
        region.fence()
    }
}

/// Locks a pool that nobody else has open, until the descriptor is closed.
fn lock_alone(file: &File, path: &Path) -> Result<File> {
    let alone = file_lock::reopen(file, path)?;
    if file_lock::try_lock(&alone, LockPlace::Open, LockMode::Exclusive)? {
        // So that whoever waits to open it can tell for whom. Nobody else can have it now.
        file_lock::try_lock(&alone, LockPlace::Catalog, LockMode::Exclusive)?;
        Ok(alone)
    } else {
        Err(Error::InUse {
            path: path.to_owned(),
        })
    }
}
