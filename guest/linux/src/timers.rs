//! Timers and timer interrupts: they must go on after a restore, on every CPU.

use crate::cpus;
use crate::sys::PeriodicTimer;
use std::io;
use std::time::{Duration, Instant};

const PERIOD: Duration = Duration::from_millis(10);

/// Counts of one CPU's timers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Beats {
    /// Times that a 10 ms timer fired.
    pub fired: u64,
    /// Sleeps of 10 ms that ended.
    pub slept: u64,
    /// Local timer interrupts that the CPU took.
    pub interrupts: u64,
}

impl Beats {
    /// True if all of them ran. Their speed says nothing: the CPU may be emulated and busy.
    pub fn are_alive(&self) -> bool {
        self.fired > 0 && self.slept > 0 && self.interrupts > 0
    }
}

/// Lets timers run on every CPU for about `length`. Each is waited for at least once, however long
/// a busy host keeps the CPU away: one that stands still gives no answer.
pub fn run(length: Duration) -> io::Result<Vec<(usize, Beats)>> {
    let half = (length / 2).max(PERIOD * 3);
    cpus::on_each(|cpu| {
        let before = local_interrupts(cpu)?;
        let timer = PeriodicTimer::start(PERIOD)?;
        let mut beats = Beats {
            fired: 0,
            slept: 0,
            interrupts: 0,
        };
        let start = Instant::now();
        while beats.fired == 0 || start.elapsed() < half {
            beats.fired += timer.wait()?;
        }
        while beats.slept == 0 || start.elapsed() < half * 2 {
            std::thread::sleep(PERIOD);
            beats.slept += 1;
        }
        beats.interrupts = local_interrupts(cpu)?.saturating_sub(before);
        Ok(beats)
    })
}

fn local_interrupts(cpu: usize) -> io::Result<u64> {
    let table = std::fs::read_to_string("/proc/interrupts")?;
    count_of("LOC", cpu, &table).ok_or_else(|| io::Error::other("no LOC line in /proc/interrupts"))
}

/// The count in the column of `cpu` in the line of interrupt `name`.
fn count_of(name: &str, cpu: usize, table: &str) -> Option<u64> {
    let mut lines = table.lines();
    let column = lines
        .next()?
        .split_whitespace()
        .position(|head| head == format!("CPU{cpu}"))?;
    let line = lines.find_map(|line| line.trim_start().strip_prefix(name)?.strip_prefix(':'))?;
    line.split_whitespace().nth(column)?.parse().ok()
}

#[cfg(test)]
#[path = "timers_test.rs"]
mod timers_test;
