//! Whether an access to guest RAM waits for space, and who is told.

use std::{
    fmt,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use super::engine::lock;

/// Told `true` when an access begins to wait for space, `false` when none does any more.
type Listener = Box<dyn Fn(bool) + Send>;

/// Begins and ends with the fault thread's accesses that find no space.
#[derive(Default)]
pub(super) struct Shortage {
    lasts: AtomicBool,
    /// Its lock also puts changes in order: the listener hears of each, the last one last.
    listener: Mutex<Option<Listener>>,
}

impl Shortage {
    pub fn lasts(&self) -> bool {
        self.lasts.load(Ordering::Relaxed)
    }

    /// Answers whether that is news.
    pub fn set(&self, lasts: bool) -> bool {
        let listener = lock(&self.listener);
        let is_news = self.lasts.swap(lasts, Ordering::Relaxed) != lasts;
        if is_news && let Some(listener) = &*listener {
            listener(lasts);
        }
        is_news
    }

    /// From here on `listener` is told; at once if a shortage lasts.
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
