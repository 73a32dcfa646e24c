//! Watching the clocks: they must never go backwards, seen from any CPU.

use crate::cpus;
use crate::sys::{self, Clock};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

const LOOK_EVERY: Duration = Duration::from_millis(2);

/// Observations of the watchers so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sightings {
    /// Last reading of each clock, in the order of [`Clock::ALL`].
    pub last_ns: [i64; 3],
    /// Number of times that each went backwards.
    pub backwards: [u64; 3],
    /// The largest step back of any.
    pub back_ns_max: i64,
    /// The largest step forward of each.
    pub forward_ns_max: [i64; 3],
    /// Number of readings.
    pub readings: u64,
}

impl Sightings {
    /// Takes note of one reading of every clock.
    pub fn note(&mut self, now_ns: [i64; 3]) {
        for (clock, now) in now_ns.into_iter().enumerate() {
            let step = now - self.last_ns[clock];
            if self.readings > 0 && step < 0 {
                self.backwards[clock] += 1;
                self.back_ns_max = self.back_ns_max.max(-step);
            } else if self.readings > 0 {
                self.forward_ns_max[clock] = self.forward_ns_max[clock].max(step);
            }
            self.last_ns[clock] = now;
        }
        self.readings += 1;
    }
}

/// Watchers, one per CPU, that read the clocks in turn.
#[derive(Clone, Default)]
pub struct ClockWatch(Arc<Mutex<Sightings>>);

impl ClockWatch {
    /// Starts the watchers, which never end.
    pub fn start() -> io::Result<ClockWatch> {
        let watch = ClockWatch::default();
        for cpu in cpus::online()? {
            let watch = watch.clone();
            thread::Builder::new()
                .name(format!("clocks{cpu}"))
                .spawn(move || {
                    // A thread that cannot be pinned still watches.
                    let _ = sys::pin_to_cpu(cpu);
                    loop {
                        watch.look();
                        thread::sleep(LOOK_EVERY);
                    }
                })?;
        }
        Ok(watch)
    }

    /// Reads the clocks now. The lock makes readings on different CPUs follow one another.
    pub fn look(&self) -> Sightings {
        let mut sightings = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        sightings.note(Clock::ALL.map(Clock::now_ns));
        *sightings
    }
}

#[cfg(test)]
#[path = "clocks_test.rs"]
mod clocks_test;
