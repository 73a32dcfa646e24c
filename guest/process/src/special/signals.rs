//! signalfd(2): signals that are read. Pending ones are the process's, and are kept with it.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use serde::{Deserialize, Serialize};

use super::{field, info, unreadable};
use crate::sys;

/// The signals that a file shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signals {
    /// Bit N - 1 for signal N.
    pub mask: u64,
}

impl Signals {
    pub(super) fn read(copy: BorrowedFd) -> io::Result<Self> {
        let mask = u64::from_str_radix(field(&info(copy)?, "sigmask")?, 16);
        mask.map(|mask| Self { mask }).map_err(|_| unreadable())
    }

    pub(super) fn make(&self) -> io::Result<OwnedFd> {
        sys::signals(self.mask)
    }
}
