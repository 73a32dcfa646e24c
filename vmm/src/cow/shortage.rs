//! Times in which accesses to guest RAM wait for space.

use std::{
    fmt,
    sync::{
        Mutex,
        atomic::{AtomicU8, Ordering},
    },
};

use super::{Lack, counters::lock};

/// Called with true when an access begins to wait for space, with false when none does any more.
type Listener = Box<dyn Fn(bool) + Send>;

/// Begins and ends with the fault thread's accesses that find no space.
#[derive(Default)]
pub(super) struct Shortage {
    /// The number of what is used up, counted from 1; 0 while nothing is.
    lack: AtomicU8,
    /// The lock also puts changes in order: the listener hears of each, the last one last.
    listener: Mutex<Option<Listener>>,
}

const LACKS: [Lack; 3] = [Lack::Blocks, Lack::Medium, Lack::Kernel];

fn number(lack: Option<Lack>) -> u8 {
    let place = lack.and_then(|lack| LACKS.iter().position(|known| *known == lack));
    place.map_or(0, |place| place as u8 + 1)
}

impl Shortage {
    /// The lack that accesses wait for the end of, while any waits.
    pub fn of(&self) -> Option<Lack> {
        let number = usize::from(self.lack.load(Ordering::Relaxed));
        LACKS.get(number.checked_sub(1)?).copied()
    }

    /// True while an access waits.
    pub fn lasts(&self) -> bool {
        self.of().is_some()
    }

    /// Sets the state. Returns true if it has changed.
    pub fn set(&self, lack: Option<Lack>) -> bool {
        let listener = lock(&self.listener);
        let before = self.lack.swap(number(lack), Ordering::Relaxed);
        if (before == 0) != lack.is_none()
            && let Some(listener) = &*listener
        {
            listener(lack.is_some());
        }
        before != number(lack)
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
            .field("of", &self.of())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
#[path = "shortage_test.rs"]
mod shortage_test;
