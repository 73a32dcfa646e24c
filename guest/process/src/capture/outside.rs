//! Open files of the observed processes that others have open, too.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::files::map_link;
use super::observed::Observed;
use super::terminals::{self, Terminals};
use crate::error::{Error, Pid};
use crate::observe::{self, Descriptor, FileId, OpenElsewhere, PipeId, identity, is_gone};
use crate::special::SpecialKind;
use crate::sys::{self, UnixSocket};

/// Processes outside that have a file of an observed one open.
#[derive(Debug, Default)]
pub struct Outside {
    /// Ends of pipes: process and pipe.
    pipes: Vec<(Pid, PipeId)>,
    /// Other files: the process outside, and a descriptor of an observed one.
    files: Vec<(Pid, (Pid, i32))>,
    /// Files without a name.
    gone: Vec<(Pid, FileId)>,
    /// Sockets, by inode number.
    sockets: Vec<(Pid, u64)>,
    /// All unix sockets here, by inode number.
    unix: HashMap<u64, UnixSocket>,
    /// Unix sockets that are pairs with both ends here, by inode number.
    pairs: HashMap<u64, UnixSocket>,
    /// Pseudo-terminals whose master is here.
    pub terminals: Terminals,
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
        let own: HashSet<u64> = opened().filter_map(Descriptor::socket).collect();
        let unix = unix(&own);
        let mut pairs = pairs(&unix);
        let gone = gone(processes);
        let has_terminals = processes.iter().any(terminals::has_master);
        let is_empty = pipes.is_empty() && special.is_empty() && own.is_empty() && gone.is_empty();
        if is_empty && !has_terminals {
            return Ok(Self::default());
        }
        let pids: Vec<Pid> = processes.iter().map(|process| process.pid).collect();
        let found = observe::open_elsewhere(&pipes, &gone, &pids)?;
        let OpenElsewhere {
            pipes,
            anonymous,
            terminals,
            sockets,
            gone,
        } = found;
        let elsewhere = |inode: u64| sockets.iter().any(|(_, other)| *other == inode);
        let both_here = |socket: &UnixSocket| {
            !elsewhere(socket.inode) && socket.peer.is_some_and(|peer| !elsewhere(peer))
        };
        pairs.retain(|_, socket| both_here(socket));
        let mut files = Vec::new();
        for file in &anonymous {
            for (pid, open) in &special {
                // A process that ended meanwhile has nothing open.
                let is_same = || sys::same_open_file((*pid, open.fd), (file.pid, file.fd));
                if open.name.as_os_str() == file.name.as_str() && is_same().unwrap_or(false) {
                    files.push((file.pid, (*pid, open.fd)));
                }
            }
        }
        Ok(Self {
            pipes,
            files,
            gone,
            sockets,
            unix,
            pairs,
            terminals: Terminals::look(processes, &terminals),
        })
    }

    /// A process outside that has an end of this pipe.
    pub fn holder_of_pipe(&self, pipe: PipeId) -> Option<Pid> {
        let found = self.pipes.iter().find(|(_, other)| *other == pipe);
        found.map(|(holder, _)| *holder)
    }

    /// A process outside that has the socket of this inode number open.
    pub fn holder_of_socket(&self, inode: u64) -> Option<Pid> {
        let found = self.sockets.iter().find(|(_, other)| *other == inode);
        found.map(|(holder, _)| *holder)
    }

    /// The unix socket of this inode number.
    pub fn unix_socket(&self, inode: u64) -> Option<&UnixSocket> {
        self.unix.get(&inode)
    }

    /// A process outside that has this file without a name.
    pub fn holder_of_gone(&self, id: FileId) -> Option<Pid> {
        let found = self.gone.iter().find(|(_, other)| *other == id);
        found.map(|(holder, _)| *holder)
    }

    /// The socket, if it is one of a pair that is here as a whole.
    pub fn pair_end(&self, inode: u64) -> Option<&UnixSocket> {
        self.pairs.get(&inode)
    }

    /// A process outside that has this file open.
    pub fn holder_of(&self, pid: Pid, fd: i32) -> Option<Pid> {
        let found = self.files.iter().find(|(_, own)| *own == (pid, fd));
        found.map(|(holder, _)| *holder)
    }
}

/// The files without a name that these processes have open or mapped.
fn gone(processes: &[Observed]) -> HashSet<FileId> {
    let opened = processes.iter().flat_map(|process| &process.descriptors);
    let opened = opened.filter(|open| open.kind() == libc::S_IFREG && is_gone(&open.name));
    let mut found: HashSet<FileId> = opened.map(|open| (open.device, open.inode)).collect();
    for process in processes {
        let of_files = process
            .mappings
            .iter()
            .filter(|mapping| mapping.is_of_file());
        // Memory that was given a name shows that in place of its file's.
        let gone = of_files.filter(|mapping| !mapping.name.is_absolute() || is_gone(&mapping.name));
        found.extend(gone.filter_map(|mapping| identity(&map_link(process.pid, mapping))));
    }
    found
}

/// Those of these sockets that are unix sockets.
fn unix(own: &HashSet<u64>) -> HashMap<u64, UnixSocket> {
    if own.is_empty() {
        return HashMap::new();
    }
    // A kernel that cannot list them (unix_diag) has them refused.
    let all = sys::unix_sockets().unwrap_or_default().into_iter();
    let own = all.filter(|socket| own.contains(&socket.inode));
    own.map(|socket| (socket.inode, socket)).collect()
}

/// Those of these sockets that are connected to each other: pairs without an address, and those of
/// which a listener among these has accepted one.
fn pairs(unix: &HashMap<u64, UnixSocket>) -> HashMap<u64, UnixSocket> {
    let can_be_made = |socket: &&UnixSocket| {
        let mut others = unix.values();
        let mut is_accepted = || others.any(|other| has_accepted(other, socket));
        socket.connected && (socket.name.is_empty() || is_accepted())
    };
    let mut found: HashMap<u64, UnixSocket> = (unix.values())
        .filter(can_be_made)
        .map(|socket| (socket.inode, socket.clone()))
        .collect();
    let whole: HashSet<u64> = (found.values())
        .filter(|socket| {
            let peer = socket.peer.and_then(|peer| found.get(&peer));
            peer.is_some_and(|peer| {
                let one_is_nameless = socket.name.is_empty() || peer.name.is_empty();
                peer.peer == Some(socket.inode) && one_is_nameless
            })
        })
        .map(|socket| socket.inode)
        .collect();
    found.retain(|inode, _| whole.contains(inode));
    found
}

/// True if a socket listens at the address that another one has, and others can connect there.
fn has_accepted(listener: &UnixSocket, socket: &UnixSocket) -> bool {
    let is_there = || match socket.name.first() {
        Some(0) => true,
        _ => {
            let path = socket.name.split(|byte| *byte == 0).next();
            let path = Path::new(OsStr::from_bytes(path.unwrap_or_default()));
            path.is_absolute() && identity(path).is_some_and(|(_, file)| file == listener.file)
        }
    };
    listener.listens && (listener.kind, &listener.name) == (socket.kind, &socket.name) && is_there()
}

/// The kind of a file without a path, if it is one that an image holds.
pub fn special_kind(open: &Descriptor) -> Option<SpecialKind> {
    SpecialKind::of(open.name.to_str()?)
}
