//! Open files of this process, fetched by a stub.

use super::blank::Blank;
use crate::error::Error;

/// A way for a stub to fetch open files of this process.
#[derive(Debug)]
pub struct Fetch {
    /// The stub's descriptor for this process.
    process: u64,
}

impl Fetch {
    /// Prepares a stub; its numbers below `above` stay free.
    pub fn new(blank: &Blank, above: i32) -> Result<Self, Error> {
        let own = std::process::id().into();
        let low = blank.call("open this process", libc::SYS_pidfd_open, &[own, 0])?;
        let high = [low, libc::F_DUPFD_CLOEXEC as u64, above as u64];
        let process = blank.call("move a descriptor", libc::SYS_fcntl, &high)?;
        blank.call("close a descriptor", libc::SYS_close, &[low])?;
        Ok(Self { process })
    }

    /// Gives the stub an open file of this process, under the lowest number that is free.
    pub fn get(&self, blank: &Blank, fd: i32) -> Result<u64, Error> {
        blank.call(
            "fetch an open file",
            libc::SYS_pidfd_getfd,
            &[self.process, fd as u64, 0],
        )
    }

    /// Ends it.
    pub fn end(self, blank: &Blank) -> Result<(), Error> {
        blank
            .call("close a descriptor", libc::SYS_close, &[self.process])
            .map(drop)
    }
}
