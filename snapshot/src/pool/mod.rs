//! A pool as its users see it.

mod check;
mod create;
mod device;
mod grow;
mod inside;
mod map;
mod snapshots;
mod status;

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

pub use check::CheckReport;
pub use create::CreateOptions;
#[cfg(test)]
pub(crate) use create::format;
pub use grow::{GrowOptions, Grown};
pub use inside::{
    InodePlace, MapInside, PoolInside, Reference, SegmentInside, SnapshotInside, SuperblockInside,
};
pub use map::{ChunkUse, PoolMap, SnapshotSpace};
pub use snapshots::{MapEntry, SnapshotEntry};
pub use status::{HolderStatus, PoolStatus};

use crate::catalog::{CatalogLock, CatalogMemory, PoolWrites, WriteCounters};
use crate::error::{Error, Result};
use crate::fault::{FaultPoint, fault_point};
use crate::file_lock::{self, LockMode, LockPlace};
use crate::layout::runtime::{CLEAN, CLEAN_OFFSET, DIRTY, DIRTY_OFFSET};
use crate::number::{BLOCK_SIZE_BYTES, BlockNo, CHUNK_BLOCKS};
use crate::region::{Durability, DurabilityLimit, Medium};
use crate::store::BlockStore;

/// An open pool. Any number of processes, and of `Pool` values in a process, may have the same pool
/// open.
pub struct Pool {
    path: PathBuf,
    file: File,
    medium: Medium,
    durability: DurabilityLimit,
    uuid: [u8; 16],
    overcommit: AtomicBool,
    pub(crate) store: BlockStore,
    pub(crate) catalog: Mutex<CatalogMemory>,
    pub(crate) writes: WriteCounters,
    next_chunk: AtomicU32,
    /// Opening went well: until then, closing must not say that the pool is in order.
    in_order: AtomicBool,
}

impl Pool {
    /// The pool's file, to map: block `b` is at byte `b * 4096`.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Where the pool is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The kind of medium that the pool is on.
    pub fn medium(&self) -> Medium {
        self.medium
    }

    /// What committed snapshots survive: every commit is as durable as the pool can make it.
    pub fn durability(&self) -> &DurabilityLimit {
        &self.durability
    }

    /// Refuses where the pool cannot be that durable.
    ///
    /// # Errors
    /// [`Error::NotDurable`].
    pub fn require_durability(&self, asked: Durability) -> Result<()> {
        if asked <= self.durability.strongest {
            return Ok(());
        }
        let limit = self.durability.clone();
        Err(Error::NotDurable { asked, limit })
    }

    /// Size of the pool, as far as this process has seen it grow.
    pub fn size_bytes(&self) -> u64 {
        self.store.layout.size_bytes()
    }

    /// What commits through this value have written so far.
    pub fn writes(&self) -> PoolWrites {
        self.writes.so_far()
    }

    /// Whether the pool may promise more than its medium has.
    pub fn overcommit(&self) -> bool {
        self.overcommit.load(Ordering::Relaxed)
    }

    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    pub(crate) fn next_chunk(&self) -> u32 {
        self.next_chunk.load(Ordering::Relaxed)
    }

    pub(crate) fn set_next_chunk(&self, chunk: u32) {
        self.next_chunk.store(chunk, Ordering::Relaxed);
    }

    /// Copies a block out: of a snapshot that is pinned, or one that is mine.
    ///
    /// # Errors
    /// [`Error::Damaged`] when the pool has no such block.
    pub fn read_block(
        &self,
        block: BlockNo,
        into: &mut [u8; BLOCK_SIZE_BYTES as usize],
    ) -> Result<()> {
        self.store.read_block(block, into)
    }

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
            tracing::warn!(%error, pool = %self.path.display(), "could not close the pool in order: it is checked when opened");
        }
    }
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Pool")
            .field("path", &self.path)
            .field("medium", &self.medium)
            .finish_non_exhaustive()
    }
}
