//! Gathers the open files of several processes, each once.

use std::collections::HashMap;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, open, tee};
use nix::sys::stat::Mode;
use nix::unistd::pipe;

use super::files::{self, Kind, borrow};
use super::held::HeldFiles;
use super::observed::Observed;
use super::options::CaptureOptions;
use super::outside::Outside;
use super::{attached, poll_sets};
use crate::error::{Error, Pid, ProcessPart, failed};
use crate::image::{Attached, Connection, OpenFile, Pipe, ProcessDescriptor, RecordLock, What};
use crate::observe::{self, Descriptor, LockKind, PipeId};
use crate::special::{SocketEnd, SocketPair, Special, SpecialKind, Terminal};
use crate::sys;

/// The open files of an image, gathered so far.
#[derive(Debug)]
pub struct Collector<'a> {
    options: CaptureOptions,
    outside: &'a Outside,
    files: Vec<OpenFile>,
    /// A process that has the file open, for each file, to compare with.
    owners: Vec<(Pid, Descriptor)>,
    /// The file of each descriptor of each process.
    numbers: HashMap<(Pid, i32), u32>,
    pipes: HashMap<PipeId, u32>,
    /// Pairs of sockets, by the inode numbers of their ends.
    pairs: Vec<[u64; 2]>,
    /// Pseudo-terminals, by number.
    terminals: Vec<u32>,
    /// Files whose content goes into the image; mappings have some of them, too.
    pub held: HeldFiles,
}

/// The open files of an image.
#[derive(Debug)]
pub struct Collected {
    pub held: HeldFiles,
    pub files: Vec<OpenFile>,
    pub pipes: Vec<Pipe>,
    pub attached: Vec<Attached>,
    pub pairs: Vec<SocketPair>,
    pub connections: Vec<Connection>,
    pub terminals: Vec<Terminal>,
}

impl<'a> Collector<'a> {
    pub fn new(options: CaptureOptions, outside: &'a Outside) -> Self {
        Self {
            options,
            outside,
            files: Vec::new(),
            owners: Vec::new(),
            numbers: HashMap::new(),
            pipes: HashMap::new(),
            pairs: Vec::new(),
            terminals: Vec::new(),
            held: HeldFiles::default(),
        }
    }

    /// The descriptors of a process; those that stay open at exec(2) whatever /proc says are given.
    pub fn descriptors(
        &mut self,
        process: &Observed,
        stay_open: &[i32],
    ) -> Result<Vec<ProcessDescriptor>, Error> {
        let mut descriptors = Vec::new();
        for open in &process.descriptors {
            let file = self.file(process.pid, open)?;
            self.numbers.insert((process.pid, open.fd), file);
            descriptors.push(ProcessDescriptor {
                fd: open.fd,
                file,
                close_on_exec: open.flags & libc::O_CLOEXEC != 0 && !stay_open.contains(&open.fd),
            });
        }
        Ok(descriptors)
    }

    /// The record locks that a process has; its descriptors are gathered.
    pub fn locks(&self, process: &Observed) -> Vec<RecordLock> {
        let mut found = Vec::new();
        for open in &process.descriptors {
            let locks = observe::locks(&open.info).into_iter();
            let Some(file) = self.numbers.get(&(process.pid, open.fd)) else {
                continue;
            };
            let locks = locks.filter(|lock| lock.kind == LockKind::OfProcess);
            found.extend(locks.map(|lock| attached::record_lock(*file, &lock)));
        }
        // A file that has several numbers shows its locks with each of them.
        found.sort_unstable_by_key(|lock: &RecordLock| (lock.file, lock.start, lock.len_bytes));
        found.dedup();
        found
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
        let path = || open.name.as_os_str().as_bytes().to_vec();
        let what = match files::kind(pid, open, self.options, self.outside) {
            Ok(Kind::File) => What::File {
                path: path(),
                identity: (open.device, open.inode),
                size_bytes: if open.kind() == libc::S_IFREG {
                    open.size_bytes
                } else {
                    0
                },
            },
            Ok(Kind::Device) => What::Device {
                path: path(),
                device: open.special_device,
            },
            Ok(Kind::Pipe(pipe)) => What::PipeEnd {
                pipe: self.pipe(pipe),
                write: open.flags & libc::O_ACCMODE == libc::O_WRONLY,
            },
            Ok(Kind::NamedPipe(pipe)) => What::NamedPipe {
                pipe: self.pipe(pipe),
                path: path(),
            },
            Ok(Kind::Special(kind)) => special(pid, open, kind)?,
            Ok(Kind::ProcessFile(pid)) => What::ProcessFile { pid },
            Ok(Kind::SocketEnd(inode)) => self.socket_end(inode)?,
            Ok(Kind::Socket) => {
                let read = files::socket(pid, open, self.outside);
                let changed = |_| Error::BadImage("a socket changed while its process stood still");
                What::Socket(Box::new(read.map_err(changed)?))
            }
            Ok(Kind::Held) => self.held(pid, open)?,
            Ok(Kind::Stdio) => stdio(pid, open.fd)?,
            Ok(Kind::Terminal(number, end)) => What::Terminal {
                terminal: self.terminal(number),
                end,
            },
            // Such a descriptor was refused before, and cannot have changed since.
            Err(_) => {
                return Err(Error::BadImage(
                    "a descriptor changed while its process stood still",
                ));
            }
        };
        self.files.push(OpenFile {
            flags: flags(open) | kept_flags(pid, open, &what)?,
            what,
            offset: open.position,
        });
        self.owners.push((pid, open.clone()));
        Ok(self.files.len() as u32 - 1)
    }

    fn pipe(&mut self, pipe: PipeId) -> u32 {
        let next = self.pipes.len() as u32;
        *self.pipes.entry(pipe).or_insert(next)
    }

    fn terminal(&mut self, number: u32) -> u32 {
        let known = self.terminals.iter().position(|other| *other == number);
        known.unwrap_or_else(|| {
            self.terminals.push(number);
            self.terminals.len() - 1
        }) as u32
    }

    fn held(&mut self, pid: Pid, open: &Descriptor) -> Result<What, Error> {
        let link = PathBuf::from(format!("/proc/{pid}/fd/{}", open.fd));
        let changed = || Error::BadImage("a file changed while its process stood still");
        let held = self.held.index(&link)?.ok_or_else(changed)?;
        Ok(What::Held { held })
    }

    /// An end of a pair; its pair is numbered by the end that is met first.
    fn socket_end(&mut self, inode: u64) -> Result<What, Error> {
        let gone = || Error::BadImage("a socket changed while its process stood still");
        let end = self.outside.pair_end(inode).ok_or_else(gone)?;
        let peer = end.peer.ok_or_else(gone)?;
        if let Some(pair) = self.pairs.iter().position(|ends| ends.contains(&inode)) {
            let second = self.pairs[pair][1] == inode;
            return Ok(What::SocketEnd {
                pair: pair as u32,
                second,
            });
        }
        self.pairs.push([inode, peer]);
        Ok(What::SocketEnd {
            pair: self.pairs.len() as u32 - 1,
            second: false,
        })
    }

    /// The pairs of sockets with what is in them.
    fn socket_pairs(
        &self,
        processes: &[Observed],
    ) -> Result<(Vec<SocketPair>, Vec<Connection>), Error> {
        let mut connections: Vec<Connection> = Vec::new();
        let mut pairs = vec![SocketPair::default(); self.pairs.len()];
        let mut refusals = Vec::new();
        for (file, (owner, open)) in self.files.iter().zip(&self.owners) {
            let What::SocketEnd { pair, second } = file.what else {
                continue;
            };
            let copy = borrow(*owner, open.fd)?;
            let inode = self.pairs[pair as usize][usize::from(second)];
            let known = self.outside.pair_end(inode).cloned().unwrap_or_default();
            let doing = || {
                failed(format!(
                    "read the state of fd {} of process {owner}",
                    open.fd
                ))
            };
            let read = SocketEnd::read(known.kind, known.shut_down, copy.as_fd());
            match read.map_err(doing())? {
                Ok(end) => pairs[pair as usize].ends[usize::from(second)] = end,
                Err(reason) => {
                    let process = processes.iter().find(|process| process.pid == *owner);
                    let part = ProcessPart::Descriptor(open.fd);
                    refusals.extend(process.map(|process| process.refuse(part, reason)));
                }
            }
            pairs[pair as usize].kind = known.kind;
            if !known.name.is_empty() {
                connections.push(Connection {
                    pair,
                    second,
                    address: sys::address(copy.as_fd()).map_err(doing())?,
                });
            } else if connections.iter().any(|known| known.pair == pair) {
                continue;
            }
            // An end that was accepted tells who has connected, the other one who listens.
            let maker = sys::maker(copy.as_fd()).map_err(doing())?;
            pairs[pair as usize].maker = (maker.pid, maker.user, maker.group);
        }
        match refusals.is_empty() {
            true => Ok((pairs, connections)),
            false => Err(Error::Refused(refusals)),
        }
    }

    /// The files of these processes, with what is in pipes and poll sets.
    pub fn finish(mut self, processes: &[Observed]) -> Result<Collected, Error> {
        let pipes = self.contents()?;
        let (pairs, connections) = self.socket_pairs(processes)?;
        let sets = poll_sets::entries(&self.files, &self.owners, &self.numbers, processes)?;
        for (set, found) in sets {
            self.files[set].what = What::PollSet { entries: found };
        }
        let mut all = Vec::new();
        for (index, (owner, open)) in self.owners.iter().enumerate() {
            let copy = borrow(*owner, open.fd)?;
            let found = attached::read(index as u32, open, copy.as_fd())?;
            all.extend(found);
        }
        attached::refuse_others(&all, &self.owners, processes)?;
        // Last, because it takes something out for a moment.
        let terminals = self.terminals.iter();
        let terminals = terminals.map(|number| self.outside.terminals.take(*number, processes));
        let terminals = terminals.collect::<Result<_, _>>()?;
        Ok(Collected {
            held: self.held,
            files: self.files,
            pipes,
            attached: all,
            pairs,
            connections,
            terminals,
        })
    }

    /// The pipes with what is in them.
    fn contents(&self) -> Result<Vec<Pipe>, Error> {
        let mut pipes = vec![Pipe::default(); self.pipes.len()];
        let mut read = vec![false; pipes.len()];
        for (file, (owner, open)) in self.files.iter().zip(&self.owners) {
            let (pipe, has_path) = match file.what {
                What::PipeEnd { pipe, .. } => (pipe as usize, false),
                What::NamedPipe { pipe, .. } => (pipe as usize, true),
                _ => continue,
            };
            let end = borrow(*owner, open.fd)?;
            let size = fcntl(&end, FcntlArg::F_GETPIPE_SZ).map_err(failed("ask a pipe's size"))?;
            pipes[pipe].capacity_bytes = size as u32;
            let can_read = file.flags & libc::O_ACCMODE != libc::O_WRONLY;
            if can_read && !std::mem::replace(&mut read[pipe], true) {
                pipes[pipe].held = peek(&end, size)?;
            } else if has_path && !read[pipe] {
                // Somebody may open it for reading later.
                pipes[pipe].held = peek(&reader_of(&end)?, size)?;
            }
        }
        Ok(pipes)
    }
}

fn stdio(pid: Pid, fd: i32) -> Result<What, Error> {
    Ok(What::Stdio {
        stream: fd,
        terminal: sys::terminal_modes(borrow(pid, fd)?.as_fd()),
    })
}

/// O_CLOEXEC, if an end of a terminal has it beside its descriptors (TIOCGPTPEER).
fn kept_flags(pid: Pid, open: &Descriptor, what: &What) -> Result<i32, Error> {
    let What::Terminal { .. } = what else {
        return Ok(0);
    };
    let copy = borrow(pid, open.fd)?;
    let flags = fcntl(&copy, FcntlArg::F_GETFL).map_err(failed("ask for the flags of a file"))?;
    Ok(flags & libc::O_CLOEXEC)
}

fn special(pid: Pid, open: &Descriptor, kind: SpecialKind) -> Result<What, Error> {
    let copy = borrow(pid, open.fd)?;
    let read = Special::read(kind, copy.as_fd());
    let doing = || format!("read the state of fd {} of process {pid}", open.fd);
    Ok(match read.map_err(failed(doing()))? {
        Some(state) => What::Special(state),
        None => What::PollSet {
            entries: Vec::new(),
        },
    })
}

/// Another end of a pipe, to read it.
fn reader_of(end: &OwnedFd) -> Result<OwnedFd, Error> {
    let link = format!("/proc/self/fd/{}", end.as_raw_fd());
    let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    open(link.as_str(), flags, Mode::empty()).map_err(failed("open a pipe for reading"))
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
