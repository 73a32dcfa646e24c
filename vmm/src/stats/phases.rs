//! An operation as a list of timed phases.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// One timed phase of an operation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PhaseTime {
    /// Name of the phase, for example `ArmWriteProtect`.
    pub phase: String,
    /// Time it took, in microseconds.
    pub us: f64,
}

/// Times phases one after the other.
#[derive(Debug)]
pub struct Phases {
    started: Instant,
    timed: Vec<Timed>,
}

#[derive(Debug)]
struct Timed {
    phase: String,
    began: Instant,
    took: Duration,
}

impl Phases {
    /// Begins the operation now.
    pub fn begin() -> Self {
        Self::begun_at(Instant::now())
    }

    /// Begins the operation at `started`.
    pub fn begun_at(started: Instant) -> Self {
        Self {
            started,
            timed: Vec::new(),
        }
    }

    /// Runs and times one phase.
    pub fn run<T>(&mut self, phase: &str, work: impl FnOnce() -> T) -> T {
        let began = Instant::now();
        let result = work();
        self.push(began, phase, began.elapsed());
        result
    }

    /// Sets the end of a phase that did not end with the call that it was timed by.
    pub fn ended_at(&mut self, phase: &str, end: Instant) {
        for timed in &mut self.timed {
            if timed.phase == phase {
                timed.took = end.saturating_duration_since(timed.began);
            }
        }
    }

    /// Adds a phase that was timed elsewhere.
    pub fn add(&mut self, phase: &str, took: Duration) {
        self.push(Instant::now(), phase, took);
    }

    fn push(&mut self, began: Instant, phase: &str, took: Duration) {
        self.timed.push(Timed {
            phase: phase.into(),
            began,
            took,
        });
    }

    /// Time that a phase took; `None` when the operation has had no such phase.
    pub fn took(&self, phase: &str) -> Option<Duration> {
        let mut named = self.timed.iter().filter(|timed| timed.phase == phase);
        named.next_back().map(|timed| timed.took)
    }

    /// Time since the beginning, in microseconds.
    pub fn total_us(&self) -> f64 {
        micros(self.started)
    }

    /// The phases so far.
    pub fn times(&self) -> Vec<PhaseTime> {
        let timed = self.timed.iter();
        timed
            .map(|timed| PhaseTime {
                phase: timed.phase.clone(),
                us: micros_of(timed.took),
            })
            .collect()
    }

    /// The phases, which have ended.
    pub fn into_times(self) -> Vec<PhaseTime> {
        self.times()
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
