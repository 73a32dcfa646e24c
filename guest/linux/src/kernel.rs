//! The guest kernel's own complaints.

use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;

/// What a kernel says when something is wrong with it, its CPUs or its clocks.
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

/// Complaints in the kernel log behind its first `skip` lines, and how many lines it has.
pub fn complaints(skip: usize) -> io::Result<(Vec<String>, usize)> {
    let mut log = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/kmsg")?;
    let mut record = [0u8; 8192];
    let (mut found, mut lines) = (Vec::new(), 0);
    loop {
        match log.read(&mut record) {
            Ok(0) => break,
            Ok(length) => {
                lines += 1;
                let record = String::from_utf8_lossy(&record[..length]);
                if lines > skip {
                    found.extend(complaint_in(&record));
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            // The record was overwritten while it was read: the next read goes on behind it.
            Err(error) if error.raw_os_error() == Some(libc::EPIPE) => {}
            Err(error) => return Err(error),
        }
    }
    Ok((found, lines))
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
