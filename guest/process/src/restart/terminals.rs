//! Pseudo-terminals with their old numbers.

use std::collections::HashMap;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;

use super::blank::Blank;
use super::check::path;
use super::fetch::Fetch;
use crate::error::{Error, Pid, failed};
use crate::image::{Image, Terminal, TerminalEnd};
use crate::sys;

/// The pseudo-terminals of an image, in its order.
#[derive(Debug)]
pub struct Terminals<'a> {
    image: &'a Image,
    made: Vec<Made>,
}

#[derive(Debug)]
struct Made {
    master: OwnedFd,
    /// Until the processes have it: without anybody who has it open it would hang up.
    slave: Option<OwnedFd>,
}

impl<'a> Terminals<'a> {
    /// Makes them, with what is in them.
    pub fn make(image: &'a Image) -> Result<Self, Error> {
        let mut masters = masters(&image.terminals)?;
        let mut made = Vec::new();
        for terminal in &image.terminals {
            let doing = || failed(format!("set up the terminal {}", terminal.path().display()));
            let master = masters.remove(&terminal.number);
            let master = master.ok_or(Error::BadImage("a terminal is there twice"))?;
            sys::unlock_terminal(master.as_fd()).map_err(doing())?;
            let flags = libc::O_RDWR | libc::O_NONBLOCK;
            let slave = sys::open_peer(master.as_fd(), flags).map_err(doing())?;
            terminal.set_up(&master, slave.as_fd()).map_err(doing())?;
            let slave = terminal.is_open.then_some(slave);
            made.push(Made { master, slave });
        }
        Ok(Self { image, made })
    }

    /// An open file of an end. One that is opened as the controlling terminal comes later.
    pub fn open(&self, flags: i32, terminal: u32, end: TerminalEnd) -> Result<OwnedFd, Error> {
        let master = &self.made[terminal as usize].master;
        let opened = match end {
            TerminalEnd::Master => master.try_clone(),
            TerminalEnd::Slave => {
                let harmless = flags & !(libc::O_CREAT | libc::O_TRUNC | libc::O_ASYNC);
                sys::open_peer(master.as_fd(), harmless)
            }
            TerminalEnd::Controlling => sys::event_counter(false),
        };
        opened.map_err(failed("open a terminal"))
    }

    /// Gives the leader of a session its controlling terminal. Those that it forks have it, too.
    pub fn control(&self, blank: &Blank, pid: Pid) -> Result<(), Error> {
        let terminals = self.image.terminals.iter().zip(&self.made);
        for (_, made) in terminals.filter(|(terminal, _)| terminal.session == pid) {
            let arguments = [libc::TIOCSCTTY, 0];
            made.ask(blank, "take a controlling terminal", arguments)?;
        }
        Ok(())
    }

    /// Has a stub make a request of a terminal: its number and argument.
    pub fn ask(
        &self,
        terminal: usize,
        blank: &Blank,
        op: &str,
        request: [u64; 2],
    ) -> Result<(), Error> {
        self.made[terminal].ask(blank, op, request)
    }

    /// Sends what the terminals had not received yet, just before the processes run.
    pub fn start(&self) -> Result<(), Error> {
        for (terminal, made) in self.image.terminals.iter().zip(&self.made) {
            let sent = terminal.content.send_unread(made.master.as_fd());
            sent.map_err(failed("write to a terminal"))?;
        }
        Ok(())
    }
}

impl Made {
    /// Has a stub make a request of the terminal.
    fn ask(&self, blank: &Blank, op: &str, [request, argument]: [u64; 2]) -> Result<(), Error> {
        let slave = self.slave.as_ref();
        let slave = slave.ok_or(Error::BadImage("a session has a terminal that hung up"))?;
        let fetch = Fetch::new(blank, 0)?;
        let fd = fetch.get(blank, slave.as_raw_fd())?;
        blank.call(op, libc::SYS_ioctl, &[fd, request, argument])?;
        blank.call("close a descriptor", libc::SYS_close, &[fd])?;
        fetch.end(blank)
    }
}

/// Opens masters until these numbers are among theirs: the kernel gives the lowest free one.
fn masters(terminals: &[Terminal]) -> Result<HashMap<u32, OwnedFd>, Error> {
    let mut found = HashMap::new();
    let mut others = Vec::new();
    let highest = terminals.iter().map(|terminal| terminal.number).max();
    for terminal in terminals {
        while !found.contains_key(&terminal.number) {
            let doing = format!("make the terminal {}", terminal.path().display());
            let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
            let master = open(&path(&terminal.master), flags, Mode::empty());
            let master = master.map_err(failed(doing.clone()))?;
            let number = sys::terminal_number(master.as_fd()).map_err(failed(doing.clone()))?;
            if terminals.iter().any(|other| other.number == number) {
                found.insert(number, master);
            } else if Some(number) < highest {
                others.push(master);
            } else {
                // Somebody has just made one.
                return Err(failed(doing)(nix::errno::Errno::EEXIST));
            }
        }
    }
    Ok(found)
}
