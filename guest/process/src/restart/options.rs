//! What a restart is asked for, and what it did.

use std::os::fd::BorrowedFd;
use std::time::Duration;

/// How a restart is to be made.
#[derive(Clone, Copy, Debug, Default)]
pub struct RestartOptions<'a> {
    /// What standard input, output and error become, for an image that was captured with external
    /// ones.
    pub stdio: [Option<BorrowedFd<'a>>; 3],
}

/// What a restart did with the memory of the processes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Restarted {
    /// How long it took to give pages frames that stay, if [`PageSource::wants_frames`].
    pub populate: Duration,
    /// How long [`PageSource::place`] took.
    pub place: Duration,
    /// Pages that are in memory of a reserve.
    pub pages_reserved: u64,
}
