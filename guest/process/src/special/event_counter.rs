//! eventfd(2): a counter.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{BorrowedFd, OwnedFd};

use serde::{Deserialize, Serialize};

use super::{field, info, unreadable};
use crate::sys;

/// The largest value that a counter can have.
const COUNT_MAX: u64 = u64::MAX - 1;

/// A counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventCounter {
    /// Its value.
    pub count: u64,
    /// EFD_SEMAPHORE: a read takes one, not all.
    pub semaphore: bool,
}

impl EventCounter {
    pub(super) fn read(copy: BorrowedFd) -> io::Result<Self> {
        let info = &info(copy)?;
        let count = u64::from_str_radix(field(info, "eventfd-count")?, 16);
        let count = count.map_err(|_| unreadable())?;
        let semaphore = match field(info, "eventfd-semaphore") {
            Ok(flag) => flag != "0",
            // Linux before 6.5 does not tell.
            Err(_) => probe(copy, count)?,
        };
        Ok(Self { count, semaphore })
    }

    pub(super) fn make(&self) -> io::Result<OwnedFd> {
        let made = sys::event_counter(self.semaphore)?;
        if self.count > 0 {
            File::from(made.try_clone()?).write_all(&self.count.to_ne_bytes())?;
        }
        Ok(made)
    }

    pub(super) fn fault(&self) -> Option<&'static str> {
        (self.count > COUNT_MAX).then_some("a counter is larger than any")
    }
}

/// Finds out if a counter is a semaphore, by a read of it, and gives it its value back. All who
/// have it open stand still, so nobody reads it meanwhile.
pub(super) fn probe(copy: BorrowedFd, count: u64) -> io::Result<bool> {
    let mut file = File::from(copy.try_clone_to_owned()?);
    let mut bytes = [0; 8];
    // A read of 1 tells nothing: both kinds answer 1.
    let raised = 2u64.saturating_sub(count);
    if raised > 0 {
        file.write_all(&raised.to_ne_bytes())?;
    }
    file.read_exact(&mut bytes)?;
    let taken = u64::from_ne_bytes(bytes);
    let semaphore = taken == 1;
    let mut now = count + raised - taken;
    while now > count {
        file.read_exact(&mut bytes)?;
        now -= u64::from_ne_bytes(bytes);
    }
    if now < count {
        file.write_all(&(count - now).to_ne_bytes())?;
    }
    Ok(semaphore)
}
