//! Another process: its state, and a limit for waiting for it.

use std::fmt;
use std::time::{Duration, Instant};

/// Time that a process which is waited for may be stopped.
const STOPPED_MAX: Duration = if cfg!(test) {
    Duration::from_secs(1)
} else {
    Duration::from_secs(10)
};
/// Time that a process may do nothing at all, neither compute nor wait for a disk.
const IDLE_MAX: Duration = Duration::from_secs(60);
/// Time without progress of a process that cannot be seen: nothing long is done while others wait.
const UNSEEN_MAX: Duration = Duration::from_secs(20);
/// Time that a process may wait for a disk without computing.
const DISK_MAX: Duration = Duration::from_secs(300);
/// Time for which a process is waited for though it works.
const WORKING_MAX: Duration = Duration::from_secs(3600);
/// Time between two looks that counts. Time beyond it is that of a waiting process that was itself
/// stopped, or of a host that slept.
const STEP_MAX: Duration = Duration::from_secs(1);
/// Longest command that a message repeats.
const COMMAND_BYTES_MAX: usize = 60;

/// State of a process at a moment, as /proc/PID/stat shows it (proc_pid_stat(5)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProcessState {
    letter: char,
    cpu_ticks: u64,
}

impl ProcessState {
    /// The state of process `pid` now. `None` when there is no such process, or when /proc does not
    /// show it to this one.
    pub fn of(pid: u32) -> Option<Self> {
        Self::parse(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    fn parse(stat: &str) -> Option<Self> {
        // The name is in brackets, and may have brackets in it.
        let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
        let letter = fields.next()?.chars().next()?;
        let mut times = fields.skip(10);
        let mut ticks = || times.next()?.parse::<u64>().ok();
        Some(Self {
            letter,
            cpu_ticks: ticks()?.saturating_add(ticks()?),
        })
    }

    /// True when a signal or a debugger has stopped the process.
    pub fn is_stopped(self) -> bool {
        matches!(self.letter, 'T' | 't')
    }

    /// The state of a process whose work is no sign of progress.
    pub fn without_work(self) -> Self {
        Self {
            cpu_ticks: 0,
            ..self
        }
    }

    /// The state in words that follow the process's number; nothing for a process that works.
    fn clause(self) -> &'static str {
        match self.letter {
            'T' => ", which is stopped",
            't' => ", which a debugger has stopped",
            'D' => ", which waits for a disk",
            'Z' | 'X' => ", which has ended",
            _ => "",
        }
    }
}

/// A process in words: `process 4711 (nvvmm pool check), which is stopped`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProcessText(pub u32);

impl fmt::Display for ProcessText {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "process {}", self.0)?;
        if let Some(command) = command_of(self.0) {
            write!(out, " ({command})")?;
        }
        let state = ProcessState::of(self.0).map_or("", ProcessState::clause);
        out.write_str(state)
    }
}

/// The program's name and its words up to the first option. Other characters than those of usual
/// names are left out: the text goes to a terminal.
fn command_of(pid: u32) -> Option<String> {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let mut words = line
        .split(|byte| *byte == 0)
        .filter(|word| !word.is_empty());
    let program = words.next()?.rsplit(|byte| *byte == b'/').next()?;
    let program: &[u8] = if program == b"exe" { b"nvvmm" } else { program };
    let words = words.take_while(|word| !word.starts_with(b"-")).take(2);
    let is_usual = |byte: &u8| byte.is_ascii_alphanumeric() || b"._-@/+".contains(byte);
    let text: Vec<String> = std::iter::once(program)
        .chain(words)
        .map(|word| {
            let usual = word.iter().copied().filter(is_usual);
            usual.map(char::from).collect()
        })
        .collect();
    let mut text = text.join(" ");
    text.truncate(COMMAND_BYTES_MAX);
    (!text.is_empty()).then_some(text)
}

/// Limit of a wait for another process: ten seconds while that one is stopped, twenty while it
/// cannot be seen, longer while it is idle or waits for a disk, an hour while it works.
#[derive(Debug, Clone)]
pub struct WaitLimit {
    looked: Instant,
    elapsed: Elapsed,
}

/// Time that the process was seen in a state, without a break.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Elapsed {
    in_all: Duration,
    stopped: Duration,
    idle: Duration,
    /// A number of the caller's that changes with progress, and the processor time seen last.
    seen: Option<(u64, u64)>,
}

impl Default for WaitLimit {
    fn default() -> Self {
        Self {
            looked: Instant::now(),
            elapsed: Elapsed::default(),
        }
    }
}

impl WaitLimit {
    /// Looks at the process, if its number is known. `progress` is any number that changes when
    /// what is waited for has moved on. Returns true when there is no point in waiting longer.
    pub fn is_reached(&mut self, pid: Option<u32>, progress: u64) -> bool {
        self.is_reached_seeing(pid.and_then(ProcessState::of), progress)
    }

    /// Does the same for a process whose state was just looked at.
    pub fn is_reached_seeing(&mut self, state: Option<ProcessState>, progress: u64) -> bool {
        let now = Instant::now();
        let step = now.saturating_duration_since(self.looked).min(STEP_MAX);
        self.looked = now;
        self.elapsed.is_too_long_after(step, state, progress)
    }

    /// Time waited since the last progress.
    pub fn waited(&self) -> Duration {
        self.elapsed.in_all
    }
}

impl Elapsed {
    fn is_too_long_after(
        &mut self,
        step: Duration,
        state: Option<ProcessState>,
        progress: u64,
    ) -> bool {
        let seen = (progress, state.map_or(0, |state| state.cpu_ticks));
        match self.seen {
            Some((before, _)) if before != progress => *self = Self::default(),
            Some(before) if before != seen => self.idle = Duration::ZERO,
            _ => {}
        }
        self.seen = Some(seen);
        self.in_all += step;
        self.idle += step;
        if state.is_some_and(ProcessState::is_stopped) {
            self.stopped += step;
        } else {
            self.stopped = Duration::ZERO;
        }
        let idle_max = match state {
            Some(ProcessState { letter: 'D', .. }) => DISK_MAX,
            Some(_) => IDLE_MAX,
            None => UNSEEN_MAX,
        };
        self.stopped >= STOPPED_MAX || self.idle >= idle_max || self.in_all >= WORKING_MAX
    }
}

#[cfg(test)]
#[path = "other_process_test.rs"]
mod other_process_test;
