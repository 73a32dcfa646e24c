//! State of processes that /proc shows from outside.

use std::collections::HashSet;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::error::{Error, Pid, ProcessPart, Refusal};
use crate::observe::{self, Descriptor, Mapping, Status, Vdso};

/// All information of /proc on a process.
#[derive(Debug)]
pub struct Observed {
    pub pid: Pid,
    /// The leader first.
    pub threads: Vec<(Pid, Status)>,
    pub mappings: Vec<Mapping>,
    pub descriptors: Vec<Descriptor>,
    pub children: Vec<Pid>,
    pub vdso: Option<Vdso>,
}

impl Observed {
    fn read(pid: Pid) -> Result<Self, Error> {
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
        Ok(Self {
            pid,
            threads,
            mappings,
            descriptors,
            children: observe::children(pid)?,
            vdso,
        })
    }

    /// The status of its first thread.
    pub fn leader(&self) -> &Status {
        &self.threads[0].1
    }

    /// A refusal of something of it.
    pub fn refuse(&self, place: ProcessPart, reason: impl Into<String>) -> Refusal {
        Refusal {
            pid: self.pid,
            place,
            reason: reason.into(),
        }
    }
}

/// Processes that are looked at together.
#[derive(Debug)]
pub struct Observation {
    /// In the order asked for.
    pub processes: Vec<Observed>,
    /// Other processes that have an end of one of their pipes: process, pipe.
    pub outside_ends: Vec<(Pid, u64)>,
}

impl Observation {
    /// Observes processes, in this order.
    pub fn new(pids: &[Pid]) -> Result<Self, Error> {
        let processes: Vec<Observed> = pids
            .iter()
            .map(|pid| Observed::read(*pid))
            .collect::<Result<_, _>>()?;
        let opened = processes.iter().flat_map(|process| &process.descriptors);
        let pipes: HashSet<u64> = opened.filter_map(Descriptor::pipe).collect();
        let outside_ends = if pipes.is_empty() {
            Vec::new()
        } else {
            observe::pipe_holders(&pipes, pids)?
        };
        Ok(Self {
            processes,
            outside_ends,
        })
    }
}

/// Device and inode number.
pub fn identity(path: &Path) -> Option<(u64, u64)> {
    std::fs::metadata(path)
        .ok()
        .map(|found| (found.dev(), found.ino()))
}
