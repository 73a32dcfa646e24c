//! Pseudo-terminals with their old numbers, and the sessions that they control.

use std::collections::HashMap;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;

use super::check::path;
use super::fetch::Fetch;
use super::files::{OpenFiles, with_flags};
use super::makers::take;
use super::stubs::{Stub, Stubs};
use crate::error::{Error, Pid, failed};
use crate::image::{Image, OpenFile, Terminal, TerminalEnd, What};
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
    pub fn open(&self, file: &OpenFile, terminal: u32, end: TerminalEnd) -> Result<OwnedFd, Error> {
        let master = &self.made[terminal as usize].master;
        match end {
            TerminalEnd::Master => with_flags(file, master.try_clone()),
            TerminalEnd::Slave => {
                let harmless = file.flags & !(libc::O_CREAT | libc::O_TRUNC | libc::O_ASYNC);
                sys::open_peer(master.as_fd(), harmless).map_err(failed("open a terminal"))
            }
            TerminalEnd::Controlling => with_flags(file, sys::event_counter(false)),
        }
    }

    /// Gives the leader of a session its controlling terminal. Those that it forks have it, too.
    pub fn control(&self, stub: &Stub) -> Result<(), Error> {
        let pid = stub.process.pid;
        let terminals = self.image.terminals.iter().zip(&self.made);
        for (_, made) in terminals.filter(|(terminal, _)| terminal.session == pid) {
            let arguments = [libc::TIOCSCTTY, 0];
            made.ask(stub, "take a controlling terminal", arguments)?;
        }
        Ok(())
    }

    /// Sets the foreground groups, all of which are there, and takes the terminals from those that
    /// have given them up. Opens them as the controlling ones.
    pub fn set(&self, stubs: &mut Stubs, files: &mut OpenFiles) -> Result<(), Error> {
        for (index, (terminal, made)) in (0..).zip(self.image.terminals.iter().zip(&self.made)) {
            if terminal.session == 0 {
                continue;
            }
            let stub = find(stubs, terminal.session)?;
            if terminal.foreground != 0 {
                let group = stub.put(&terminal.foreground.to_le_bytes())?;
                let arguments = [libc::TIOCSPGRP, group];
                made.ask(stub, "set the foreground group", arguments)?;
            }
            for (number, file) in (0..).zip(&self.image.files) {
                let end = TerminalEnd::Controlling;
                if file.what
                    == (What::Terminal {
                        terminal: index,
                        end,
                    })
                {
                    files.put(number, open_controlling(stub, file)?);
                }
            }
            for pid in &terminal.without {
                let arguments = [libc::TIOCNOTTY, 0];
                let stub = find(stubs, *pid)?;
                made.ask(stub, "give up a controlling terminal", arguments)?;
            }
        }
        Ok(())
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
    fn ask(&self, stub: &Stub, op: &str, [request, argument]: [u64; 2]) -> Result<(), Error> {
        let slave = self.slave.as_ref();
        let slave = slave.ok_or(Error::BadImage("a session has a terminal that hung up"))?;
        let fetch = Fetch::new(&stub.blank, 0)?;
        let fd = fetch.get(&stub.blank, slave.as_raw_fd())?;
        stub.call(op, libc::SYS_ioctl, &[fd, request, argument])?;
        stub.call("close a descriptor", libc::SYS_close, &[fd])?;
        fetch.end(&stub.blank)
    }
}

/// Opens /dev/tty as the leader of a session does.
fn open_controlling(stub: &Stub, file: &OpenFile) -> Result<OwnedFd, Error> {
    let name = stub.put(b"/dev/tty\0")?;
    let flags = file.flags & (libc::O_ACCMODE | libc::O_NONBLOCK) | libc::O_NOCTTY;
    let at = libc::AT_FDCWD as u64;
    let arguments = [at, name, (flags | libc::O_CLOEXEC) as u64, 0];
    let fd = stub.call("open /dev/tty", libc::SYS_openat, &arguments)?;
    take(stub, fd)
}

fn find<'s, 'i>(stubs: &'s mut Stubs<'i>, pid: Pid) -> Result<&'s Stub<'i>, Error> {
    let stubs: &'s [Stub<'i>] = stubs.all();
    let found = stubs.iter().find(|stub| stub.process.pid == pid);
    found.ok_or(Error::BadImage("a terminal is of a session that is none"))
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
