use std::collections::HashSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::{all_processes, gone_or, read_text, unreadable};
use crate::error::{Error, Pid};

/// An open file descriptor of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// Its number.
    pub fd: i32,
    /// Target of its link in /proc: a path, or `pipe:[7]` and the like.
    pub name: PathBuf,
    /// Device number of the open file.
    pub device: u64,
    /// Inode number of the open file.
    pub inode: u64,
    /// Mode of the open file.
    pub mode: u32,
    /// Number of hard links of the open file.
    pub links: u64,
    /// Size of the open file.
    pub size_bytes: u64,
    /// The device that a device file stands for.
    pub special_device: u64,
    /// Offset.
    pub position: u64,
    /// Flags of open(2), with O_CLOEXEC.
    pub flags: i32,
    /// Its text in /proc/PID/fdinfo.
    pub info: String,
}

/// The major number of the devices of pseudo-terminals.
pub const PSEUDO_TERMINALS: u32 = 136;

/// An open file of a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TerminalFile {
    /// The master of the pseudo-terminal with this number.
    Master(u32),
    /// Its other end.
    Slave(u32),
    /// The controlling terminal of who has opened it.
    Controlling,
}

/// The identity of a pipe: device and inode number; the device is 0 if it has no path.
pub type PipeId = (u64, u64);

impl Descriptor {
    /// The type bits of the mode.
    pub fn kind(&self) -> u32 {
        self.mode & libc::S_IFMT
    }

    /// The pipe, if it is an end of one.
    pub fn pipe(&self) -> Option<PipeId> {
        match pipe_inode(&self.name) {
            Some(inode) => Some((0, inode)),
            None if self.is_named_pipe() => Some((self.device, self.inode)),
            None => None,
        }
    }

    /// The process that it is a descriptor for (pidfd_open(2)); -1 if that is gone.
    pub fn process(&self) -> Option<Pid> {
        let name = self.name.to_str()?;
        if name != "anon_inode:[pidfd]" && !name.starts_with("pidfd:[") {
            return None;
        }
        let line = self.info.lines().find_map(|line| line.strip_prefix("Pid:"));
        Some(line.and_then(|line| line.trim().parse().ok()).unwrap_or(-1))
    }

    /// The end of a terminal that it is, if it may be one of a pseudo-terminal.
    pub fn terminal(&self) -> Option<TerminalFile> {
        const MASTER: u64 = libc::makedev(5, 2);
        const CONTROLLING: u64 = libc::makedev(5, 0);
        let can_be_used = self.flags & libc::O_PATH == 0;
        if self.kind() != libc::S_IFCHR || !can_be_used {
            return None;
        }
        match self.special_device {
            MASTER => {
                let mut lines = self.info.lines();
                let number = lines.find_map(|line| line.strip_prefix("tty-index:"))?;
                Some(TerminalFile::Master(number.trim().parse().ok()?))
            }
            CONTROLLING => Some(TerminalFile::Controlling),
            device if libc::major(device) == PSEUDO_TERMINALS => {
                Some(TerminalFile::Slave(libc::minor(device)))
            }
            _ => None,
        }
    }

    /// The inode number, if it is a socket.
    pub fn socket(&self) -> Option<u64> {
        socket_inode(&self.name)
    }

    /// True if it is an end of a pipe that has a path.
    pub fn is_named_pipe(&self) -> bool {
        self.kind() == libc::S_IFIFO && pipe_inode(&self.name).is_none()
    }
}

fn pipe_inode(name: &Path) -> Option<u64> {
    inode_of(name, "pipe:[")
}

fn socket_inode(name: &Path) -> Option<u64> {
    inode_of(name, "socket:[")
}

fn inode_of(name: &Path, prefix: &str) -> Option<u64> {
    let inode = name.to_str()?.strip_prefix(prefix)?.strip_suffix(']')?;
    inode.parse().ok()
}

/// The open descriptors of a process, by number.
pub fn descriptors(pid: Pid) -> Result<Vec<Descriptor>, Error> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(format!("/proc/{pid}/fd")).map_err(gone_or(pid, "fd"))? {
        let name = entry.map_err(gone_or(pid, "fd"))?.file_name();
        let fd: i32 = name
            .to_str()
            .and_then(|name| name.parse().ok())
            .ok_or_else(|| unreadable(pid, "fd"))?;
        // A running process may have closed it meanwhile.
        match descriptor(pid, fd) {
            Err(Error::Gone(_)) => {}
            other => found.push(other?),
        }
    }
    found.sort_by_key(|descriptor| descriptor.fd);
    Ok(found)
}

fn descriptor(pid: Pid, fd: i32) -> Result<Descriptor, Error> {
    let link = format!("/proc/{pid}/fd/{fd}");
    let name = std::fs::read_link(&link).map_err(gone_or(pid, "fd"))?;
    let metadata = std::fs::metadata(&link).map_err(gone_or(pid, "fd"))?;
    let text = read_text(pid, &format!("fdinfo/{fd}"))?;
    let field = |key: &str| {
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
        line.map(str::trim).ok_or_else(|| unreadable(pid, "fdinfo"))
    };
    Ok(Descriptor {
        fd,
        name,
        device: metadata.dev(),
        inode: metadata.ino(),
        mode: metadata.mode(),
        links: metadata.nlink(),
        size_bytes: metadata.size(),
        special_device: metadata.rdev(),
        position: field("pos")?
            .parse()
            .map_err(|_| unreadable(pid, "fdinfo"))?,
        flags: i32::from_str_radix(field("flags")?, 8).map_err(|_| unreadable(pid, "fdinfo"))?,
        info: text,
    })
}

/// The identity of a file: device and inode number.
pub type FileId = (u64, u64);

/// True if the target of a link in /proc is a file without a name: one that was deleted or
/// replaced, or that never had any.
pub fn is_gone(name: &Path) -> bool {
    let name = name.as_os_str().as_encoded_bytes();
    // A segment of System V shared memory may be called so.
    name.ends_with(b" (deleted)") || name.starts_with(b"/SYSV")
}

/// An open file of another process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ElsewhereFile {
    /// The process.
    pub pid: Pid,
    /// Its number there.
    pub fd: i32,
    /// Target of the link in /proc.
    pub name: String,
}

/// Files of other processes that may be files of the observed ones.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OpenElsewhere {
    /// Ends of the pipes that were asked about.
    pub pipes: Vec<(Pid, PipeId)>,
    /// Files without a path.
    pub anonymous: Vec<ElsewhereFile>,
    /// Ends of terminals.
    pub terminals: Vec<ElsewhereFile>,
    /// Sockets: process and inode number.
    pub sockets: Vec<(Pid, u64)>,
    /// Files without a name that were asked about.
    pub gone: Vec<(Pid, FileId)>,
}

/// Looks in other processes for ends of these pipes, for these files without a name, and for all
/// files without a path.
pub fn open_elsewhere(
    pipes: &HashSet<PipeId>,
    gone: &HashSet<FileId>,
    besides: &[Pid],
) -> Result<OpenElsewhere, Error> {
    let mut found = OpenElsewhere::default();
    let has_named = pipes.iter().any(|(device, _)| *device != 0);
    for pid in all_processes()? {
        if besides.contains(&pid) {
            continue;
        }
        let mapped = mapped_elsewhere(pid, gone).into_iter();
        found.gone.extend(mapped.map(|file| (pid, file)));
        // The process may end meanwhile.
        let Ok(links) = std::fs::read_dir(format!("/proc/{pid}/fd")) else {
            continue;
        };
        for link in links.flatten() {
            let Ok(name) = std::fs::read_link(link.path()) else {
                continue;
            };
            let text = name.to_string_lossy();
            let is_anonymous = text.starts_with("anon_inode:");
            if is_anonymous || is_terminal(&text) {
                let fd = link.file_name().to_str().and_then(|name| name.parse().ok());
                let name = text.into_owned();
                let file = fd.map(|fd| ElsewhereFile { pid, fd, name });
                match is_anonymous {
                    true => found.anonymous.extend(file),
                    false => found.terminals.extend(file),
                }
                continue;
            }
            if let Some(inode) = socket_inode(&name) {
                found.sockets.push((pid, inode));
                continue;
            }
            if !gone.is_empty() && is_gone(&name) {
                let file = identity(&link.path()).filter(|file| gone.contains(file));
                found.gone.extend(file.map(|file| (pid, file)));
                continue;
            }
            let pipe = match pipe_inode(&name) {
                Some(inode) => Some((0, inode)),
                None if has_named && name.is_absolute() => identity(&link.path()),
                None => None,
            };
            let pipe = pipe.filter(|pipe| pipes.contains(pipe));
            found.pipes.extend(pipe.map(|pipe| (pid, pipe)));
        }
    }
    found.pipes.sort_unstable();
    found.pipes.dedup();
    Ok(found)
}

/// True for the target of a link in /proc that may be an end of a terminal.
fn is_terminal(name: &str) -> bool {
    name == "/dev/ptmx" || name == "/dev/tty" || name.starts_with("/dev/pts/")
}

/// Those of these files that a process shares by its memory.
fn mapped_elsewhere(pid: Pid, gone: &HashSet<FileId>) -> Vec<FileId> {
    if gone.is_empty() {
        return Vec::new();
    }
    let maps = read_text(pid, "maps").unwrap_or_default();
    let mut found = Vec::new();
    // Address, permissions, offset, device, inode, name.
    for line in maps.lines() {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let [range, permissions, _, _, inode, ..] = words[..] else {
            continue;
        };
        let inode = inode.parse().unwrap_or(0);
        let may_be = gone.iter().any(|(_, number)| *number == inode);
        if permissions.ends_with('s') && may_be {
            let link = format!("/proc/{pid}/map_files/{range}");
            let file = identity(Path::new(&link)).filter(|file| gone.contains(file));
            found.extend(file);
        }
    }
    found
}

/// Device and inode number of the file that a path or link leads to.
pub fn identity(path: &Path) -> Option<FileId> {
    let found = std::fs::metadata(path).ok()?;
    Some((found.dev(), found.ino()))
}
