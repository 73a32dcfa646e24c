//! timerfd_create(2): a timer that is read.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{field, info, unreadable};
use crate::sys;

const NANOSECONDS: i64 = 1_000_000_000;
/// Clocks that follow the time of day: CLOCK_REALTIME and CLOCK_REALTIME_ALARM.
const OF_DAY: [i32; 2] = [libc::CLOCK_REALTIME, 8];

/// A timer. Times are in seconds and nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timer {
    /// Its clock.
    pub clock: i32,
    /// The flags of timerfd_settime(2) by which it was armed.
    pub flags: i32,
    /// Expirations since it was read.
    pub ticks: u64,
    /// Its interval; zero: it expires once.
    pub interval: (i64, i64),
    /// Time left. Zero: it is not armed, or has an interval and is due.
    pub left: (i64, i64),
    /// The time of its clock when it was captured.
    pub now: (i64, i64),
}

impl Timer {
    pub(super) fn read(copy: BorrowedFd) -> io::Result<Self> {
        let found = Self::look(copy)?;
        if found.is_armed() || found.ticks > 0 {
            return Ok(found);
        }
        // The kernel tells the same of one that is due: where timers have no high resolution that
        // lasts until the next tick. Whoever has slept has seen one.
        std::thread::sleep(Duration::from_nanos(1));
        Self::look(copy)
    }

    fn look(copy: BorrowedFd) -> io::Result<Self> {
        // First, because it counts expirations.
        let (interval, left) = sys::timer_left(copy)?;
        let info = info(copy)?;
        let number = |key| field(&info, key)?.parse::<i64>().map_err(|_| unreadable());
        let clock = number("clockid")? as i32;
        let flags = i32::from_str_radix(field(&info, "settime flags")?, 8);
        Ok(Self {
            clock,
            flags: flags.map_err(|_| unreadable())?,
            ticks: number("ticks")? as u64,
            interval,
            left,
            now: sys::clock(clock)?,
        })
    }

    pub(super) fn make(&self) -> io::Result<OwnedFd> {
        let made = sys::timer(self.clock)?;
        // From now on, for those who wait until it is ready.
        self.set_ticks(made.as_fd())?;
        Ok(made)
    }

    pub(super) fn start(&self, made: BorrowedFd) -> io::Result<()> {
        let value = match (self.left, self.flags & libc::TFD_TIMER_ABSTIME) {
            _ if !self.is_armed() => (0, 0),
            ((0, 0), 0) => (0, 1),
            (_, 0) => self.left,
            // A time of day stays what it is. Other clocks stand still until a restart.
            _ if OF_DAY.contains(&self.clock) => sum(self.now, self.left),
            _ => sum(sys::clock(self.clock)?, self.left),
        };
        sys::arm_timer(made, self.flags, self.interval, value)?;
        self.set_ticks(made)
    }

    fn is_armed(&self) -> bool {
        self.left != (0, 0) || self.interval != (0, 0)
    }

    fn set_ticks(&self, made: BorrowedFd) -> io::Result<()> {
        if self.ticks == 0 {
            return Ok(());
        }
        sys::set_timer_ticks(made, self.ticks)
    }

    pub(super) fn fault(&self) -> Option<&'static str> {
        let is_time = |(seconds, nanoseconds): (i64, i64)| {
            (0..i64::MAX / 4).contains(&seconds) && (0..NANOSECONDS).contains(&nanoseconds)
        };
        let times = [self.interval, self.left, self.now];
        (!times.into_iter().all(is_time)).then_some("a timer has a time that is none")
    }
}

fn sum(a: (i64, i64), b: (i64, i64)) -> (i64, i64) {
    let nanoseconds = a.1 + b.1;
    (
        a.0 + b.0 + nanoseconds / NANOSECONDS,
        nanoseconds % NANOSECONDS,
    )
}
