//! The time of day of an emulated host, which a test may set.

use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Sets the host's time of day. It is right again when this is dropped.
#[derive(Debug)]
pub struct HostClock {
    was: Duration,
    at: Instant,
}

impl HostClock {
    /// The clock, if the host is an emulated one: only that is the test's own.
    pub fn of_emulated_host() -> Option<Self> {
        crate::is_nested().then(|| Self {
            was: seconds_of_day(),
            at: Instant::now(),
        })
    }

    /// Puts it so many seconds from the right time.
    pub fn put_off_by(&self, seconds: i64) {
        let now = self.was + self.at.elapsed();
        let wanted = now.as_secs().checked_add_signed(seconds).expect("a time");
        let mut set = Command::new("date");
        set.args(["-s", &format!("@{wanted}")]);
        let done = set.output().expect("date runs");
        assert!(done.status.success(), "{done:?}");
    }
}

impl Drop for HostClock {
    fn drop(&mut self) {
        self.put_off_by(0);
    }
}

fn seconds_of_day() -> Duration {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.expect("the clock is after 1970")
}
