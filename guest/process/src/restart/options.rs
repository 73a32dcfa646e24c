//! Options and result of a restart.

use std::os::fd::BorrowedFd;
use std::time::Duration;

/// Options of a restart.
#[derive(Clone, Copy, Debug, Default)]
pub struct RestartOptions<'a> {
    /// New standard input, output and error, for an image that was captured with external ones.
    pub stdio: [Option<BorrowedFd<'a>>; 3],
}

/// The result of a restart: what it did with the memory of the processes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Restarted {
    /// Time that it took to give pages fixed frames, if [`PageSource::wants_frames`].
    pub populate: Duration,
    /// Time that [`PageSource::place`] took.
    pub place: Duration,
    /// Number of pages that are in memory of a reserve.
    pub pages_reserved: u64,
}
