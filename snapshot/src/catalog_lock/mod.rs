//! The catalog lock, and all that changes the catalog under it.

mod amend;
mod commit;
mod remove;
mod upgrade;

use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Instant;

pub(crate) use commit::{BlockSource, CatalogEdit, Commit};
pub use remove::Removed;

use crate::catalog::{CatalogMemory, Current, InodeCache, Listing, read_current};
use crate::error::{Error, Result};
use crate::file_lock::{self, LockMode, LockPlace};
use crate::handle::Pool;
use crate::layout::HOLDER_SLOTS;
use crate::lock_times::Held;
use crate::number::SnapshotId;
use crate::store::BlockStore;

/// Waits for the other threads of this process, whose work is its own, and not for other processes:
/// meanwhile other threads can look, too.
fn try_both(pool: &Pool) -> Result<Option<MutexGuard<'_, CatalogMemory>>> {
    let memory = pool.catalog.lock().unwrap_or_else(|poisoned| {
        let mut memory = PoisonError::into_inner(poisoned);
        *memory = CatalogMemory::default();
        memory
    });
    let locked = file_lock::try_lock(pool.file(), LockPlace::Catalog, LockMode::Exclusive)?;
    Ok(locked.then_some(memory))
}

/// The right to read and change the catalog: a lock among the threads of the process and among
/// processes.
pub(crate) struct CatalogLock<'p> {
    pub(crate) pool: &'p Pool,
    memory: MutexGuard<'p, CatalogMemory>,
    held: Held,
}

impl<'p> CatalogLock<'p> {
    /// Takes the lock without looking at the dirty word.
    ///
    /// # Errors
    /// [`Error::PoolLocked`] when another process has it for too long.
    pub(crate) fn take_unrecovered(pool: &'p Pool) -> Result<CatalogLock<'p>> {
        let asked = Instant::now();
        let memory = match try_both(pool)? {
            Some(memory) => {
                pool.waits.ended();
                memory
            }
            None => pool
                .waits
                .until(LockPlace::Catalog, pool.file(), pool.path(), || {
                    try_both(pool)
                })?,
        };
        let held = pool.store.times.taken(asked);
        let mut lock = CatalogLock { pool, memory, held };
        let current = read_current(&*pool.store.region, pool.path())?;
        if lock
            .memory
            .current
            .as_ref()
            .is_none_or(|known| known.generation() != current.generation())
        {
            lock.memory.listing = None;
        }
        pool.follow_growth(&current.superblock)?;
        lock.memory.current = Some(current);
        Ok(lock)
    }

    pub(crate) fn store(&self) -> &'p BlockStore {
        &self.pool.store
    }

    /// The committed superblock.
    pub(crate) fn current(&self) -> Result<&Current> {
        self.memory
            .current
            .as_ref()
            .ok_or_else(|| Error::damaged("no superblock was read"))
    }

    fn set_current(&mut self, current: Current) {
        self.memory.current = Some(current);
        self.memory.listing = None;
    }

    /// All inodes of the committed catalog.
    pub(crate) fn listing(&mut self) -> Result<Arc<Listing>> {
        if let Some(listing) = &self.memory.listing {
            return Ok(Arc::clone(listing));
        }
        let root = self
            .current()?
            .superblock
            .catalog_root(&self.store().layout)?;
        let store = self.store();
        let listing = Arc::new(Listing::read(store, root, &mut self.memory.inodes)?);
        self.memory.listing = Some(Arc::clone(&listing));
        Ok(listing)
    }

    /// Makes a commit good that may have been cut off at its superblock.
    pub(crate) fn confirm_superblock(&mut self) -> Result<()> {
        let region = &*self.pool.store.region;
        self.memory
            .current
            .as_mut()
            .map_or(Ok(()), |current| current.confirm(region))
    }

    /// Forgets what was read: the next look goes to the pool.
    pub(crate) fn forget(&mut self) {
        self.memory.listing = None;
        self.memory.inodes = InodeCache::default();
    }

    /// True when the process of a holder slot lives.
    pub(crate) fn holder_lives(&self, slot: u32) -> Result<bool> {
        file_lock::is_locked_elsewhere(self.pool.file(), LockPlace::Holder(slot))
    }

    /// The living holders that pin a snapshot.
    pub(crate) fn holders_pinning(&self, id: SnapshotId) -> Result<Vec<u32>> {
        let mut slots = Vec::new();
        for slot in 0..HOLDER_SLOTS {
            if self.store().holder_slot_is_used(slot)?
                && self
                    .store()
                    .holder_slot(slot)?
                    .pinned()
                    .any(|pinned| pinned == id)
                && self.holder_lives(slot)?
            {
                slots.push(slot);
            }
        }
        Ok(slots)
    }
}

impl Drop for CatalogLock<'_> {
    fn drop(&mut self) {
        if let Err(error) = file_lock::unlock(self.pool.file(), LockPlace::Catalog) {
            tracing::error!(%error, "could not unlock the pool");
        }
        self.pool.store.times.given_back(&self.held);
        self.pool.store.waiting_chunks.tell();
    }
}
