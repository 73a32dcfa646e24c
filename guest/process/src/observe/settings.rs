//! Settings that have a file of their own in /proc.

use super::{read_text, unreadable};
use crate::error::{Error, Pid};

/// A timer of timer_create(2), without its times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NamedTimer {
    /// Its number.
    pub id: i32,
    /// Its clock.
    pub clock: i32,
    /// Way to tell that it expired: `sigev_notify`.
    pub notify: i32,
    /// The signal that it sends.
    pub signal: i32,
    /// The value that comes with the signal.
    pub value: u64,
    /// The thread that gets the signal, if `notify` has SIGEV_THREAD_ID; otherwise 0.
    pub thread: Pid,
}

/// The timers of a process, by number.
pub fn timers(pid: Pid) -> Result<Vec<NamedTimer>, Error> {
    let text = read_text(pid, "timers")?;
    let mut found = parse_timers(&text).ok_or_else(|| unreadable(pid, "timers"))?;
    found.sort_unstable_by_key(|timer| timer.id);
    Ok(found)
}

/// Four lines for each: `ID: 0`, `signal: 14/00007ffd3c1d1c08`, `notify: signal/tid.301`,
/// `ClockID: 1`.
pub(super) fn parse_timers(text: &str) -> Option<Vec<NamedTimer>> {
    let mut lines = text.lines();
    let mut found = Vec::new();
    while let Some(line) = lines.next() {
        let id = line.strip_prefix("ID: ")?.parse().ok()?;
        let (signal, value) = lines.next()?.strip_prefix("signal: ")?.split_once('/')?;
        let (how, whom) = lines.next()?.strip_prefix("notify: ")?.split_once('/')?;
        let (kind, number) = whom.split_once('.')?;
        let clock = lines.next()?.strip_prefix("ClockID: ")?;
        let to_thread = kind == "tid";
        let how = match how {
            "signal" => libc::SIGEV_SIGNAL,
            "none" => libc::SIGEV_NONE,
            "thread" => libc::SIGEV_THREAD,
            _ => return None,
        };
        found.push(NamedTimer {
            id,
            clock: clock.parse().ok()?,
            notify: if to_thread {
                how | libc::SIGEV_THREAD_ID
            } else {
                how
            },
            signal: signal.parse().ok()?,
            value: u64::from_str_radix(value, 16).ok()?,
            thread: if to_thread { number.parse().ok()? } else { 0 },
        });
    }
    Some(found)
}

/// Content of a core dump of the process. None: the kernel makes none.
pub fn core_filter(pid: Pid) -> Result<Option<u32>, Error> {
    match read_text(pid, "coredump_filter") {
        Ok(text) => u32::from_str_radix(text.trim(), 16)
            .map(Some)
            .map_err(|_| unreadable(pid, "coredump_filter")),
        Err(_) => Ok(None),
    }
}

/// The timer slack of a thread.
pub fn timer_slack_ns(tid: Pid) -> Result<u64, Error> {
    let text = read_text(tid, "timerslack_ns")?;
    let value = text.trim().parse();
    value.map_err(|_| unreadable(tid, "timerslack_ns"))
}

/// Memory of a process that is locked.
pub fn locked_bytes(pid: Pid) -> Result<u64, Error> {
    let text = read_text(pid, "status")?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmLck:"));
    let kib = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    kib.map(|kib| kib << 10)
        .ok_or_else(|| unreadable(pid, "status"))
}

/// True if a thread may have asked for less speculation of the processor.
pub fn asked_for_speculation(tid: Pid) -> Result<bool, Error> {
    /// The kernel's words about a thread that has not asked, or had no choice.
    const USUAL: [&str; 10] = [
        "unknown",
        "unsupported",
        "not vulnerable",
        "not affected",
        "vulnerable",
        "thread vulnerable",
        "globally mitigated",
        "conditional enabled",
        "always enabled",
        "always disabled",
    ];
    let text = read_text(tid, "status")?;
    let told = ["Speculation_Store_Bypass", "SpeculationIndirectBranch"].map(|key| {
        let line = text.lines().find_map(|line| line.strip_prefix(key));
        line.and_then(|line| line.strip_prefix(':')).map(str::trim)
    });
    Ok((told.into_iter().flatten()).any(|told| !USUAL.contains(&told)))
}

#[cfg(test)]
#[path = "settings_test.rs"]
mod settings_test;
