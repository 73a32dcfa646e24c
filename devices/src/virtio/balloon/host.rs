//! The host's side of a balloon: what it asks of the guest, and what it has heard.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::PAGE_BYTES;
use super::statistics::GuestMemoryStatistics;
use crate::lock::lock;

/// State of a balloon, for status and reports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BalloonStatus {
    /// A driver of the guest works with the device.
    pub has_driver: bool,
    /// The driver tells which memory is free.
    pub reports_free: bool,
    /// Size that the balloon should have.
    pub target_bytes: u64,
    /// Size that it has, as the guest says.
    pub actual_bytes: u64,
    /// Bytes given back to the host in this machine: each time that memory was given back counts.
    pub released_bytes: u64,
    /// The guest's last report of its memory; it has none before its driver works.
    pub statistics: Option<GuestMemoryStatistics>,
}

#[derive(Debug, Default)]
struct State {
    status: BalloonStatus,
    /// The driver is to be told of a new target.
    target_changed: bool,
    /// A new report is wanted.
    wants_statistics: bool,
    /// Reports so far.
    reports: u64,
}

/// One balloon, as the host works with it while the guest runs.
#[derive(Debug)]
pub struct BalloonHost {
    state: Mutex<State>,
    reported: Condvar,
    event: EventFd,
}

impl BalloonHost {
    /// The side of a new device.
    ///
    /// # Errors
    /// The process has too many descriptors.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            state: Mutex::default(),
            reported: Condvar::new(),
            event: EventFd::new(EFD_NONBLOCK)?,
        })
    }

    /// The state now. The statistics are those of the last report.
    pub fn status(&self) -> BalloonStatus {
        lock(&self.state).status
    }

    /// Asks the guest to make the balloon so large, in whole pages. It does so as far as it can.
    pub fn set_target(&self, target_bytes: u64) {
        let mut state = lock(&self.state);
        let pages = (target_bytes / PAGE_BYTES).min(u32::MAX.into());
        state.status.target_bytes = pages * PAGE_BYTES;
        state.target_changed = true;
        self.wake();
    }

    /// Asks the guest for a report, and waits for it, but not longer than `patience`: a guest whose
    /// vCPUs are paused gives none.
    pub fn ask(&self, patience: Duration) -> BalloonStatus {
        let end = Instant::now() + patience;
        let mut state = lock(&self.state);
        let before = state.reports;
        if !state.status.has_driver {
            return state.status;
        }
        state.wants_statistics = true;
        self.wake();
        while state.reports == before {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let waited = self.reported.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        state.status
    }

    fn wake(&self) {
        // The counter can only be full when the event thread has been told already.
        let _ = self.event.write(1);
    }

    pub(super) fn event(&self) -> RawFd {
        self.event.as_raw_fd()
    }

    pub(super) fn take_event(&self) {
        let _ = self.event.read();
    }

    pub(super) fn change<T>(&self, change: impl FnOnce(&mut BalloonStatus) -> T) -> T {
        change(&mut lock(&self.state).status)
    }

    pub(super) fn take_target_change(&self) -> bool {
        std::mem::take(&mut lock(&self.state).target_changed)
    }

    pub(super) fn wants_statistics(&self) -> bool {
        lock(&self.state).wants_statistics
    }

    pub(super) fn take_wants_statistics(&self) -> bool {
        std::mem::take(&mut lock(&self.state).wants_statistics)
    }

    pub(super) fn note_statistics(&self, statistics: GuestMemoryStatistics) {
        let mut state = lock(&self.state);
        state.status.statistics = Some(statistics);
        state.reports += 1;
        self.reported.notify_all();
    }
}
