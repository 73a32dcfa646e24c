//! Open files of the observed processes that others have open, too.

use std::collections::HashSet;

use super::observed::Observed;
use crate::error::{Error, Pid};
use crate::observe::{self, Descriptor, OpenElsewhere, PipeId};
use crate::special::SpecialKind;
use crate::sys;

/// Processes outside that have a file of an observed one open.
#[derive(Debug, Default)]
pub struct Outside {
    /// Ends of pipes: process and pipe.
    pipes: Vec<(Pid, PipeId)>,
    /// Other files: the process outside, and a descriptor of an observed one.
    files: Vec<(Pid, (Pid, i32))>,
}

impl Outside {
    /// Looks at all processes but these.
    pub fn look(processes: &[Observed]) -> Result<Self, Error> {
        let opened = || processes.iter().flat_map(|process| &process.descriptors);
        let pipes: HashSet<PipeId> = opened().filter_map(Descriptor::pipe).collect();
        let special: Vec<(Pid, &Descriptor)> = processes
            .iter()
            .flat_map(|process| process.descriptors.iter().map(|open| (process.pid, open)))
            .filter(|(_, open)| special_kind(open).is_some())
            .collect();
        if pipes.is_empty() && special.is_empty() {
            return Ok(Self::default());
        }
        let pids: Vec<Pid> = processes.iter().map(|process| process.pid).collect();
        let OpenElsewhere { pipes, anonymous } = observe::open_elsewhere(&pipes, &pids)?;
        let mut files = Vec::new();
        for (holder, number, name) in &anonymous {
            for (pid, open) in &special {
                // A process that ended meanwhile has nothing open.
                let is_same = || sys::same_open_file((*pid, open.fd), (*holder, *number));
                if open.name.as_os_str() == name.as_str() && is_same().unwrap_or(false) {
                    files.push((*holder, (*pid, open.fd)));
                }
            }
        }
        Ok(Self { pipes, files })
    }

    /// A process outside that has an end of this pipe.
    pub fn holder_of_pipe(&self, pipe: PipeId) -> Option<Pid> {
        let found = self.pipes.iter().find(|(_, other)| *other == pipe);
        found.map(|(holder, _)| *holder)
    }

    /// A process outside that has this file open.
    pub fn holder_of(&self, pid: Pid, fd: i32) -> Option<Pid> {
        let found = self.files.iter().find(|(_, own)| *own == (pid, fd));
        found.map(|(holder, _)| *holder)
    }
}

/// The kind of a file without a path, if it is one that an image holds.
pub fn special_kind(open: &Descriptor) -> Option<SpecialKind> {
    SpecialKind::of(open.name.to_str()?)
}
