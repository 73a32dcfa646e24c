//! Open and mapped files.

use std::collections::HashMap;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{FcntlArg, SpliceFFlags, fcntl, tee};
use nix::unistd::pipe;

use super::observed::{Observed, identity};
use super::options::CaptureOptions;
use crate::error::{Error, Pid, failed};
use crate::image::{MappedFile, OpenFile, Pipe, ProcessDescriptor, What};
use crate::observe::{Descriptor, Mapping};
use crate::pages::WINDOWS;
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
    open: &Descriptor,
    options: CaptureOptions,
    outside_ends: &[(Pid, u64)],
) -> Result<Kind, String> {
    let kind = inherent(open, outside_ends);
    if kind.is_err() && options.external_stdio && open.fd <= 2 {
        return Ok(Kind::Stdio);
    }
    kind
}

/// The kind of an open file; a pipe has its inode number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    File,
    Device,
    Pipe(u64),
    Stdio,
}

fn inherent(open: &Descriptor, outside_ends: &[(Pid, u64)]) -> Result<Kind, String> {
    let shown = open.name.display();
    if open.locked {
        return Err(format!("has a file lock ({shown})"));
    }
    if let Some(inode) = open.pipe() {
        let outside = outside_ends.iter().find(|(_, pipe)| *pipe == inode);
        return match outside {
            Some((holder, _)) => Err(format!("is a pipe that process {holder} has an end of")),
            None if open.flags & libc::O_DIRECT != 0 => Err("is a pipe of packets".into()),
            None => Ok(Kind::Pipe(inode)),
        };
    }
    let by_path = || identity(&open.name) == Some((open.device, open.inode));
    match open.kind() {
        libc::S_IFREG | libc::S_IFDIR if open.name.starts_with("/proc") => {
            Err(format!("is a file of /proc ({shown})"))
        }
        libc::S_IFREG | libc::S_IFDIR if by_path() => Ok(Kind::File),
        libc::S_IFREG if open.name.as_os_str().as_bytes().starts_with(b"/memfd:") => {
            Err("is a memfd".into())
        }
        libc::S_IFREG | libc::S_IFDIR => {
            Err(format!("is a file that was deleted or replaced ({shown})"))
        }
        libc::S_IFCHR if STATELESS.contains(&open.special_device) && by_path() => Ok(Kind::Device),
        libc::S_IFCHR | libc::S_IFBLK => Err(format!("is a device ({shown})")),
        libc::S_IFIFO => Err(format!("is a named pipe ({shown})")),
        libc::S_IFSOCK => Err(format!("is a socket ({shown})")),
        _ => Err(format!("is {shown}")),
    }
}

/// Gathers the open files of several processes, each once.
#[derive(Debug)]
pub struct Collector<'a> {
    options: CaptureOptions,
    outside_ends: &'a [(Pid, u64)],
    files: Vec<OpenFile>,
    /// A process that has the file open, for each file, to compare with.
    owners: Vec<(Pid, Descriptor)>,
    pipes: HashMap<u64, u32>,
}

impl<'a> Collector<'a> {
    pub fn new(options: CaptureOptions, outside_ends: &'a [(Pid, u64)]) -> Self {
        Self {
            options,
            outside_ends,
            files: Vec::new(),
            owners: Vec::new(),
            pipes: HashMap::new(),
        }
    }

    /// The descriptors of a process.
    pub fn descriptors(&mut self, process: &Observed) -> Result<Vec<ProcessDescriptor>, Error> {
        let mut descriptors = Vec::new();
        for open in &process.descriptors {
            descriptors.push(ProcessDescriptor {
                fd: open.fd,
                file: self.file(process.pid, open)?,
                close_on_exec: open.flags & libc::O_CLOEXEC != 0,
            });
        }
        Ok(descriptors)
    }

    fn file(&mut self, pid: Pid, open: &Descriptor) -> Result<u32, Error> {
        let flags = |open: &Descriptor| open.flags & !libc::O_CLOEXEC;
        for (index, (owner, other)) in self.owners.iter().enumerate() {
            // Only files with equal properties can be the same open file.
            let alike = (other.inode, other.device, other.position)
                == (open.inode, open.device, open.position)
                && flags(other) == flags(open);
            if alike
                && sys::same_open_file((*owner, other.fd), (pid, open.fd))
                    .map_err(failed("compare open files"))?
            {
                return Ok(index as u32);
            }
        }
        let what = match kind(open, self.options, self.outside_ends) {
            Ok(Kind::File) => What::File {
                path: open.name.as_os_str().as_bytes().to_vec(),
                identity: (open.device, open.inode),
                size_bytes: if open.kind() == libc::S_IFREG {
                    open.size_bytes
                } else {
                    0
                },
            },
            Ok(Kind::Device) => What::Device {
                path: open.name.as_os_str().as_bytes().to_vec(),
                device: open.special_device,
            },
            Ok(Kind::Pipe(inode)) => {
                let next = self.pipes.len() as u32;
                let pipe = *self.pipes.entry(inode).or_insert(next);
                What::PipeEnd {
                    pipe,
                    write: open.flags & libc::O_ACCMODE == libc::O_WRONLY,
                }
            }
            Ok(Kind::Stdio) => stdio(pid, open.fd)?,
            // Such a descriptor was refused before, and cannot have changed since.
            Err(_) => {
                return Err(Error::BadImage(
                    "a descriptor changed while its process stood still",
                ));
            }
        };
        self.files.push(OpenFile {
            what,
            flags: flags(open),
            offset: open.position,
        });
        self.owners.push((pid, open.clone()));
        Ok(self.files.len() as u32 - 1)
    }

    /// The files, and the pipes with what is in them.
    pub fn finish(self) -> Result<(Vec<OpenFile>, Vec<Pipe>), Error> {
        let mut pipes = vec![Pipe::default(); self.pipes.len()];
        for (file, (owner, open)) in self.files.iter().zip(&self.owners) {
            if let What::PipeEnd { pipe, write } = file.what {
                let end = borrow(*owner, open.fd)?;
                let size =
                    fcntl(&end, FcntlArg::F_GETPIPE_SZ).map_err(failed("ask a pipe's size"))?;
                pipes[pipe as usize].capacity_bytes = size as u32;
                if !write {
                    pipes[pipe as usize].held = peek(&end, size)?;
                }
            }
        }
        Ok((self.files, pipes))
    }
}

fn stdio(pid: Pid, fd: i32) -> Result<What, Error> {
    Ok(What::Stdio {
        stream: fd,
        terminal: sys::terminal_modes(borrow(pid, fd)?.as_fd()),
    })
}

fn borrow(pid: Pid, fd: i32) -> Result<OwnedFd, Error> {
    let doing = || failed(format!("get fd {fd} of process {pid}"));
    let process = sys::pidfd_open(pid).map_err(doing())?;
    sys::pidfd_getfd(process.as_fd(), fd).map_err(doing())
}

/// Copies the bytes in a pipe, and leaves them there.
fn peek(end: &OwnedFd, capacity: i32) -> Result<Vec<u8>, Error> {
    let doing = || failed("copy what is in a pipe");
    let (read, write) = pipe().map_err(doing())?;
    fcntl(&write, FcntlArg::F_SETPIPE_SZ(capacity)).map_err(doing())?;
    let mut held = Vec::new();
    match tee(
        end,
        &write,
        capacity as usize,
        SpliceFFlags::SPLICE_F_NONBLOCK,
    ) {
        Ok(_) => {}
        Err(nix::errno::Errno::EAGAIN) => return Ok(held),
        Err(error) => return Err(doing()(error)),
    }
    drop(write);
    std::fs::File::from(read)
        .read_to_end(&mut held)
        .map_err(failed("read a copy of a pipe"))?;
    Ok(held)
}
