//! Operations on a pool as a whole: create, open, grow, check, list.

mod check;
mod create;
mod device;
mod grow;
mod inside;
mod map;
mod place;
mod snapshots;
mod status;

use std::sync::atomic::Ordering;

pub use check::CheckReport;
pub use create::CreateOptions;
#[cfg(test)]
pub(crate) use create::{STAYS_OLD, format};
pub use grow::{GrowOptions, Grown};
pub use inside::{
    InodePlace, MapInside, PoolInside, Reference, SegmentInside, SnapshotInside, SuperblockInside,
};
pub use map::{ChunkUse, PoolMap, SnapshotSpace};
pub use snapshots::{MapEntry, SnapshotEntry};
pub use status::{HolderStatus, PoolStatus};

use crate::catalog_lock::CatalogLock;
use crate::error::Result;
use crate::fault::{FaultPoint, fault_point};
use crate::file_lock::{self, LockMode, LockPlace};
use crate::handle::Pool;
use crate::layout::runtime::{CLEAN, CLEAN_OFFSET, DIRTY, DIRTY_OFFSET};
use crate::number::{BLOCK_SIZE_BYTES, CHUNK_BLOCKS};

impl Pool {
    /// Blocks that no snapshot has and nobody has leased.
    pub(crate) fn free_blocks(&self, _lock: &CatalogLock<'_>) -> Result<u64> {
        let mut free = 0;
        for chunk in self.store.layout.data_chunks() {
            if self.store.lease_owner(chunk)?.is_none() {
                free += u64::from(CHUNK_BLOCKS.saturating_sub(self.store.used_blocks(chunk)?));
            }
        }
        Ok(free)
    }
}

impl Drop for Pool {
    /// The last one to close the pool notes that it was closed in order.
    fn drop(&mut self) {
        let close = || -> Result<()> {
            if self.in_order.load(Ordering::Relaxed) {
                // Whoever has freed blocks does not leave them to others.
                self.clean_all()?;
            }
            if !self.in_order.load(Ordering::Relaxed)
                || !file_lock::try_lock(&self.file, LockPlace::Open, LockMode::Exclusive)?
            {
                return Ok(());
            }
            let lock = CatalogLock::take_unrecovered(self)?;
            if self.store.region.load_u32(DIRTY_OFFSET)? != DIRTY {
                let region = &lock.store().region;
                for segment in self.store.layout.segments() {
                    let (first, blocks) = segment.fixed_blocks();
                    region.flush(first.byte_offset(), blocks * BLOCK_SIZE_BYTES)?;
                }
                region.fence()?;
                fault_point(FaultPoint::CloseFlushed);
                region.store_u32(CLEAN_OFFSET, CLEAN)?;
                region.flush(CLEAN_OFFSET, 4)?;
                region.fence()?;
            }
            Ok(())
        };
        if let Err(error) = close() {
            tracing::warn!(
                %error,
                pool = %self.path.display(),
                "could not close the pool in order: it is checked when opened"
            );
        }
    }
}
