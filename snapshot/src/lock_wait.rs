//! Waits for a lock that another process has: each has a limit, and names that process.

use std::cell::Cell;
use std::fs::File;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::file_lock::{LockPlace, holder_of};
use crate::lock_holder::LockHolder;
use crate::other_process::WaitLimit;

/// Time between two tries to take a lock, at first and at last. A lock is usually held for less
/// than the first.
const RETRY_MIN: Duration = Duration::from_micros(20);
const RETRY_MAX: Duration = Duration::from_millis(5);
/// Time between two tries from which on a wait is long enough to look at the holder.
const LOOK_FROM: Duration = Duration::from_millis(1);
/// Time between two looks at the holder.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Wait after which people are told.
const TELL_AFTER: Duration = Duration::from_secs(2);
/// A wait that nobody has looked at for so long is over.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(3);

thread_local! {
    static PATIENCE: Cell<Option<Duration>> = const { Cell::new(None) };
}

/// Has this thread wait for a lock of a pool only so long in one go. [`Error::PoolLocked`] then
/// says that it may try again. For a thread that others wait for.
pub fn wait_for_locks_at_most(patience: Duration) {
    PATIENCE.set(Some(patience));
}

/// A wait of this process for the pool's lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LockWait {
    /// The process that has the lock.
    pub holder: LockHolder,
    /// Time waited since that process took it.
    pub waited: Duration,
    /// The holder is stopped, or has done nothing for too long: operations are refused.
    pub hopeless: bool,
}

/// The waits of one open pool, if there are any.
#[derive(Debug, Default)]
pub(crate) struct LockWaits {
    /// True while there may be a wait: spares who finds the lock free a look at the mutex.
    lasts: AtomicBool,
    wait: Mutex<Option<Wait>>,
}

#[derive(Debug)]
struct Wait {
    holder: LockHolder,
    limit: WaitLimit,
    looked: Instant,
    hopeless: bool,
    told: bool,
}

impl LockWaits {
    fn wait(&self) -> MutexGuard<'_, Option<Wait>> {
        self.wait.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls `attempt` until it gives something, as often as the lock of a place may become free.
    ///
    /// # Errors
    /// [`Error::PoolLocked`], and those of `attempt`.
    pub(crate) fn until<T>(
        &self,
        place: LockPlace,
        file: &File,
        path: &Path,
        mut attempt: impl FnMut() -> Result<Option<T>>,
    ) -> Result<T> {
        let mut pause = RETRY_MIN;
        loop {
            if let Some(done) = attempt()? {
                self.ended();
                return Ok(done);
            }
            if pause >= LOOK_FROM {
                let wait = self.look(place, file, path)?;
                let in_a_hurry = PATIENCE.get().is_some_and(|most| wait.waited >= most);
                if wait.hopeless || in_a_hurry {
                    return Err(Error::PoolLocked {
                        holder: wait.holder,
                        hopeless: wait.hopeless,
                    });
                }
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(RETRY_MAX);
        }
    }

    /// The lock was taken.
    pub(crate) fn ended(&self) {
        if self.lasts.load(Ordering::Relaxed) {
            let mut wait = self.wait();
            self.lasts.store(false, Ordering::Relaxed);
            *wait = None;
        }
    }

    /// The wait that lasts, if one does.
    pub(crate) fn now(&self) -> Option<LockWait> {
        if !self.lasts.load(Ordering::Relaxed) {
            return None;
        }
        let wait = self.wait();
        let wait = wait.as_ref()?;
        (wait.looked.elapsed() < FORGOTTEN_AFTER).then(|| wait.as_seen())
    }

    /// Looks who has the lock.
    fn look(&self, place: LockPlace, file: &File, path: &Path) -> Result<LockWait> {
        let mut lasting = self.wait();
        if let Some(wait) = &*lasting
            && wait.looked.elapsed() < LOOK_EVERY
        {
            return Ok(wait.as_seen());
        }
        let holder = holder_of(file, place)?.unwrap_or(LockHolder::UNKNOWN);
        self.lasts.store(true, Ordering::Relaxed);
        let wait = match &mut *lasting {
            Some(wait) if wait.looked.elapsed() < FORGOTTEN_AFTER => wait,
            other => other.insert(Wait {
                holder,
                limit: WaitLimit::default(),
                looked: Instant::now(),
                hopeless: false,
                told: false,
            }),
        };
        wait.holder = holder;
        wait.looked = Instant::now();
        wait.hopeless = wait.limit.is_reached(holder.pid(), holder.turn());
        if wait.limit.waited() >= TELL_AFTER && !wait.told {
            wait.told = true;
            tracing::warn!(
                "waits for the lock of pool {}, held by {holder}",
                path.display()
            );
        }
        Ok(wait.as_seen())
    }
}

impl Wait {
    fn as_seen(&self) -> LockWait {
        LockWait {
            holder: self.holder,
            waited: self.limit.waited(),
            hopeless: self.hopeless,
        }
    }
}

#[cfg(test)]
#[path = "lock_wait_test.rs"]
mod lock_wait_test;
