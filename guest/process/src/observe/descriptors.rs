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
    /// The process holds file locks through it.
    pub locked: bool,
}

impl Descriptor {
    /// The type bits of the mode.
    pub fn kind(&self) -> u32 {
        self.mode & libc::S_IFMT
    }

    /// The inode number, if it is an end of a pipe without a name.
    pub fn pipe(&self) -> Option<u64> {
        pipe_inode(&self.name)
    }
}

fn pipe_inode(name: &Path) -> Option<u64> {
    name.to_str()?
        .strip_prefix("pipe:[")?
        .strip_suffix(']')?
        .parse()
        .ok()
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
        locked: text.lines().any(|line| line.starts_with("lock:")),
    })
}

/// Other processes that hold an end of one of these pipes: process and pipe.
pub fn pipe_holders(pipes: &HashSet<u64>, besides: &[Pid]) -> Result<Vec<(Pid, u64)>, Error> {
    let mut holders = Vec::new();
    for pid in all_processes()? {
        if besides.contains(&pid) {
            continue;
        }
        // The process may end meanwhile.
        let Ok(links) = std::fs::read_dir(format!("/proc/{pid}/fd")) else {
            continue;
        };
        let inodes = links
            .flatten()
            .filter_map(|link| pipe_inode(&std::fs::read_link(link.path()).ok()?));
        holders.extend(
            inodes
                .filter(|inode| pipes.contains(inode))
                .map(|inode| (pid, inode)),
        );
    }
    holders.sort_unstable();
    holders.dedup();
    Ok(holders)
}
