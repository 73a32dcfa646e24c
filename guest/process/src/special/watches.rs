//! inotify(7): watches of files, with their numbers.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{info, unreadable};
use crate::sys;

/// Watches that are made and given up to come to a number, at most.
const NUMBERS_MAX: i32 = 1 << 16;

/// A file of inotify(7).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watches {
    /// Its watches, by number.
    pub watches: Vec<Watch>,
}

/// A watch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watch {
    /// Its number.
    pub number: i32,
    /// Events that it waits for, with the flags of inotify_add_watch(2).
    pub mask: u32,
    /// Path of the file or directory.
    pub path: Vec<u8>,
}

/// A watch as the kernel shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Shown {
    number: i32,
    mask: u32,
    inode: u64,
    /// Major and minor number.
    device: (u32, u32),
    handle_kind: i32,
    handle: Vec<u8>,
}

impl Watches {
    /// Reads the watches of a file; the inner error says why they cannot be kept.
    pub fn read(copy: BorrowedFd) -> io::Result<Result<Self, String>> {
        if sys::is_ready(copy, libc::POLLIN)? {
            return Ok(Err("is an inotify with events that were not read".into()));
        }
        let mut watches = Vec::new();
        for shown in parse(&info(copy)?)? {
            let Some(path) = find(&shown) else {
                return Ok(Err(format!(
                    "is an inotify that watches a file whose path is not found (inode {})",
                    shown.inode
                )));
            };
            watches.push(Watch {
                number: shown.number,
                mask: shown.mask,
                path: path.as_os_str().as_bytes().to_vec(),
            });
        }
        watches.sort_unstable_by_key(|watch| watch.number);
        Ok(Ok(Self { watches }))
    }

    /// Makes it without watches: to restart processes would cause events.
    pub(super) fn make(&self) -> io::Result<OwnedFd> {
        sys::watches()
    }

    /// Adds its watches, each with its number.
    pub(super) fn start(&self, made: &OwnedFd) -> io::Result<()> {
        for watch in &self.watches {
            // A kernel without this counts: watches are made until one has the number.
            let _ = sys::choose_next_watch(made.as_fd(), watch.number);
            for _ in 0..NUMBERS_MAX {
                let number = sys::add_watch(made.as_fd(), &watch.path, watch.mask)?;
                if number == watch.number {
                    break;
                }
                sys::remove_watch(made.as_fd(), number)?;
                if number > watch.number {
                    return Err(io::ErrorKind::AlreadyExists.into());
                }
            }
        }
        sys::drain(made.as_fd())
    }

    /// Says what is wrong with a record, if anything is.
    pub fn fault(&self) -> Option<&'static str> {
        let mut numbers = self.watches.iter().map(|watch| watch.number);
        let valid = numbers.all(|number| number > 0);
        let ordered = self.watches.windows(2);
        let mut ordered = ordered.map(|pair| pair[0].number < pair[1].number);
        (!valid || !ordered.all(|is| is)).then_some("watches are not in order")
    }
}

/// The path of a watched file, by its handle.
fn find(shown: &Shown) -> Option<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    let device = format!("{}:{}", shown.device.0, shown.device.1);
    // Number, parent, device, root, place.
    let places = mounts.lines().filter_map(|line| {
        let words: Vec<&str> = line.split(' ').collect();
        (*words.get(2)? == device).then(|| words.get(4).copied())?
    });
    places.into_iter().find_map(|place| {
        let mount = std::fs::File::open(place).ok()?;
        let found = sys::open_by_handle(mount.as_fd(), shown.handle_kind, &shown.handle).ok()?;
        let link = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&found));
        let path = std::fs::read_link(&link).ok()?;
        let identity = |path: &Path| {
            let found = std::fs::metadata(path).ok()?;
            Some((found.dev(), found.ino()))
        };
        let is_it = identity(&path) == identity(Path::new(&link)) && identity(&path).is_some();
        is_it.then_some(path)
    })
}

/// Reads lines such as `inotify wd:1 ino:5b2 sdev:1d mask:3ce ignored_mask:0 fhandle-bytes:8
/// fhandle-type:1 f_handle:b205000000000000`.
fn parse(info: &str) -> io::Result<Vec<Shown>> {
    let lines = info
        .lines()
        .filter_map(|line| line.strip_prefix("inotify "));
    lines
        .map(|line| parse_line(line).ok_or_else(unreadable))
        .collect()
}

fn parse_line(line: &str) -> Option<Shown> {
    const MINOR_BITS: u32 = 20;
    let word = |key: &str| {
        let mut words = line.split_ascii_whitespace();
        words.find_map(|word| word.strip_prefix(key)?.strip_prefix(':'))
    };
    let number = |key: &str| u32::from_str_radix(word(key)?, 16).ok();
    let device = number("sdev")?;
    // A file system may have none.
    let digits = word("f_handle").unwrap_or_default().as_bytes();
    let bytes = digits.chunks(2).map(|pair| {
        let pair = std::str::from_utf8(pair).ok()?;
        u8::from_str_radix(pair, 16).ok()
    });
    let handle: Vec<u8> = bytes.collect::<Option<_>>()?;
    Some(Shown {
        number: word("wd")?.parse().ok()?,
        mask: number("mask")?,
        inode: u64::from_str_radix(word("ino")?, 16).ok()?,
        device: (device >> MINOR_BITS, device & ((1 << MINOR_BITS) - 1)),
        handle_kind: number("fhandle-type").unwrap_or(0) as i32,
        handle: handle
            .get(..number("fhandle-bytes").unwrap_or(0) as usize)?
            .to_vec(),
    })
}

#[cfg(test)]
#[path = "watches_test.rs"]
mod watches_test;
