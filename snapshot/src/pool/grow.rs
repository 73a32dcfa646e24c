//! Making a pool larger while it is in use.
//!
//! The medium is made longer first and one more segment of zeros is an empty one, so the superblock
//! switch is all there is to it: before the switch the pool is the old one, on a medium that is too
//! long.

use serde::Serialize;

use crate::catalog_lock::{BlockSource, CatalogEdit, CatalogLock, Commit};
use crate::error::{Error, Result};
use crate::fault::{FaultPoint, fault_point};
use crate::handle::Pool;
use crate::layout::segment::Segment;
use crate::layout::superblock::SuperblockV2;
use crate::number::CHUNK_BLOCKS;
use crate::region::{Medium, available_bytes};

/// Options of a growth.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrowOptions {
    /// Its new size: a multiple of 2 MiB, at least 4 MiB more than now, at most 16 TiB.
    pub size_bytes: u64,
    /// Allows it to be larger than what its medium can keep, from now on.
    pub overcommit: bool,
}

/// The result of a growth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Grown {
    /// Size before.
    pub size_bytes_before: u64,
    /// Size now.
    pub size_bytes: u64,
    /// Free blocks that were added: what grew, without its tables.
    pub blocks_added: u64,
}

impl Pool {
    /// Makes the pool larger. Who has it open, in whatever process, can use the new space at once.
    ///
    /// # Errors
    /// [`Error::InvalidSize`], [`Error::NoSpaceOnMedium`], [`Error::FixedSize`], [`Error::Io`]. The
    /// pool is as it was then.
    pub fn grow(&self, options: &GrowOptions) -> Result<Grown> {
        let mut lock = CatalogLock::take(self)?;
        let layout = &self.store.layout;
        let (size_bytes_before, size_bytes) = (layout.size_bytes(), options.size_bytes);
        let segment = layout.next_segment(size_bytes)?;
        let overcommit = options.overcommit || self.overcommit();
        if !self.file_metadata()?.is_file() {
            let path = self.path().to_owned();
            return Err(Error::FixedSize { path });
        }
        if !overcommit {
            self.check_medium_can_keep(size_bytes)?;
        }
        let mut commit = Commit::begin(&mut lock, BlockSource::unleased())?;
        let superblock = self
            .lengthen(&mut commit, &segment, overcommit)
            .inspect_err(|_| {
                let old = self
                    .store
                    .region
                    .resize_medium(size_bytes_before, size_bytes_before);
                if let Err(error) = old {
                    tracing::warn!(
                        %error,
                        "could not take back the new length of a pool that did not grow"
                    );
                }
            })?;
        // Whether a switch that fails has reached the medium cannot be known: it stays as long as
        // it is.
        commit.switch(superblock.clone())?;
        fault_point(FaultPoint::GrowSwitched);
        commit.settle(|_| false);
        self.follow_growth(&superblock)?;
        let (_, fixed_blocks) = segment.fixed_blocks();
        Ok(Grown {
            size_bytes_before,
            size_bytes,
            blocks_added: u64::from(segment.chunks) * u64::from(CHUNK_BLOCKS) - fixed_blocks,
        })
    }

    /// All that the pool may still ask for must be there. Media but tmpfs have set aside what it
    /// has.
    fn check_medium_can_keep(&self, size_bytes: u64) -> Result<()> {
        use std::os::unix::fs::MetadataExt;
        let had_bytes = if self.medium == Medium::Tmpfs {
            self.file_metadata()?.blocks() * 512
        } else {
            self.store.layout.size_bytes()
        };
        let needed_bytes = size_bytes.saturating_sub(had_bytes);
        let available_bytes = available_bytes(self.file(), self.medium)?;
        if available_bytes < needed_bytes {
            return Err(Error::NoSpaceOnMedium {
                medium: self.medium.name(),
                needed_bytes,
                available_bytes,
            });
        }
        Ok(())
    }

    /// Makes the medium longer; the superblock that will say so.
    fn lengthen(
        &self,
        commit: &mut Commit<'_, '_>,
        segment: &Segment,
        overcommit: bool,
    ) -> Result<SuperblockV2> {
        let mut superblock = commit.prepare(&CatalogEdit::default())?;
        superblock.add_segment(segment);
        superblock.set_overcommit(overcommit);
        let (region, size_bytes) = (&self.store.region, superblock.size_bytes.get());
        let size_bytes_before = self.store.layout.size_bytes();
        region.resize_medium(size_bytes_before, size_bytes)?;
        if !overcommit {
            region.set_aside(size_bytes_before..size_bytes)?;
        }
        fault_point(FaultPoint::GrowLengthened);
        region.extend(size_bytes, overcommit)?;
        let (start, len) = segment.chunk_table();
        region.provide(start, len)?;
        Ok(superblock)
    }

    /// A medium that is longer than the pool is what a growth leaves that was cut off.
    pub(super) fn cut_off_unfinished_growth(&self, _lock: &CatalogLock<'_>) -> Result<()> {
        let metadata = self.file_metadata()?;
        let size_bytes = self.store.layout.size_bytes();
        if metadata.is_file() && metadata.len() > size_bytes {
            tracing::info!(
                pool = %self.path().display(),
                "the pool's file was longer than the pool: cut off"
            );
            self.store.region.resize_medium(size_bytes, size_bytes)?;
        }
        Ok(())
    }

    fn file_metadata(&self) -> Result<std::fs::Metadata> {
        let metadata = self.file().metadata();
        metadata.map_err(Error::io("looking at the pool's file"))
    }
}

#[cfg(test)]
#[path = "grow_test.rs"]
mod grow_test;
