//! Locking that does not spread a panic of one thread to all others.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks `mutex`, also when another thread panicked while holding it: every device state is valid
/// between any two register accesses, and a VM must stay stoppable.
pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
