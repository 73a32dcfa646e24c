//! A medium that does not do what it says: what the crash tests must find.

use std::ops::Range;

/// A duty that is not done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Undone {
    Flush,
    Fence,
    Punch,
    /// A store to one of these bytes.
    Write(Range<u64>),
}

/// Every so many-th of its kind is not done.
#[derive(Debug, Clone)]
pub(crate) struct Lie {
    undone: Undone,
    every: u32,
    seen: u32,
}

impl Lie {
    pub(crate) fn about(undone: Undone, every: u32) -> Lie {
        Lie {
            undone,
            every,
            seen: 0,
        }
    }

    pub(super) fn forgets(&mut self, what: &Undone) -> bool {
        self.undone == *what && self.is_due()
    }

    pub(super) fn forgets_write(&mut self, offset: u64) -> bool {
        matches!(&self.undone, Undone::Write(bytes) if bytes.contains(&offset)) && self.is_due()
    }

    fn is_due(&mut self) -> bool {
        self.seen += 1;
        self.seen.is_multiple_of(self.every)
    }
}
