//! Times in which accesses to guest RAM wait for space.

use std::{
    fmt,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use super::counters::lock;

/// Called with true when an access begins to wait for space, with false when none does any more.
type Listener = Box<dyn Fn(bool) + Send>;

/// Begins and ends with the fault thread's accesses that find no space.
#[derive(Default)]
pub(super) struct Shortage {
    lasts: AtomicBool,
    /// The lock also puts changes in order: the listener hears of each, the last one last.
    listener: Mutex<Option<Listener>>,
}

impl Shortage {
    /// True while an access waits.
    pub fn lasts(&self) -> bool {
        self.lasts.load(Ordering::Relaxed)
    }

    /// Sets the state. Returns true if it has changed.
    pub fn set(&self, lasts: bool) -> bool {
        let listener = lock(&self.listener);
        let is_news = self.lasts.swap(lasts, Ordering::Relaxed) != lasts;
        if is_news && let Some(listener) = &*listener {
            listener(lasts);
        }
        is_news
    }

    /// Calls `listener` from here on; at once if a shortage lasts.
    pub fn tell(&self, listener: Listener) {
        let mut told = lock(&self.listener);
        if self.lasts() {
            listener(true);
        }
        *told = Some(listener);
    }
}

impl fmt::Debug for Shortage {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Shortage")
            .field("lasts", &self.lasts())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
#[path = "shortage_test.rs"]
mod shortage_test;
