//! epoll(7): a set of files that are waited for.

use std::io;

use super::unreadable;

/// Flags of an entry that are no events: EPOLLEXCLUSIVE and all above.
pub const FLAGS: u32 = 0xf000_0000;

/// An entry of a poll set, as /proc shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The descriptor by which the file was added.
    pub fd: i32,
    /// The events that are waited for, with the flags of epoll_ctl(2).
    pub events: u32,
    /// The number that comes with an event.
    pub data: u64,
    /// Its place among the entries that were added by the same number.
    pub place: u32,
}

/// Reads the entries of a poll set from its text in /proc/PID/fdinfo.
pub fn entries(info: &str) -> io::Result<Vec<Entry>> {
    let mut found: Vec<Entry> = Vec::new();
    for line in info.lines().filter_map(|line| line.strip_prefix("tfd:")) {
        let entry = entry(line).ok_or_else(unreadable)?;
        let place = found.iter().filter(|other| other.fd == entry.fd).count() as u32;
        found.push(Entry { place, ..entry });
    }
    Ok(found)
}

/// Reads a line such as `17 events: 19 data: 11 pos:0 ino:40e sdev:10`.
fn entry(line: &str) -> Option<Entry> {
    let mut words = line.split_ascii_whitespace();
    let fd = words.next()?.parse().ok()?;
    let mut number = |key: &str| {
        (words.next()? == key).then_some(())?;
        u64::from_str_radix(words.next()?, 16).ok()
    };
    Some(Entry {
        fd,
        events: number("events:")? as u32,
        data: number("data:")?,
        place: 0,
    })
}
