//! Locks of files, as /proc/PID/fdinfo shows them.

/// The kind of a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockKind {
    /// flock(2): an open file's, of the whole file.
    Whole,
    /// fcntl(2): a process's, of a range.
    OfProcess,
    /// fcntl(2), F_OFD_SETLK: an open file's, of a range.
    OfOpenFile,
    /// A lease or something like it.
    Other,
}

/// A lock that was taken by an open file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lock {
    /// Its kind.
    pub kind: LockKind,
    /// True if it excludes all others.
    pub exclusive: bool,
    /// The first byte.
    pub start: u64,
    /// Number of bytes; 0: to the end, wherever it is.
    pub len_bytes: u64,
}

/// The locks in a text of /proc/PID/fdinfo. One that cannot be read counts as of another kind.
pub fn locks(info: &str) -> Vec<Lock> {
    let lines = info.lines().filter_map(|line| line.strip_prefix("lock:"));
    let unknown = Lock {
        kind: LockKind::Other,
        exclusive: true,
        start: 0,
        len_bytes: 0,
    };
    lines.map(|line| lock(line).unwrap_or(unknown)).collect()
}

/// Reads a line such as `1: POSIX  ADVISORY  WRITE 9549 fe:00:10011067 1 5`.
fn lock(line: &str) -> Option<Lock> {
    let words: Vec<&str> = line.split_ascii_whitespace().collect();
    let [_, kind, "ADVISORY", access, _, _, start, end] = words[..] else {
        return None;
    };
    let start = start.parse().ok()?;
    let end: Option<u64> = match end {
        "EOF" => None,
        last => Some(last.parse().ok()?),
    };
    Some(Lock {
        kind: match kind {
            "FLOCK" => LockKind::Whole,
            "POSIX" => LockKind::OfProcess,
            "OFDLCK" => LockKind::OfOpenFile,
            _ => return None,
        },
        exclusive: match access {
            "READ" => false,
            "WRITE" => true,
            _ => return None,
        },
        start,
        len_bytes: end.map_or(Some(0), |last| last.checked_sub(start)?.checked_add(1))?,
    })
}

#[cfg(test)]
#[path = "locks_test.rs"]
mod locks_test;
