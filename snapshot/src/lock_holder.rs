//! The holder of a pool's catalog lock, as the lock itself names it.
//!
//! The lock is on one byte, and whoever takes it locks some bytes before that one as well: the
//! distance is a number that names the process. So the kernel tells everyone who holds the lock
//! (F_OFD_GETLK of fcntl(2)), from the moment that it is taken, and nothing need be written down.

use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::other_process::{ProcessState, ProcessText};

/// Bits of a process's number: no kernel gives a higher one (PID_MAX_LIMIT).
const PID_BITS: u32 = 22;
/// Bits of the number of a PID namespace.
const NAMESPACE_BITS: u32 = 32;
/// Bits of the number of the turn.
const TURN_BITS: u32 = 6;
/// Distances are below this.
pub(crate) const DISTANCES: i64 = 1 << (PID_BITS + NAMESPACE_BITS + TURN_BITS);

/// The process that holds a lock.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LockHolder {
    /// 0: unknown.
    pid: u32,
    /// The PID namespace in which the process has this number; 0: unknown.
    namespace: u32,
    /// Another number for each time that the lock is taken, as far as the bits reach.
    turn: u32,
}

impl LockHolder {
    /// A holder that does not name itself, or is not there any more.
    pub(crate) const UNKNOWN: Self = Self {
        pid: 0,
        namespace: 0,
        turn: 0,
    };

    /// This process, and one more time that it takes a lock.
    pub(crate) fn next_turn() -> Self {
        static TURN: AtomicU64 = AtomicU64::new(0);
        static OWN: OnceLock<(u32, u32)> = OnceLock::new();
        // Once for the process: the lock is taken often. A process that was forked without an exec
        // has the number of its parent here, and shares its lock, too.
        let (pid, namespace) = *OWN.get_or_init(|| (std::process::id(), own_namespace()));
        let turn = TURN.fetch_add(1, Ordering::Relaxed) % (1 << TURN_BITS);
        Self {
            pid,
            namespace,
            turn: turn as u32,
        }
    }

    /// Number of bytes before the lock's own that this holder locks, too.
    pub(crate) fn distance(self) -> i64 {
        i64::from(self.turn) << (PID_BITS + NAMESPACE_BITS)
            | i64::from(self.namespace) << PID_BITS
            | i64::from(self.pid) & ((1 << PID_BITS) - 1)
    }

    /// The holder that locks so many bytes before the lock's own.
    pub(crate) fn at_distance(distance: i64) -> Self {
        let bits = |shift: u32, count: u32| (distance >> shift & ((1 << count) - 1)) as u32;
        Self {
            pid: bits(0, PID_BITS),
            namespace: bits(PID_BITS, NAMESPACE_BITS),
            turn: bits(PID_BITS + NAMESPACE_BITS, TURN_BITS),
        }
    }

    /// The process's number in this process's PID namespace. `None` when it is not known, or runs
    /// in another namespace.
    pub fn pid(self) -> Option<u32> {
        let is_here = self.namespace == 0 || self.namespace == own_namespace();
        (self.pid != 0 && is_here).then_some(self.pid)
    }

    /// True when the process is stopped, as far as can be seen.
    pub fn is_stopped(self) -> bool {
        let state = self.pid().and_then(ProcessState::of);
        state.is_some_and(ProcessState::is_stopped)
    }

    pub(crate) fn turn(self) -> u64 {
        self.distance() as u64
    }
}

impl fmt::Display for LockHolder {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.pid() {
            Some(pid) => ProcessText(pid).fmt(out),
            None if self.pid == 0 => out.write_str("a process that does not give its number"),
            None => write!(out, "process {} of another PID namespace", self.pid),
        }
    }
}

/// The number of this process's PID namespace; 0 when it cannot be read.
fn own_namespace() -> u32 {
    static OWN: OnceLock<u32> = OnceLock::new();
    *OWN.get_or_init(|| {
        // `pid:[4026531836]`, see namespaces(7).
        let link = std::fs::read_link("/proc/self/ns/pid").unwrap_or_default();
        let digits = link.to_string_lossy();
        let digits = digits.trim_start_matches("pid:[").trim_end_matches(']');
        digits.parse().unwrap_or(0)
    })
}

#[cfg(test)]
#[path = "lock_holder_test.rs"]
mod lock_holder_test;
