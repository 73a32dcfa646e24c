//! Opens the image's open files in this process. The stubs fetch them.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

use nix::fcntl::{FcntlArg, OFlag, fcntl, open};
use nix::sys::stat::Mode;
use nix::unistd::{Whence, lseek};

use super::check::{Identities, path};
use super::held::HeldFiles;
use super::options::RestartOptions;
use super::paths::Paths;
use super::pipes::FilledPipe;
use super::terminals::Terminals;
use crate::error::{Error, Pid, ProcessPart, Refusal, failed};
use crate::image::{Image, MappedFile, OpenFile, What};
use crate::sys;

/// The image's open files, in its order.
#[derive(Debug)]
pub struct OpenFiles {
    files: Vec<OwnedFd>,
    /// Those that a poll set cannot see an error or hang-up of.
    has_no_errors: HashSet<u32>,
    /// Those that take the place of standard streams.
    replaced: HashSet<u32>,
    /// Paths of sockets.
    paths: Paths,
}

impl OpenFiles {
    /// Opens all of them.
    pub fn open(
        image: &Image,
        options: &RestartOptions,
        held: &HeldFiles,
        terminals: &Terminals,
    ) -> Result<Self, Error> {
        let identities = Identities::of(image)?;
        let mut pipes = Vec::new();
        for (index, pipe) in (0..).zip(&image.pipes) {
            let mut files = image.files.iter();
            let name = files.find_map(|file| match &file.what {
                What::NamedPipe { pipe, path } if *pipe == index => Some(&path[..]),
                _ => None,
            });
            pipes.push(FilledPipe::new(pipe, name)?);
        }
        let mut paths = Paths::default();
        let mut files = Vec::new();
        let (mut has_no_errors, mut replaced) = (HashSet::new(), HashSet::new());
        for (index, file) in (0..).zip(&image.files) {
            files.push(match &file.what {
                What::File { path, identity, .. } => {
                    by_path(file, path, Some((*identity, identities)))?
                }
                What::Device { path, .. } => by_path(file, path, None)?,
                What::PipeEnd { pipe, .. } => pipes[*pipe as usize].end(file, None)?,
                What::NamedPipe { pipe, path } => pipes[*pipe as usize].end(file, Some(path))?,
                What::Stdio { stream, terminal } => {
                    replaced.insert(index);
                    stdio(options, *stream, terminal.as_deref())?
                }
                What::Special(state) => {
                    has_no_errors.insert(index);
                    with_flags(file, state.make())?
                }
                What::PollSet { .. } => {
                    has_no_errors.insert(index);
                    with_flags(file, sys::poll_set())?
                }
                What::Socket(socket) => with_flags(file, Ok(paths.make(image, index, socket)?))?,
                What::Held { held: index } => {
                    let opened = held.open(*index, OFlag::from_bits_retain(file.flags))?;
                    go_to(file, opened).map_err(failed("open a file without a name"))?
                }
                What::Terminal { terminal, end } => {
                    with_flags(file, Ok(terminals.open(file.flags, *terminal, *end)?))?
                }
                // Until there are processes.
                What::ProcessFile { .. } | What::SocketEnd { .. } => {
                    with_flags(file, sys::event_counter(false))?
                }
            });
        }
        let opened = Self {
            files,
            has_no_errors,
            replaced,
            paths,
        };
        opened.lock(image)?;
        Ok(opened)
    }

    /// Opens the descriptors for processes, all of which are there now.
    pub fn open_processes(&mut self, image: &Image) -> Result<(), Error> {
        for (made, file) in self.files.iter_mut().zip(&image.files) {
            if let What::ProcessFile { pid } = file.what {
                *made = with_flags(file, sys::pidfd_open(pid))?;
            }
        }
        Ok(())
    }

    /// Puts an open file where it belongs.
    pub fn put(&mut self, file: u32, made: OwnedFd) {
        self.files[file as usize] = made;
    }

    /// Puts the ends of a pair of sockets where they belong.
    pub fn put_sockets(
        &mut self,
        image: &Image,
        index: u32,
        made: &[OwnedFd; 2],
    ) -> Result<(), Error> {
        for (place, file) in self.files.iter_mut().zip(&image.files) {
            if let What::SocketEnd { pair, second } = file.what
                && pair == index
            {
                *place = with_flags(file, made[usize::from(second)].try_clone())?;
            }
        }
        Ok(())
    }

    /// Takes the locks that are the open files'.
    fn lock(&self, image: &Image) -> Result<(), Error> {
        for attached in &image.attached {
            let file = self.files[attached.file as usize].as_fd();
            let whole = attached
                .lock
                .map(|exclusive| sys::lock_whole(file, exclusive));
            let ranges = attached
                .record_locks
                .iter()
                .map(|lock| sys::lock_range(file, lock.exclusive, lock.start, lock.len_bytes));
            for locked in whole.into_iter().chain(ranges) {
                match locked {
                    Ok(()) => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        return Err(taken(image, attached.file));
                    }
                    Err(error) => return Err(failed("lock a file")(error)),
                }
            }
        }
        Ok(())
    }

    /// Does what must come last, just before the processes run.
    pub fn start(&mut self, image: &Image) -> Result<(), Error> {
        self.paths.keep();
        for (made, file) in self.files.iter().zip(&image.files) {
            if let What::Special(state) = &file.what {
                state.start(made).map_err(failed("start a timer"))?;
            }
        }
        Ok(())
    }

    /// True if a file takes the place of a standard stream.
    pub fn is_replaced(&self, file: u32) -> bool {
        self.replaced.contains(&file)
    }

    /// True if neither errors nor hang-ups can come from a file.
    pub fn has_no_errors(&self, file: u32) -> bool {
        self.has_no_errors.contains(&file)
    }

    /// An open file.
    pub fn file(&self, file: u32) -> &OwnedFd {
        &self.files[file as usize]
    }

    /// The number of an open file here.
    pub fn number(&self, file: u32) -> i32 {
        self.files[file as usize].as_raw_fd()
    }
}

/// Opens a file that is mapped; check() has looked at it already.
pub fn open_mapped(file: &MappedFile, writable: bool) -> Result<OwnedFd, Error> {
    let access = if writable {
        OFlag::O_RDWR
    } else {
        OFlag::O_RDONLY
    };
    let name = path(&file.path);
    let opened = open(&name, access | OFlag::O_CLOEXEC, Mode::empty());
    opened.map_err(failed(format!("open {}", name.display())))
}

fn by_path(
    file: &OpenFile,
    name: &[u8],
    identity: Option<((u64, u64), Identities)>,
) -> Result<OwnedFd, Error> {
    let name = path(name);
    let doing = || format!("open {}", name.display());
    // Without flags that would change the file. The kernel keeps none of them.
    let harmless = file.flags & !(libc::O_CREAT | libc::O_TRUNC | libc::O_EXCL | libc::O_ASYNC)
        | libc::O_NOCTTY
        | libc::O_CLOEXEC;
    let opened =
        open(&name, OFlag::from_bits_retain(harmless), Mode::empty()).map_err(failed(doing()))?;
    let found = File::from(opened.try_clone().map_err(failed(doing()))?)
        .metadata()
        .map_err(failed(doing()))?;
    let now = (found.dev(), found.ino());
    if identity.is_some_and(|(then, identities)| !identities.same(now, then)) {
        return Err(Error::BadImage("a file was replaced just now"));
    }
    if identity.is_none() {
        return Ok(opened);
    }
    go_to(file, opened).map_err(failed(doing()))
}

/// The same open file, at its offset.
fn go_to(file: &OpenFile, opened: OwnedFd) -> io::Result<OwnedFd> {
    if file.flags & libc::O_PATH == 0 {
        lseek(&opened, file.offset as i64, Whence::SeekSet)?;
    }
    Ok(opened)
}

/// A file that was made without flags, with those of its former one.
fn with_flags(file: &OpenFile, made: io::Result<OwnedFd>) -> Result<OwnedFd, Error> {
    let made = made.map_err(failed("make a file without a path"))?;
    let flags = OFlag::from_bits_retain(file.flags & !libc::O_ASYNC);
    fcntl(&made, FcntlArg::F_SETFL(flags)).map_err(failed("set the flags of a file"))?;
    Ok(made)
}

/// The refusal of a lock that somebody else has.
fn taken(image: &Image, file: u32) -> Error {
    let found = image.processes.iter().find_map(|process| {
        let mut descriptors = process.descriptors.iter();
        let descriptor = descriptors.find(|descriptor| descriptor.file == file)?;
        Some(refuse_lock(process.pid, descriptor.fd))
    });
    found.unwrap_or(Error::BadImage("a locked file is nobody's"))
}

/// The refusal of a lock of a process's file that somebody else has.
pub fn refuse_lock(pid: Pid, fd: i32) -> Error {
    let reason = "had a lock of a file, and somebody else has it now";
    let place = ProcessPart::Descriptor(fd);
    Error::Refused(vec![Refusal::new(pid, place, reason)])
}

fn stdio(options: &RestartOptions, stream: i32, terminal: Option<&[u8]>) -> Result<OwnedFd, Error> {
    let given =
        options.stdio[stream as usize].ok_or(Error::BadImage("a standard stream was not given"))?;
    if let Some(modes) = terminal
        && sys::terminal_modes(given).is_some()
    {
        sys::set_terminal_modes(given.as_fd(), modes).map_err(failed("set a terminal's modes"))?;
    }
    given
        .try_clone_to_owned()
        .map_err(failed("duplicate a standard stream"))
}
