//! Pseudo-terminals (pty(7)) whose master is captured.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use nix::unistd::{Gid, Uid, chown};
use serde::{Deserialize, Serialize};

use super::terminal_content::TerminalContent;
use super::terminal_modes::{LOCAL, Modes};
use crate::error::Pid;
use crate::sys::{self, ModeBytes};

/// Paths at which a master is opened.
const MASTERS: [&[u8]; 2] = [b"/dev/ptmx", b"/dev/pts/ptmx"];
/// The highest number that a pseudo-terminal can have.
const NUMBER_MAX: u32 = 1 << 20;

/// A pseudo-terminal.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terminal {
    /// Its number: the other end is /dev/pts/NUMBER.
    pub number: u32,
    /// The path at which its master was opened.
    pub master: Vec<u8>,
    /// Its modes: `struct termios2`.
    pub modes: Vec<u8>,
    /// Rows, columns, and the same in pixels.
    pub window: [u16; 4],
    /// The master reads packets (TIOCPKT).
    pub packets: bool,
    /// Mode, user and group of the other end.
    pub file: (u32, u32, u32),
    /// Somebody has the other end open. If not, the master finds that it hung up.
    pub is_open: bool,
    /// The session that it controls, 0: none.
    pub session: Pid,
    /// The foreground process group, 0: none.
    pub foreground: Pid,
    /// Processes of that session that have given it up (TIOCNOTTY).
    pub without: Vec<Pid>,
    /// Content of its buffers.
    pub content: TerminalContent,
}

/// The end of a pseudo-terminal that an open file is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TerminalEnd {
    /// The master.
    Master,
    /// The other end, at /dev/pts/NUMBER.
    Slave,
    /// The other end, at /dev/tty: the controlling terminal of who has opened it.
    Controlling,
}

impl Terminal {
    /// The path of the other end.
    pub fn path(&self) -> PathBuf {
        format!("/dev/pts/{}", self.number).into()
    }

    /// Reads all that can be read without a change: all but its content, its session, and who has
    /// given it up. The inner error says why it cannot be kept.
    pub fn look(number: u32, path: &[u8], master: BorrowedFd) -> io::Result<Result<Self, String>> {
        if !MASTERS.contains(&path) {
            return Ok(Err("whose master was opened at another path".into()));
        }
        let mut found = Self {
            number,
            master: path.to_vec(),
            packets: sys::has_packets(master)?,
            window: sys::window_size(master)?,
            foreground: sys::foreground(master)?,
            ..Self::default()
        };
        let modes = Modes(sys::all_modes(master)?);
        found.modes = modes.0.to_vec();
        let events = sys::ready_for(master, libc::POLLPRI)?;
        found.is_open = events & libc::POLLHUP == 0;
        if found.packets && events & libc::POLLPRI != 0 {
            return Ok(Err("with a state that was not read (TIOCPKT)".into()));
        }
        if modes.discipline() != 0 {
            return Ok(Err("with another line discipline".into()));
        }
        if modes.has(LOCAL, libc::EXTPROC) {
            return Ok(Err("whose lines are edited elsewhere (EXTPROC)".into()));
        }
        if sys::has_locked_modes(master)? {
            return Ok(Err("with modes that are locked (TIOCSLCKTRMIOS)".into()));
        }
        let Ok(file) = std::fs::metadata(found.path()) else {
            return Ok(Err("whose other end has no path".into()));
        };
        found.file = (file.mode() & 0o777, file.uid(), file.gid());
        Ok(Ok(found))
    }

    /// Takes its content, and puts it back. All who have it open stand still.
    pub fn read_content(&mut self, master: BorrowedFd) -> io::Result<Result<(), &'static str>> {
        let slave = sys::open_peer(master, libc::O_RDWR | libc::O_NONBLOCK)?;
        if sys::is_exclusive(slave.as_fd())? {
            return Ok(Err("that nobody else can open (TIOCEXCL)"));
        }
        if !TerminalContent::can_be_put_back() {
            return Ok(Err("and this kernel cannot put back its input (TIOCSTI)"));
        }
        sys::set_packets(master, false)?;
        let modes = Modes::of(&self.modes)?;
        let taken = self.content.take(master, slave.as_fd(), &modes);
        // Also when something went wrong.
        let put_back = self.fill(master, slave.as_fd());
        let sent = self.content.send_unread(master);
        sys::set_packets(master, self.packets)?;
        taken.and(put_back).and(sent).map(Ok)
    }

    /// Sets up a fresh one with the same number, but for what it tells its processes.
    pub fn set_up(&self, master: &OwnedFd, slave: BorrowedFd) -> io::Result<()> {
        let (mode, user, group) = self.file;
        chown(
            &self.path(),
            Some(Uid::from_raw(user)),
            Some(Gid::from_raw(group)),
        )?;
        let permissions = std::os::unix::fs::PermissionsExt::from_mode(mode);
        std::fs::set_permissions(self.path(), permissions)?;
        sys::set_window_size(master.as_fd(), self.window)?;
        self.fill(master.as_fd(), slave)?;
        sys::set_packets(master.as_fd(), self.packets)
    }

    /// Gives an empty terminal its content, and its modes.
    fn fill(&self, master: BorrowedFd, slave: BorrowedFd) -> io::Result<()> {
        let modes = Modes::of(&self.modes)?;
        let filled = self.content.fill(master, slave, &modes);
        modes.set(slave).and(filled)
    }

    /// Says what is wrong with a record, if anything is.
    pub fn fault(&self) -> Option<&'static str> {
        if self.number >= NUMBER_MAX || self.modes.len() != size_of::<ModeBytes>() {
            return Some("a terminal has a number or modes that are none");
        }
        if !MASTERS.contains(&&self.master[..]) || self.file.0 > 0o777 {
            return Some("a terminal has paths or permissions that are none");
        }
        if (self.session == 0 && self.foreground != 0) || self.session < 0 || self.foreground < 0 {
            return Some("a terminal has a foreground and no session");
        }
        self.content.fault()
    }
}
