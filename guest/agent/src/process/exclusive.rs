//! One capture or restart at a time.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Held during a capture or restart. For a moment a stub has all files of the agent open, so nobody
/// may look meanwhile for the processes that have a file open.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Waits for the turn of this capture or restart.
pub fn one_at_a_time() -> MutexGuard<'static, ()> {
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}
