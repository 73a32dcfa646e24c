//! One capture or restart at a time.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// A process in the making has for a moment all that the agent has open, so nobody looks for who
/// has what meanwhile.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

pub fn one_at_a_time() -> MutexGuard<'static, ()> {
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}
