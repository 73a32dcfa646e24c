//! The right to clean freed blocks: a lock among the threads of the process and among processes.
//!
//! Whoever needs the catalog lock as well takes that one first. Nobody holds it for longer than it
//! takes to clean a piece of a chunk, but recovery and a check.

use std::sync::{MutexGuard, PoisonError};

use crate::error::Result;
use crate::file_lock::{self, LockMode, LockPlace};
use crate::handle::Pool;

pub(crate) struct CleanerLock<'p> {
    pool: &'p Pool,
    _thread: MutexGuard<'p, ()>,
}

impl<'p> CleanerLock<'p> {
    /// Takes the lock.
    ///
    /// # Errors
    /// [`crate::Error::PoolLocked`] when another process has it for too long.
    pub(crate) fn take(pool: &'p Pool) -> Result<CleanerLock<'p>> {
        if let Some(lock) = CleanerLock::try_take(pool)? {
            pool.cleaner_waits.ended();
            return Ok(lock);
        }
        pool.cleaner_waits
            .until(LockPlace::Cleaner, pool.file(), pool.path(), || {
                CleanerLock::try_take(pool)
            })
    }

    /// Takes the lock, unless another process has it.
    pub(crate) fn try_take(pool: &'p Pool) -> Result<Option<CleanerLock<'p>>> {
        let thread = pool.cleaner.lock().unwrap_or_else(PoisonError::into_inner);
        let locked = file_lock::try_lock(pool.file(), LockPlace::Cleaner, LockMode::Exclusive)?;
        Ok(locked.then_some(CleanerLock {
            pool,
            _thread: thread,
        }))
    }
}

impl Drop for CleanerLock<'_> {
    fn drop(&mut self) {
        if let Err(error) = file_lock::unlock(self.pool.file(), LockPlace::Cleaner) {
            tracing::error!(%error, "could not end the cleaning of freed blocks");
        }
    }
}
