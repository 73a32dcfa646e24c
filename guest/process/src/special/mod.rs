//! Files without a path that have a state of their own: each kind with what /proc says of it, its
//! record in an image, and how it is made again. A kind is a module here and a variant below.
//!
//! A poll set is more than that: it names other open files. Its entries are gathered by the capture
//! and added by the process itself (`restart/poll_sets.rs`).

mod event_counter;
mod poll_set;
mod signals;
mod socket;
mod socket_options;
mod socket_pair;
mod terminal;
mod terminal_content;
mod terminal_modes;
mod timer;
mod watches;

pub use event_counter::EventCounter;
pub use poll_set::{Entry, FLAGS, entries};
pub use signals::Signals;
pub use socket::{Socket, SocketState};
pub use socket_options::SocketOption;
pub use socket_pair::{Connection, SocketEnd, SocketPair};
pub use terminal::{Terminal, TerminalEnd};
pub use terminal_content::{Stopped, TerminalContent, TerminalLine};
pub use timer::Timer;
pub use watches::{Watch, Watches};

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use serde::{Deserialize, Serialize};

/// The state of a file without a path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Special {
    /// eventfd(2).
    EventCounter(EventCounter),
    /// timerfd_create(2).
    Timer(Timer),
    /// signalfd(2).
    Signals(Signals),
    /// inotify(7), since version 4.
    Watches(Watches),
}

/// The kind of a file without a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpecialKind {
    /// eventfd(2).
    EventCounter,
    /// timerfd_create(2).
    Timer,
    /// signalfd(2).
    Signals,
    /// epoll_create(2).
    PollSet,
    /// inotify_init(2).
    Watches,
}

impl SpecialKind {
    /// The kind, by the target of a descriptor's link in /proc.
    pub fn of(link: &str) -> Option<Self> {
        match link {
            "anon_inode:[eventfd]" => Some(Self::EventCounter),
            "anon_inode:[timerfd]" => Some(Self::Timer),
            "anon_inode:[signalfd]" => Some(Self::Signals),
            "anon_inode:[eventpoll]" => Some(Self::PollSet),
            "anon_inode:inotify" => Some(Self::Watches),
            _ => None,
        }
    }

    /// A word for messages.
    pub fn word(self) -> &'static str {
        match self {
            Self::EventCounter => "an eventfd",
            Self::Timer => "a timerfd",
            Self::Signals => "a signalfd",
            Self::PollSet => "an epoll",
            Self::Watches => "an inotify",
        }
    }
}

impl Special {
    /// Reads the state of a file whose processes stand still; none for a poll set. `copy` is a
    /// descriptor of the same open file.
    pub fn read(kind: SpecialKind, copy: BorrowedFd) -> io::Result<Option<Self>> {
        Ok(match kind {
            SpecialKind::EventCounter => Some(Self::EventCounter(EventCounter::read(copy)?)),
            SpecialKind::Timer => Some(Self::Timer(Timer::read(copy)?)),
            SpecialKind::Signals => Some(Self::Signals(Signals::read(copy)?)),
            // Those that cannot be kept were refused.
            SpecialKind::Watches => Some(Self::Watches(
                Watches::read(copy)?.map_err(io::Error::other)?,
            )),
            SpecialKind::PollSet => None,
        })
    }

    /// Makes it again. A timer does not run yet.
    pub fn make(&self) -> io::Result<OwnedFd> {
        match self {
            Self::EventCounter(counter) => counter.make(),
            Self::Timer(timer) => timer.make(),
            Self::Signals(signals) => signals.make(),
            Self::Watches(watches) => watches.make(),
        }
    }

    /// Does what must come last, just before its processes run.
    pub fn start(&self, made: &OwnedFd) -> io::Result<()> {
        match self {
            Self::Timer(timer) => timer.start(made.as_fd()),
            Self::Watches(watches) => watches.start(made),
            Self::EventCounter(_) | Self::Signals(_) => Ok(()),
        }
    }

    /// Says what is wrong with a record, if anything is.
    pub fn fault(&self) -> Option<&'static str> {
        match self {
            Self::EventCounter(counter) => counter.fault(),
            Self::Timer(timer) => timer.fault(),
            Self::Watches(watches) => watches.fault(),
            Self::Signals(_) => None,
        }
    }
}

/// The text of an open file in /proc/PID/fdinfo, by a descriptor of this process.
fn info(copy: BorrowedFd) -> io::Result<String> {
    std::fs::read_to_string(format!("/proc/self/fdinfo/{}", copy.as_raw_fd()))
}

/// The value of a line `key: value`.
fn field<'a>(info: &'a str, key: &str) -> io::Result<&'a str> {
    let line = info
        .lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    line.map(str::trim).ok_or_else(unreadable)
}

fn unreadable() -> io::Error {
    io::ErrorKind::InvalidData.into()
}

#[cfg(test)]
#[path = "special_test.rs"]
mod special_test;
