//! Pseudo-terminals whose master an observed process has.

use std::collections::{BTreeMap, HashMap};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;

use super::files::borrow;
use super::observed::Observed;
use crate::error::{Error, Pid, ProcessPart, failed};
use crate::observe::{self, Descriptor, ElsewhereFile, TerminalFile, identity};
use crate::special::{Terminal, TerminalEnd};
use crate::sys;

/// Pseudo-terminals, by number.
#[derive(Debug, Default)]
pub struct Terminals {
    known: BTreeMap<u32, Known>,
    /// The terminal of each descriptor for /dev/tty.
    controlling: HashMap<(Pid, i32), u32>,
}

#[derive(Debug)]
struct Known {
    /// Its master: a process and a descriptor.
    master: (Pid, i32),
    terminal: Terminal,
    /// The reason why it cannot be kept.
    refusal: Option<String>,
}

/// True if a process has a master open.
pub fn has_master(process: &Observed) -> bool {
    let mut descriptors = process.descriptors.iter();
    descriptors.any(|open| matches!(open.terminal(), Some(TerminalFile::Master(_))))
}

impl Terminals {
    /// Looks at the terminals of these processes, and at what others have of them.
    pub fn look(processes: &[Observed], elsewhere: &[ElsewhereFile]) -> Self {
        let mut found = Self::default();
        for process in processes {
            for open in &process.descriptors {
                if let Some(TerminalFile::Master(number)) = open.terminal() {
                    let master = (process.pid, open.fd);
                    let known = || Known::look(number, master, open);
                    found.known.entry(number).or_insert_with(known);
                }
            }
        }
        if found.known.is_empty() {
            return found;
        }
        found.controlling = controlling(processes);
        let numbers: Vec<u32> = found.known.keys().copied().collect();
        for number in numbers {
            let is_opened = found.is_opened(number, processes);
            let Some(known) = found.known.get_mut(&number) else {
                continue;
            };
            let holder = known
                .holder(processes, elsewhere)
                .map(|holder| format!("that process {} has, too", observe::named(holder)));
            let never = (known.terminal.is_open && !is_opened)
                .then(|| "whose other end nobody has opened yet".to_owned());
            let led = known.find_session(processes);
            let refusal = known.refusal.take();
            known.refusal = holder.or(led).or(never).or(refusal);
        }
        found
    }

    /// True if an observed process has the other end open.
    fn is_opened(&self, number: u32, processes: &[Observed]) -> bool {
        let mut all = processes.iter().flat_map(|process| &process.descriptors);
        let is_slave = |open: &Descriptor| open.terminal() == Some(TerminalFile::Slave(number));
        all.any(is_slave) || self.controlling.values().any(|other| *other == number)
    }

    /// The terminal of an open file, and which end of it that is; or why it cannot be kept. None:
    /// it is none whose master is here.
    pub fn end(&self, pid: Pid, open: &Descriptor) -> Option<Result<(u32, TerminalEnd), String>> {
        let (number, end) = match open.terminal()? {
            TerminalFile::Master(number) => (number, TerminalEnd::Master),
            TerminalFile::Slave(number) => (number, TerminalEnd::Slave),
            TerminalFile::Controlling => {
                let number = self.controlling.get(&(pid, open.fd))?;
                (*number, TerminalEnd::Controlling)
            }
        };
        let known = self.known.get(&number)?;
        if let Some(reason) = &known.refusal {
            let shown = known.terminal.path();
            return Some(Err(format!("is a terminal ({}) {reason}", shown.display())));
        }
        let is_there = || identity(&known.terminal.path()) == Some((open.device, open.inode));
        (end != TerminalEnd::Slave || is_there()).then_some(Ok((number, end)))
    }

    /// Takes a terminal whose processes stand still, with what is in it.
    pub fn take(&self, number: u32, processes: &[Observed]) -> Result<Terminal, Error> {
        let changed = || Error::BadImage("a terminal changed while its process stood still");
        let known = self.known.get(&number).ok_or_else(changed)?;
        let mut terminal = known.terminal.clone();
        if terminal.session == 0 {
            // A group of a session that is gone.
            terminal.foreground = 0;
        }
        let (pid, fd) = known.master;
        let master = borrow(pid, fd)?;
        let read = terminal.read_content(master.as_fd());
        match read.map_err(failed(format!(
            "read the terminal of fd {fd} of process {pid}"
        )))? {
            Ok(()) => Ok(terminal),
            Err(reason) => {
                let process = processes.iter().find(|process| process.pid == pid);
                let process = process.ok_or_else(changed)?;
                let shown = terminal.path();
                let reason = format!("is a terminal ({}) {reason}", shown.display());
                let refusal = process.refuse(ProcessPart::Descriptor(fd), reason);
                Err(Error::Refused(vec![refusal]))
            }
        }
    }
}

impl Known {
    fn look(number: u32, master: (Pid, i32), open: &Descriptor) -> Self {
        let path = open.name.as_os_str().as_bytes();
        let looked = borrow(master.0, master.1).map(|copy| {
            let looked = Terminal::look(number, path, copy.as_fd());
            looked.unwrap_or_else(|error| Err(format!("that cannot be read: {error}")))
        });
        let (terminal, refusal) = match looked {
            Ok(Ok(terminal)) => (terminal, None),
            Ok(Err(reason)) => (Terminal::default(), Some(reason)),
            Err(error) => (
                Terminal::default(),
                Some(format!("that cannot be had: {error}")),
            ),
        };
        Self {
            master,
            terminal: Terminal { number, ..terminal },
            refusal,
        }
    }

    /// A process outside that has an end of it, or has it as its controlling terminal.
    fn holder(&self, processes: &[Observed], elsewhere: &[ElsewhereFile]) -> Option<Pid> {
        let number = self.terminal.number;
        let slave = self.terminal.path();
        let has_end = |file: &&ElsewhereFile| match file.name.as_str() {
            "/dev/tty" => device_of(file.pid, file.fd) == Some(number),
            name if name.as_bytes() == slave.as_os_str().as_bytes() => true,
            // A process that ended meanwhile has nothing open.
            _ => sys::same_open_file(self.master, (file.pid, file.fd)).unwrap_or(false),
        };
        let found = elsewhere.iter().find(has_end).map(|file| file.pid);
        found.or_else(|| {
            let all = observe::all_processes().unwrap_or_default();
            let is_other = |pid: &Pid| processes.iter().all(|process| process.pid != *pid);
            let mut others = all.into_iter().filter(is_other);
            others.find(|pid| observe::controlling_terminal(*pid) == Some(number))
        })
    }

    /// Notes the session that it controls. Answers the refusal of one whose leader is not here.
    fn find_session(&mut self, processes: &[Observed]) -> Option<String> {
        let number = Some(self.terminal.number);
        let has_it = |process: &&Observed| process.terminal == number;
        let session = processes.iter().find(has_it)?.leader().session;
        let leader = processes.iter().find(|process| process.pid == session);
        if !leader.is_some_and(|leader| has_it(&leader)) {
            return Some(format!(
                "of the session of process {}, which is not captured with it",
                observe::named(session)
            ));
        }
        let members = processes.iter();
        let members = members.filter(|process| process.leader().session == session);
        let without = members.filter(|process| !has_it(process));
        self.terminal.without = without.map(|process| process.pid).collect();
        self.terminal.session = session;
        None
    }
}

/// The terminals of descriptors for /dev/tty.
fn controlling(processes: &[Observed]) -> HashMap<(Pid, i32), u32> {
    let mut found = HashMap::new();
    for process in processes {
        for open in &process.descriptors {
            if open.terminal() == Some(TerminalFile::Controlling)
                && let Some(number) = device_of(process.pid, open.fd)
            {
                found.insert((process.pid, open.fd), number);
            }
        }
    }
    found
}

/// The number of the pseudo-terminal that an open file is of.
fn device_of(pid: Pid, fd: i32) -> Option<u32> {
    let copy = borrow(pid, fd).ok()?;
    let device = sys::terminal_device(copy.as_fd()).ok()?;
    observe::pseudo_terminal(device)
}
