//! State that images have since version 3.

use serde::{Deserialize, Serialize};

use crate::error::Pid;

/// Further settings of a process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// The signal that its parent gets when it ends; 0: none.
    pub exit_signal: i32,
    /// PR_SET_THP_DISABLE: the kernel's answer.
    pub huge_pages_off: u32,
    /// PR_SET_MDWE: the kernel's answer.
    pub deny_write_execute: u32,
    /// PR_SET_MEMORY_MERGE.
    pub merges_memory: bool,
    /// Flags of mlockall(2) for memory to come.
    pub locks_memory: i32,
    /// Content of a core dump (/proc/PID/coredump_filter).
    pub core_filter: Option<u32>,
    /// A signal has stopped it.
    pub is_stopped: bool,
    /// Its timers of timer_create(2), by number.
    pub timers: Vec<ProcessTimer>,
    /// Its record locks of fcntl(2).
    pub locks: Vec<RecordLock>,
    /// Settings of each thread, the leader first.
    pub threads: Vec<ThreadSettings>,
}

/// Further settings of a thread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ThreadSettings {
    /// PR_SET_TIMERSLACK.
    pub timer_slack_ns: u64,
    /// PR_SET_TSC: what the thread may do with the time stamp counter.
    pub time_stamps: u32,
    /// PR_MCE_KILL: what happens when its memory fails.
    pub memory_failure: u32,
    /// PR_SET_SPECULATION_CTRL: the kernel's answers for store bypass, indirect branches, and
    /// flushes of the L1 cache. 0: it has no answer.
    pub speculation: [u32; 3],
}

/// A timer of timer_create(2). Times are in seconds and nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessTimer {
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
    /// The thread that gets the signal, if `notify` has SIGEV_THREAD_ID.
    pub thread: Pid,
    /// Its interval; zero: it expires once.
    pub interval: (i64, i64),
    /// Time left; zero: it is not armed.
    pub left: (i64, i64),
}

/// A lock of a range of a file, of a process or of an open file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordLock {
    /// Index in the image's open files: one of the file that is locked.
    pub file: u32,
    /// True if it excludes all others.
    pub exclusive: bool,
    /// The first byte.
    pub start: u64,
    /// Number of bytes; 0: to the end, wherever it is.
    pub len_bytes: u64,
}

/// Properties of an open file beside its kind, flags and offset.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attached {
    /// Index in the image's open files.
    pub file: u32,
    /// Receiver of its signals (F_SETOWN_EX): the type and the number.
    pub owner: Option<(i32, Pid)>,
    /// The signal that is sent in place of SIGIO (F_SETSIG).
    pub signal: i32,
    /// flock(2): true if it excludes all others.
    pub lock: Option<bool>,
    /// Locks of ranges that are the open file's (F_OFD_SETLK).
    pub record_locks: Vec<RecordLock>,
}

/// A process that ended and was not waited for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// Its number.
    pub pid: Pid,
    /// Index of its parent in the image's processes.
    pub parent: u32,
    /// Its process group.
    pub group: Pid,
    /// Its session.
    pub session: Pid,
    /// The name of its program.
    pub name: Vec<u8>,
    /// The status that its parent gets, as of wait(2).
    pub status: i32,
    /// The signal that its parent got when it ended.
    pub exit_signal: i32,
}
