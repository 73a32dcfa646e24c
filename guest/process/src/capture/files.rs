//! Mapped files, and the kinds of open ones.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::held;
use super::options::CaptureOptions;
use super::outside::{Outside, special_kind};
use crate::error::{Error, Pid, failed};
use crate::image::{MappedFile, Socket};
use crate::observe::{self, Descriptor, FileId, LockKind, Mapping, PipeId, identity};
use crate::pages::WINDOWS;
use crate::special::{SpecialKind, TerminalEnd, Watches};
use crate::sys;

/// The device numbers of those without a state: null, zero, full, random, urandom.
const STATELESS: [u64; 5] = [
    libc::makedev(1, 3),
    libc::makedev(1, 5),
    libc::makedev(1, 7),
    libc::makedev(1, 8),
    libc::makedev(1, 9),
];

/// The link of /proc that leads to a mapped file.
pub fn map_link(pid: Pid, mapping: &Mapping) -> PathBuf {
    PathBuf::from(format!(
        "/proc/{pid}/map_files/{:x}-{:x}",
        mapping.start, mapping.end
    ))
}

/// True if a mapping stands for anonymous memory of the process at an earlier capture (`restore
/// --window`).
pub fn is_of_window(mapping: &Mapping) -> bool {
    !mapping.shared && mapping.name.starts_with(WINDOWS)
}

/// The file that a link of /proc leads to. It must exist under its name; otherwise the error says
/// what is wrong with it.
pub fn mapped_file(link: &Path, name: &Path) -> Result<MappedFile, String> {
    let shown = name.display();
    let found = std::fs::metadata(link)
        .map_err(|error| format!("that cannot be looked at ({shown}): {error}"))?;
    if name.starts_with(WINDOWS) {
        return Err(format!("that shows an image ({shown})"));
    }
    if !found.is_file() {
        return Err(format!("that is a device or other special file ({shown})"));
    }
    if identity(name) != Some((found.dev(), found.ino())) {
        return Err(format!("that was deleted or replaced ({shown})"));
    }
    Ok(MappedFile {
        path: name.as_os_str().as_bytes().to_vec(),
        identity: (found.dev(), found.ino()),
        size_bytes: found.size(),
        modified: (found.mtime(), found.mtime_nsec()),
    })
}

/// The kind of an open file, or the reason why it cannot be captured.
pub fn kind(
    pid: Pid,
    open: &Descriptor,
    options: CaptureOptions,
    outside: &Outside,
) -> Result<Kind, String> {
    let kind = inherent(pid, open, outside);
    if kind.is_err() && options.external_stdio && open.fd <= 2 {
        return Ok(Kind::Stdio);
    }
    kind
}

/// The kind of an open file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    File,
    Device,
    Pipe(PipeId),
    NamedPipe(PipeId),
    Special(SpecialKind),
    /// A file whose content goes into the image.
    Held,
    /// Another socket.
    Socket,
    /// A socket of a pair, by inode number.
    SocketEnd(u64),
    /// A descriptor for this process.
    ProcessFile(Pid),
    Stdio,
    /// An end of the pseudo-terminal with this number.
    Terminal(u32, TerminalEnd),
}

fn inherent(pid: Pid, open: &Descriptor, outside: &Outside) -> Result<Kind, String> {
    let shown = open.name.display();
    let mut locks = observe::locks(&open.info).into_iter();
    if locks.any(|lock| lock.kind == LockKind::Other) {
        return Err(format!("has a lease ({shown})"));
    }
    if let Some(pipe) = open.pipe() {
        return self::pipe(open, pipe, outside);
    }
    if let Some(kind) = special_kind(open) {
        return match outside.holder_of(pid, open.fd) {
            Some(holder) => Err(format!(
                "is {} that process {} has open, too",
                kind.word(),
                observe::named(holder)
            )),
            None if kind == SpecialKind::Watches => {
                watches(pid, open).map(|()| Kind::Special(kind))
            }
            None => Ok(Kind::Special(kind)),
        };
    }
    let socket = open.socket();
    if let Some(end) = socket.and_then(|inode| outside.pair_end(inode)) {
        return Ok(Kind::SocketEnd(end.inode));
    }
    if let Some(inode) = socket {
        return match outside.holder_of_socket(inode) {
            Some(holder) => Err(format!(
                "is a socket that process {} has open, too",
                observe::named(holder)
            )),
            None => self::socket(pid, open, outside).map(|_| Kind::Socket),
        };
    }
    if let Some(process) = open.process() {
        return match process {
            _ if open.flags & libc::O_EXCL != 0 => Err("is a descriptor for a thread".into()),
            process if process > 0 => Ok(Kind::ProcessFile(process)),
            _ => Err("is a descriptor for a process that is gone".into()),
        };
    }
    if let Some(end) = outside.terminals.end(pid, open) {
        return end.map(|(number, end)| Kind::Terminal(number, end));
    }
    let by_path = || identity(&open.name) == Some((open.device, open.inode));
    match open.kind() {
        libc::S_IFREG | libc::S_IFDIR if open.name.starts_with("/proc") => {
            Err(format!("is a file of /proc ({shown})"))
        }
        libc::S_IFREG | libc::S_IFDIR if by_path() => Ok(Kind::File),
        libc::S_IFREG => {
            let link = PathBuf::from(format!("/proc/{pid}/fd/{}", open.fd));
            match held(&link, (open.device, open.inode), outside)? {
                true => Ok(Kind::Held),
                false => Err(format!("is a file that was deleted or replaced ({shown})")),
            }
        }
        libc::S_IFDIR => Err(format!("is a file that was deleted or replaced ({shown})")),
        libc::S_IFCHR if STATELESS.contains(&open.special_device) && by_path() => Ok(Kind::Device),
        libc::S_IFCHR | libc::S_IFBLK => Err(format!("is a device ({shown})")),
        _ => Err(format!("is {shown}")),
    }
}

/// Refuses an inotify whose watches cannot be kept.
fn watches(pid: Pid, open: &Descriptor) -> Result<(), String> {
    let copy = borrow(pid, open.fd).map_err(|error| format!("is an inotify: {error}"))?;
    let read = Watches::read(copy.as_fd());
    let read = read.map_err(|error| format!("is an inotify that cannot be read: {error}"))?;
    read.map(drop)
}

/// The state of a socket that is not of a pair, or the reason why it cannot be captured.
pub fn socket(pid: Pid, open: &Descriptor, outside: &Outside) -> Result<Socket, String> {
    let unix = open.socket().and_then(|inode| outside.unix_socket(inode));
    let copy = borrow(pid, open.fd).map_err(|error| format!("is a socket: {error}"))?;
    let read = Socket::read(copy.as_fd(), unix);
    let read = read.map_err(|error| format!("is a socket that cannot be read: {error}"))?;
    read.map_err(|reason| format!("is a socket {reason}"))
}

/// True if a link of /proc leads to a file whose content goes into the image. The error is the end
/// of a sentence about it.
pub fn held(link: &Path, id: FileId, outside: &Outside) -> Result<bool, String> {
    let Some(kind) = held::kind(link).map_err(|reason| format!("is a file {reason}"))? else {
        return Ok(false);
    };
    match outside.holder_of_gone(id) {
        Some(holder) => Err(format!(
            "is {} that process {} has, too",
            held::word(&kind),
            observe::named(holder)
        )),
        None => Ok(true),
    }
}

fn pipe(open: &Descriptor, pipe: PipeId, outside: &Outside) -> Result<Kind, String> {
    let shown = open.name.display();
    if let Some(holder) = outside.holder_of_pipe(pipe) {
        return Err(format!("is a pipe that process {holder} has an end of"));
    }
    if open.flags & libc::O_DIRECT != 0 {
        return Err("is a pipe of packets".into());
    }
    if open.flags & libc::O_PATH != 0 {
        return Err(format!(
            "is a pipe that was opened for its path only ({shown})"
        ));
    }
    if !open.is_named_pipe() {
        return Ok(Kind::Pipe(pipe));
    }
    if identity(&open.name) != Some((open.device, open.inode)) {
        return Err(format!(
            "is a named pipe that was deleted or replaced ({shown})"
        ));
    }
    Ok(Kind::NamedPipe(pipe))
}

/// A descriptor of this process for an open file of another one.
pub fn borrow(pid: Pid, fd: i32) -> Result<OwnedFd, Error> {
    let doing = || failed(format!("get fd {fd} of process {pid}"));
    let process = sys::pidfd_open(pid).map_err(doing())?;
    sys::pidfd_getfd(process.as_fd(), fd).map_err(doing())
}
