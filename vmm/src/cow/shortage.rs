//! Times in which accesses to guest RAM, or requests to disks of the pool, wait for space or for
//! the pool's lock.

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

/// Reason for which accesses wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Reason {
    /// Memory arrives from an object store.
    Arriving,
    /// Another process has the pool's lock, and is expected to give it back.
    Lock,
    /// Another process has the pool's lock, and is not expected to give it back.
    LockForLong,
    /// Something is used up.
    Lacks(Lack),
}

/// All reasons; their numbers in [`Shortage::reason`] are their places here, from 1 on.
const REASONS: [Reason; 7] = [
    Reason::Arriving,
    Reason::Lock,
    Reason::LockForLong,
    Reason::Lacks(Lack::Blocks),
    Reason::Lacks(Lack::Medium),
    Reason::Lacks(Lack::Kernel),
    Reason::Lacks(Lack::Store),
];

/// Begins and ends with accesses and requests that find no space, or the pool locked.
#[derive(Default)]
pub(super) struct Shortage {
    /// The reason for which accesses to memory wait, as a number; 0: none waits.
    memory: AtomicU8,
    /// The same for requests to disks of the pool.
    disks: AtomicU8,
    /// The lock also puts changes in order: the listener hears of each, the last one last.
    listener: Mutex<Option<Listener>>,
}

impl Shortage {
    /// True while one of them waits, and not only for memory that arrives.
    pub fn lasts(&self) -> bool {
        self.reason()
            .is_some_and(|reason| reason > Reason::Arriving)
    }

    /// The gravest reason for which any waits now.
    pub fn reason(&self) -> Option<Reason> {
        let reasons = [&self.memory, &self.disks];
        let reasons = reasons.map(|reason| of_number(reason.load(Ordering::Relaxed)));
        reasons.into_iter().max().flatten()
    }

    /// Sets the state of accesses to memory. Returns the former one if it has changed.
    pub fn set(&self, reason: Option<Reason>) -> Option<Option<Reason>> {
        self.swap(&self.memory, reason)
    }

    /// The same for requests to disks.
    pub fn set_of_disks(&self, reason: Option<Reason>) -> Option<Option<Reason>> {
        self.swap(&self.disks, reason)
    }

    fn swap(&self, of: &AtomicU8, reason: Option<Reason>) -> Option<Option<Reason>> {
        let listener = lock(&self.listener);
        let lasted = self.lasts();
        let before = of_number(of.swap(number(reason), Ordering::Relaxed));
        if lasted != self.lasts()
            && let Some(listener) = &*listener
        {
            listener(!lasted);
        }
        (before != reason).then_some(before)
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

fn number(reason: Option<Reason>) -> u8 {
    let place = reason.and_then(|reason| REASONS.iter().position(|known| *known == reason));
    place.map_or(0, |place| place as u8 + 1)
}

fn of_number(number: u8) -> Option<Reason> {
    let place = usize::from(number).checked_sub(1)?;
    REASONS.get(place).copied()
}

impl fmt::Debug for Shortage {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Shortage")
            .field("reason", &self.reason())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
#[path = "shortage_test.rs"]
mod shortage_test;
