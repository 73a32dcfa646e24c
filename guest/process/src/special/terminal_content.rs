//! Content of the buffers of a pseudo-terminal. Linux has no way to look at it: it is taken out and
//! put back while nobody reads or writes.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::BorrowedFd;
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::terminal_modes::{INPUT, Modes};
use crate::sys;

/// More than the kernel keeps in one direction.
const BYTES_MAX: usize = 1 << 20;
const READ_BYTES: usize = 8192;
/// Time that the kernel may take to pass on what was written.
const PATIENCE: Duration = Duration::from_secs(5);
/// Any byte: it stands for something for the moment of one byte only.
const SPECIAL: u8 = 1;

/// Bytes that were written and not read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalContent {
    /// On the way to the master.
    pub output: Vec<u8>,
    /// Lines on the way to the other end, where that reads lines (ICANON).
    pub lines: Vec<TerminalLine>,
    /// Behind the lines: one that is being typed. Where the other end reads bytes: all of them.
    pub rest: Vec<u8>,
    /// Input that the terminal has not received yet.
    pub unread: Vec<u8>,
    /// Reason why the other end cannot write, if it cannot.
    pub stopped: Stopped,
}

/// A line that was received and not read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalLine {
    /// Its bytes, with the one that ends it.
    pub bytes: Vec<u8>,
    /// True if it was ended as a file ends (VEOF), by none of its bytes.
    pub ends_file: bool,
}

/// The reason why a terminal's output stands still.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stopped {
    /// None: it does not.
    #[default]
    No,
    /// A key (VSTOP).
    ByKey,
    /// tcflow(3).
    ByCall,
}

impl TerminalContent {
    /// True if this kernel lets a privileged process insert input.
    pub fn can_be_put_back() -> bool {
        // From 6.2 to 6.6 a setting forbids it for all, later for those without privileges.
        const SINCE: (u32, u32) = (6, 7);
        let setting = std::fs::read_to_string("/proc/sys/dev/tty/legacy_tiocsti");
        if setting.is_ok_and(|setting| setting.trim() != "0") {
            return true;
        }
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let mut numbers = release
            .split(['.', '-'])
            .map(|word| word.parse().unwrap_or(0));
        let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
        version >= SINCE || version < (6, 2)
    }

    /// Takes everything out of a terminal. The modes are other ones afterwards. After an error this
    /// has what was taken so far.
    pub fn take(&mut self, master: BorrowedFd, slave: BorrowedFd, modes: &Modes) -> io::Result<()> {
        read_all(master, &mut self.output)?;
        if !can_write(slave)? {
            sys::set_flow(slave, true)?;
            self.stopped = match can_write(slave)? {
                true => Stopped::ByCall,
                false => Stopped::ByKey,
            };
        }
        if modes.reads_lines() {
            while let Some(bytes) = read_once(slave)? {
                let last = bytes.last().copied();
                self.lines.push(TerminalLine {
                    ends_file: !last.is_some_and(|last| ends_line(modes, last)),
                    bytes,
                });
            }
        }
        modes.plain(false).set(slave)?;
        // What comes from here on was received without any mode.
        let received = sys::queued(slave)?;
        let read = read_all(slave, &mut self.rest);
        self.unread = self.rest.split_off(received.min(self.rest.len()));
        read
    }

    /// Puts it into an empty terminal, but for what the terminal has not received. The modes are
    /// not set afterwards.
    pub fn fill(&self, master: BorrowedFd, slave: BorrowedFd, modes: &Modes) -> io::Result<()> {
        let plain = modes.plain(false);
        plain.set(slave)?;
        write_all(slave, &self.output)?;
        if !self.output.is_empty() {
            wait_until_ready(master)?;
        }
        if modes.reads_lines() {
            let by_lines = modes.plain(true);
            by_lines.set(slave)?;
            for line in &self.lines {
                insert_line(slave, &by_lines, line)?;
            }
            insert(slave, &by_lines, &self.rest)?;
        } else {
            insert(slave, &plain, &self.rest)?;
        }
        match self.stopped {
            Stopped::No => Ok(()),
            Stopped::ByCall => sys::set_flow(slave, false),
            Stopped::ByKey => {
                let now = modes.plain(modes.reads_lines());
                let stops = now.with_word(INPUT, libc::IXON);
                stops.with_character(libc::VSTOP, SPECIAL).set(slave)?;
                sys::insert_byte(slave, SPECIAL)
            }
        }
    }

    /// Sends what the terminal has not received, by the master. The terminal does with it what its
    /// modes say.
    pub fn send_unread(&self, master: BorrowedFd) -> io::Result<()> {
        write_all(master, &self.unread)
    }

    /// Says what is wrong with a record, if anything is.
    pub fn fault(&self) -> Option<&'static str> {
        let lines = self.lines.iter().map(|line| line.bytes.len() + 1);
        let all = lines.sum::<usize>() + self.output.len() + self.rest.len() + self.unread.len();
        (all > BYTES_MAX).then_some("a terminal has more in it than it can")
    }
}

/// True if this byte ends a line.
fn ends_line(modes: &Modes, byte: u8) -> bool {
    let of_modes = [libc::VEOL, libc::VEOL2].map(|which| modes.character(which));
    byte == b'\n' || byte != 0 && of_modes.contains(&byte)
}

/// Inserts a line, with its end.
fn insert_line(slave: BorrowedFd, modes: &Modes, line: &TerminalLine) -> io::Result<()> {
    let mut bytes = &line.bytes[..];
    let mut end = (SPECIAL, libc::VEOF);
    if let (Some((last, before)), false) = (bytes.split_last(), line.ends_file) {
        (bytes, end) = (before, (*last, libc::VEOL));
    }
    insert(slave, modes, bytes)?;
    let (byte, which) = end;
    if byte == b'\n' {
        return sys::insert_byte(slave, byte);
    }
    modes.with_character(which, byte).set(slave)?;
    sys::insert_byte(slave, byte)?;
    modes.set(slave)
}

/// Inserts bytes that end no line.
fn insert(slave: BorrowedFd, modes: &Modes, bytes: &[u8]) -> io::Result<()> {
    for byte in bytes {
        if *byte == b'\n' && modes.reads_lines() {
            // The next byte is an ordinary one.
            modes.with_character(libc::VLNEXT, SPECIAL).set(slave)?;
            sys::insert_byte(slave, SPECIAL)?;
            sys::insert_byte(slave, *byte)?;
            modes.set(slave)?;
        } else {
            sys::insert_byte(slave, *byte)?;
        }
    }
    Ok(())
}

fn can_write(slave: BorrowedFd) -> io::Result<bool> {
    Ok(sys::ready_for(slave, libc::POLLOUT)? & libc::POLLOUT != 0)
}

/// Reads what is there at once. None: nothing.
fn read_once(end: BorrowedFd) -> io::Result<Option<Vec<u8>>> {
    if sys::ready_for(end, libc::POLLIN)? & libc::POLLIN == 0 {
        return Ok(None);
    }
    let mut bytes = vec![0; READ_BYTES];
    let len = File::from(end.try_clone_to_owned()?).read(&mut bytes)?;
    bytes.truncate(len);
    Ok(Some(bytes))
}

fn read_all(end: BorrowedFd, all: &mut Vec<u8>) -> io::Result<()> {
    while let Some(bytes) = read_once(end)?.filter(|bytes| !bytes.is_empty()) {
        all.extend(bytes);
    }
    Ok(())
}

/// Writes all bytes. The kernel passes them on by and by.
fn write_all(end: BorrowedFd, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::from(end.try_clone_to_owned()?);
    let (mut rest, began) = (bytes, Instant::now());
    while !rest.is_empty() {
        if can_write(end)? {
            // No more than there is room for at once: the master may be one that waits.
            let part = rest.len().min(256);
            match file.write(&rest[..part]) {
                Ok(len) => rest = &rest[len..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        } else if began.elapsed() > PATIENCE {
            return Err(io::ErrorKind::TimedOut.into());
        } else {
            thread::sleep(Duration::from_millis(1));
        }
    }
    Ok(())
}

fn wait_until_ready(master: BorrowedFd) -> io::Result<()> {
    let began = Instant::now();
    while sys::ready_for(master, libc::POLLIN)? & libc::POLLIN == 0 {
        if began.elapsed() > PATIENCE {
            return Err(io::ErrorKind::TimedOut.into());
        }
        thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}
