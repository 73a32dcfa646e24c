//! State of processes that /proc shows from outside.

use std::path::PathBuf;

use super::options::CaptureOptions;
use super::outside::Outside;
use crate::error::{Error, Pid, ProcessPart, Refusal};
use crate::observe::{self, Descriptor, EndedProcess, Mapping, Relations, Status, Vdso};
use crate::sys::{self, FileTable};

/// All information of /proc on a process.
#[derive(Debug)]
pub struct Observed {
    pub pid: Pid,
    /// The caller asked for this one, and not for a process that it descends from.
    pub is_asked: bool,
    /// The leader first.
    pub threads: Vec<(Pid, Status)>,
    pub mappings: Vec<Mapping>,
    pub descriptors: Vec<Descriptor>,
    /// Its children that run.
    pub children: Vec<Pid>,
    /// Its children that ended and were not waited for.
    pub ended: Vec<EndedProcess>,
    pub vdso: Option<Vdso>,
    /// Its root directory.
    pub root: PathBuf,
    /// The number of its controlling terminal, if that is a pseudo-terminal.
    pub terminal: Option<u32>,
}

impl Observed {
    fn read(pid: Pid, is_asked: bool) -> Result<Self, Error> {
        let mut threads = Vec::new();
        for tid in observe::threads(pid)? {
            match observe::status(pid, tid) {
                // The thread ended meanwhile.
                Err(Error::Gone(_)) if tid != pid => {}
                other => threads.push((tid, other?)),
            }
        }
        threads.sort_by_key(|(tid, _)| (*tid != pid, *tid));
        let mappings = observe::mappings(pid)?;
        let vdso = observe::find_vdso(pid, &mappings)?;
        let descriptors = observe::descriptors(pid)?;
        let (mut children, mut ended) = (Vec::new(), Vec::new());
        for child in observe::children(pid)? {
            match observe::ended(child) {
                // Its parent has just waited for it.
                Err(Error::Gone(_)) => {}
                found => match found? {
                    Some(child) => ended.push(child),
                    None => children.push(child),
                },
            }
        }
        Ok(Self {
            pid,
            is_asked,
            threads,
            mappings,
            descriptors,
            children,
            ended,
            vdso,
            root: std::fs::read_link(format!("/proc/{pid}/root")).unwrap_or_default(),
            terminal: observe::controlling_terminal(pid),
        })
    }

    /// True if its root directory is not that of this process.
    pub fn has_other_root(&self) -> bool {
        std::fs::read_link("/proc/self/root").ok().as_ref() != Some(&self.root)
    }

    /// The status of its first thread.
    pub fn leader(&self) -> &Status {
        &self.threads[0].1
    }

    /// A refusal of something of it.
    pub fn refuse(&self, place: ProcessPart, reason: impl Into<String>) -> Refusal {
        let name = || String::from_utf8_lossy(&self.leader().name).into_owned();
        Refusal {
            program: (!self.is_asked).then(name),
            ..Refusal::new(self.pid, place, reason)
        }
    }
}

/// A process outside that has a number of one of the observed ones as its group or session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Follower {
    pub pid: Pid,
    pub relations: Relations,
}

/// A resource that two processes have in common, which clone(2) can make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Common {
    pub pid: Pid,
    pub other: Pid,
    pub table: FileTable,
}

/// Processes that are looked at together.
#[derive(Debug)]
pub struct Observation {
    /// In the order asked for.
    pub processes: Vec<Observed>,
    /// Files that others have open, too.
    pub outside: Outside,
    /// Other processes that keep numbers of theirs in use, if those are to become free.
    pub followers: Vec<Follower>,
    /// Resources that they share with each other, or with other processes.
    pub common: Vec<Common>,
}

impl Observation {
    /// Observes processes that stand still, in this order.
    pub fn new(pids: &[Pid], options: CaptureOptions) -> Result<Self, Error> {
        let read = |(index, pid): (usize, &Pid)| Observed::read(*pid, index == 0);
        let processes = pids.iter().enumerate().map(read);
        Self::of(processes.collect::<Result<_, _>>()?, options)
    }

    /// Observes processes that run. One that cannot be read any more is left out, unless it is the
    /// first.
    pub fn of_running(pids: &[Pid], options: CaptureOptions) -> Result<Self, Error> {
        let mut processes = Vec::new();
        for (index, pid) in pids.iter().enumerate() {
            match Observed::read(*pid, index == 0) {
                Err(_) if index > 0 => {}
                other => processes.push(other?),
            }
        }
        Self::of(processes, options)
    }

    /// True if this is one of the processes, or an ended child of one.
    pub fn has(&self, pid: Pid) -> bool {
        let mut processes = self.processes.iter();
        processes
            .any(|process| process.pid == pid || process.ended.iter().any(|child| child.pid == pid))
    }

    /// True if a process waits in vfork(2): it shares its memory with a child of its own, and
    /// sleeps where nothing can interrupt it.
    pub fn has_vfork(&self) -> bool {
        let memory = |shared: &&Common| shared.table == FileTable::Memory;
        let mut shared = self.common.iter().filter(memory);
        shared.any(|shared| {
            let parent = self
                .processes
                .iter()
                .find(|process| process.pid == shared.pid);
            let waits = |process: &Observed| {
                let mut threads = process.threads.iter();
                threads.any(|(_, status)| status.state == 'D')
                    && process.children.contains(&shared.other)
            };
            parent.is_some_and(waits)
        })
    }

    fn of(processes: Vec<Observed>, options: CaptureOptions) -> Result<Self, Error> {
        let running: Vec<Pid> = processes.iter().map(|process| process.pid).collect();
        let ended = processes.iter().flat_map(|process| &process.ended);
        let pids: Vec<Pid> = (running.iter().copied())
            .chain(ended.map(|child| child.pid))
            .collect();
        let outside = Outside::look(&processes)?;
        let mut others = observe::all_processes()?;
        others.retain(|other| !pids.contains(other));
        Ok(Self {
            processes,
            outside,
            followers: match options.frees_numbers {
                true => followers(&pids, &others),
                false => Vec::new(),
            },
            common: common(&running, &others),
        })
    }
}

/// Those of `others` whose group or session is one of `pids`.
fn followers(pids: &[Pid], others: &[Pid]) -> Vec<Follower> {
    let follows = |pid: &Pid| {
        // It may end meanwhile.
        let relations = observe::relations(*pid).ok()?;
        let Relations { group, session } = relations;
        let follower = Follower {
            pid: *pid,
            relations,
        };
        (pids.contains(&group) || pids.contains(&session)).then_some(follower)
    };
    others.iter().filter_map(follows).collect()
}

/// Finds what `pids` share with each other and with `others`. Threads are not compared: those of
/// `pids` are, each with its process, elsewhere.
fn common(pids: &[Pid], others: &[Pid]) -> Vec<Common> {
    let mut found = Vec::new();
    for (index, pid) in pids.iter().enumerate() {
        for other in pids[index + 1..].iter().chain(others) {
            // Signal handlers are shared only where memory is.
            for table in [
                FileTable::Memory,
                FileTable::Descriptors,
                FileTable::Directories,
            ] {
                if sys::share_table(*pid, *other, table).unwrap_or(false) {
                    found.push(Common {
                        pid: *pid,
                        other: *other,
                        table,
                    });
                }
            }
        }
    }
    found
}
