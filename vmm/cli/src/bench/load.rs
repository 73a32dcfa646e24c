//! Load of the host before a run: other programs that compute, or a hypervisor that takes CPUs
//! away, are in every figure.

use std::fs;
use std::thread;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Time for which the host is looked at. The benchmark does nothing meanwhile.
const LOOK: Duration = Duration::from_millis(500);
/// Part of the CPUs' time, in percent, from which on a host is busy.
const BUSY_PERCENT: u64 = 10;
/// The same for time that a hypervisor gave to others.
const STOLEN_PERCENT: u64 = 5;

/// Load of a host, over half a second before the run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct HostLoad {
    /// Part of the time of all CPUs that was used, in percent.
    pub used_percent: u64,
    /// Part of it that a hypervisor gave to others, in percent.
    pub stolen_percent: u64,
    /// Tasks that ran or were ready, on average over a minute, in percent of one
    /// (proc_loadavg(5)).
    pub load_average_percent: u64,
    /// The host was busy: figures may be those of the other programs.
    pub busy: bool,
}

impl HostLoad {
    /// Looks at this host for half a second.
    pub fn look() -> Self {
        let before = CpuTimes::now();
        thread::sleep(LOOK);
        Self::of(before, CpuTimes::now(), &read("/proc/loadavg"))
    }

    fn of(before: CpuTimes, after: CpuTimes, loadavg: &str) -> Self {
        let all = after.all.saturating_sub(before.all).max(1);
        let percent = |after: u64, before: u64| after.saturating_sub(before).min(all) * 100 / all;
        let used_percent = 100 - percent(after.idle, before.idle);
        let stolen_percent = percent(after.stolen, before.stolen);
        Self {
            used_percent,
            stolen_percent,
            load_average_percent: hundredths(loadavg.split(' ').next().unwrap_or_default()),
            busy: used_percent >= BUSY_PERCENT || stolen_percent >= STOLEN_PERCENT,
        }
    }

    /// The load in words.
    pub fn text(&self) -> String {
        let Self {
            used_percent,
            stolen_percent,
            load_average_percent,
            ..
        } = self;
        let stolen = match stolen_percent {
            0 => String::new(),
            percent => format!(" ({percent}% taken by its hypervisor)"),
        };
        format!(
            "{used_percent}% of its CPU time was in use{stolen}, load average {}.{:02}",
            load_average_percent / 100,
            load_average_percent % 100
        )
    }

    /// Warning about a busy host; `None` for an idle one.
    pub fn warning(&self) -> Option<String> {
        self.busy.then(|| {
            format!(
                "the host was busy before the run: {}. The figures may be wrong by any factor; \
                 measure again on an idle host",
                self.text()
            )
        })
    }
}

/// Times of all CPUs since the host's start, in ticks (proc_stat(5)).
#[derive(Clone, Copy, Debug, Default)]
struct CpuTimes {
    all: u64,
    idle: u64,
    stolen: u64,
}

impl CpuTimes {
    fn now() -> Self {
        Self::of(&read("/proc/stat"))
    }

    fn of(stat: &str) -> Self {
        let line = stat.lines().find_map(|line| line.strip_prefix("cpu "));
        let ticks: Vec<u64> = line
            .unwrap_or_default()
            .split_whitespace()
            // Guest times behind these are in user times, too.
            .take(8)
            .map(|number| number.parse().unwrap_or(0))
            .collect();
        let at = |index: usize| ticks.get(index).copied().unwrap_or(0);
        Self {
            all: ticks.iter().sum(),
            idle: at(3) + at(4),
            stolen: at(7),
        }
    }
}

/// `0.35` as 35.
fn hundredths(number: &str) -> u64 {
    let (whole, part) = number.split_once('.').unwrap_or((number, "0"));
    let part = format!("{part:0<2}");
    let parsed = |text: &str| text.parse().unwrap_or(0u64);
    parsed(whole) * 100 + parsed(part.get(..2).unwrap_or("0"))
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

#[cfg(test)]
#[path = "load_test.rs"]
mod load_test;
