//! Requests that wait for space in the pool: the VM is held as long as one does.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nvvmm_snapshot::Error;

/// Time that a request waits before it asks a full pool again, at least.
const RETRY_MIN: Duration = Duration::from_millis(20);
/// The same at most, where asking takes long.
const RETRY_MAX: Duration = Duration::from_secs(1);
/// Time between two tries, as a multiple of the time that a try takes.
const RETRY_REST: u32 = 20;

/// Something that a request waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanting {
    /// A free block of the pool.
    Blocks,
    /// Space of the medium behind a free block.
    Medium,
    /// The pool's lock, which another process has.
    Lock {
        /// True if that process is not expected to give it back.
        for_long: bool,
    },
}

/// Hears of what a request waits for; `None` when it goes on.
pub type SpaceListener = Box<dyn Fn(Option<Wanting>) + Send>;

/// Waits of the requests of one disk.
#[derive(Default)]
pub(super) struct Space {
    listener: Mutex<Option<SpaceListener>>,
}

impl Space {
    /// Has this listener hear, and no other one any more.
    pub fn tell(&self, listener: SpaceListener) {
        *self.listener() = Some(listener);
    }

    fn listener(&self) -> MutexGuard<'_, Option<SpaceListener>> {
        self.listener.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn say(&self, wanting: Option<Wanting>) {
        if let Some(listener) = &*self.listener() {
            listener(wanting);
        }
    }

    /// Does something as often as it needs, until there is space for it.
    ///
    /// # Errors
    /// Any but those that space mends.
    pub fn wait_for(&self, mut act: impl FnMut() -> Result<(), Error>) -> Result<(), Error> {
        let mut has_waited = false;
        loop {
            let began = Instant::now();
            let done = act();
            let Some(wanting) = done.as_ref().err().and_then(wanted) else {
                if has_waited {
                    self.say(None);
                }
                return done;
            };
            self.say(Some(wanting));
            has_waited = true;
            let rest = began.elapsed() * RETRY_REST;
            std::thread::sleep(rest.clamp(RETRY_MIN, RETRY_MAX));
        }
    }
}

/// The thing that would mend an error.
fn wanted(error: &Error) -> Option<Wanting> {
    match error {
        Error::PoolFull { .. } => Some(Wanting::Blocks),
        Error::MediumFull { .. } | Error::NoSpaceOnMedium { .. } => Some(Wanting::Medium),
        Error::PoolLocked { hopeless, .. } => Some(Wanting::Lock {
            for_long: *hopeless,
        }),
        _ => None,
    }
}

#[cfg(test)]
#[path = "space_test.rs"]
mod space_test;
