//! An operation as a list of timed phases.

use std::time::{Duration, Instant};

use super::report::PhaseTime;

/// Times phases one after the other.
#[derive(Debug)]
pub struct Phases {
    started: Instant,
    times: Vec<(Instant, PhaseTime)>,
}

impl Phases {
    /// The operation begins now.
    pub fn begin() -> Self {
        Self::begun_at(Instant::now())
    }

    /// The operation began at `started`.
    pub fn begun_at(started: Instant) -> Self {
        Self {
            started,
            times: Vec::new(),
        }
    }

    /// Runs and times one phase.
    pub fn run<T>(&mut self, phase: &str, work: impl FnOnce() -> T) -> T {
        let from = Instant::now();
        let result = work();
        self.push(from, phase, from.elapsed());
        result
    }

    /// The phase did not end with the call that it was timed by, but then.
    pub fn ended_at(&mut self, phase: &str, end: Instant) {
        for (from, time) in &mut self.times {
            if time.phase == phase {
                time.us = micros_of(end.saturating_duration_since(*from));
            }
        }
    }

    /// Adds a phase that was timed elsewhere.
    pub fn add(&mut self, phase: &str, took: Duration) {
        self.push(Instant::now(), phase, took);
    }

    fn push(&mut self, from: Instant, phase: &str, took: Duration) {
        let time = PhaseTime {
            phase: phase.into(),
            us: micros_of(took),
        };
        self.times.push((from, time));
    }

    /// Time since the beginning, in microseconds.
    pub fn total_us(&self) -> f64 {
        micros(self.started)
    }

    /// The phases so far.
    pub fn into_times(self) -> Vec<PhaseTime> {
        self.times.into_iter().map(|(_, time)| time).collect()
    }
}

/// Microseconds since `from`.
pub fn micros(from: Instant) -> f64 {
    micros_of(from.elapsed())
}

/// `time` in microseconds, made of whole nanoseconds: it prints short.
pub fn micros_of(time: Duration) -> f64 {
    time.as_nanos() as f64 / 1e3
}
