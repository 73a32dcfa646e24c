//! The guest kernel's own complaints.

use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;

/// Texts by which a kernel reports that something is wrong with it, its CPUs or its clocks.
const COMPLAINTS: [&str; 13] = [
    "WARNING:",
    "BUG:",
    "Oops",
    "general protection",
    "soft lockup",
    "hard LOCKUP",
    "rcu_sched detected stalls",
    "rcu: INFO",
    "Clocksource tsc unstable",
    "Marking clocksource",
    "I/O error",
    "EXT4-fs error",
    "Kernel panic",
];

/// Number of log lines that are reported from a complaint on: enough for a stack trace.
const LINES_TOLD: usize = 60;

/// Content of the kernel's log behind its first lines.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// Complaints, in their order.
    pub complaints: Vec<String>,
    /// The log from the first complaint on, for who has to understand it.
    pub context: Vec<String>,
    /// Number of lines in the whole log.
    pub lines: usize,
}

impl Findings {
    fn add(&mut self, record: &str, skip: usize) {
        self.lines += 1;
        if self.lines <= skip {
            return;
        }
        self.complaints.extend(complaint_in(record));
        if !self.complaints.is_empty() && self.context.len() < LINES_TOLD {
            self.context.push(told(record));
        }
    }
}

/// Complaints in the kernel log behind its first `skip` lines.
pub fn complaints(skip: usize) -> io::Result<Findings> {
    let mut log = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/kmsg")?;
    let mut record = [0u8; 8192];
    let mut found = Findings::default();
    loop {
        match log.read(&mut record) {
            Ok(0) => break,
            Ok(length) => found.add(&String::from_utf8_lossy(&record[..length]), skip),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            // The record was overwritten while it was read: the next read goes on behind it.
            Err(error) if error.raw_os_error() == Some(libc::EPIPE) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// A record with its time in seconds. Record format: `priority,sequence,microseconds,...;text`.
fn told(record: &str) -> String {
    let (head, text) = record.split_once(';').unwrap_or(("", record));
    let microseconds: u64 = head
        .split(',')
        .nth(2)
        .and_then(|field| field.parse().ok())
        .unwrap_or(0);
    let text = text.lines().next().unwrap_or_default();
    format!("{:.3} {text}", microseconds as f64 / 1e6)
}

/// The text of a log record, if it is a complaint. Record format: `priority,sequence,...;text`.
fn complaint_in(record: &str) -> Option<String> {
    let text = record
        .split_once(';')
        .map_or(record, |(_, text)| text)
        .lines()
        .next()?;
    COMPLAINTS
        .iter()
        .any(|complaint| text.contains(complaint))
        .then(|| text.to_string())
}

#[cfg(test)]
#[path = "kernel_test.rs"]
mod kernel_test;
