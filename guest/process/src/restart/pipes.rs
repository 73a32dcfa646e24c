//! Pipes, with what is in them, and the open files of their ends.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::fcntl::{FcntlArg, OFlag, fcntl, open};
use nix::sys::stat::Mode;
use nix::unistd::pipe;

use super::check::path;
use crate::error::{Error, failed};
use crate::image::{OpenFile, Pipe};
use crate::sys;

/// A flag of files that were opened by open(2), and not made by pipe(2).
const O_LARGEFILE: i32 = 0o100_000;

/// A pipe, of which each open file of the image is made.
#[derive(Debug)]
pub enum FilledPipe {
    /// One without a path: the two ends that pipe(2) made.
    Anonymous(OwnedFd, OwnedFd),
    /// One that has a path: open for reading and writing, so that nobody waits for another end.
    Named(OwnedFd),
}

impl FilledPipe {
    /// Makes a pipe, or opens the one at this path, and fills it.
    pub fn new(held: &Pipe, name: Option<&[u8]>) -> Result<Self, Error> {
        let made = match name {
            Some(name) => Self::Named(open_named(name, OFlag::O_RDWR | OFlag::O_NONBLOCK)?),
            None => {
                let (reader, writer) = pipe().map_err(failed("make a pipe"))?;
                Self::Anonymous(reader, writer)
            }
        };
        if let Self::Named(both) = &made
            && sys::is_ready(both.as_fd(), libc::POLLIN).map_err(failed("look into a pipe"))?
        {
            return Err(Error::BadImage(
                "somebody has put something into its named pipe since",
            ));
        }
        let writer = match &made {
            Self::Anonymous(_, writer) => writer,
            Self::Named(both) => both,
        };
        fcntl(writer, FcntlArg::F_SETPIPE_SZ(held.capacity_bytes as i32))
            .map_err(failed("set a pipe's size"))?;
        // The pipe has room for all of it, so this does not wait.
        let filler = writer.try_clone().map_err(failed("duplicate a pipe"))?;
        File::from(filler)
            .write_all(&held.held)
            .map_err(failed("fill a pipe"))?;
        Ok(made)
    }

    /// An open file of this pipe. The end that pipe(2) made can be one only.
    pub fn end(&self, file: &OpenFile, name: Option<&[u8]>) -> Result<OwnedFd, Error> {
        let flags = OFlag::from_bits_retain(file.flags & !libc::O_ASYNC);
        let (reader, writer) = match (self, name) {
            (Self::Anonymous(reader, writer), _) => (reader, writer),
            (Self::Named(_), Some(name)) => return open_named(name, flags),
            (Self::Named(_), None) => return Err(Error::BadImage("a pipe has no path")),
        };
        let end = match file.flags & libc::O_ACCMODE {
            libc::O_RDONLY => reader,
            libc::O_WRONLY => writer,
            _ => return reopen(reader, flags),
        };
        if file.flags & O_LARGEFILE != 0 {
            return reopen(end, flags);
        }
        fcntl(end, FcntlArg::F_SETFL(flags)).map_err(failed("set up a pipe"))?;
        end.try_clone().map_err(failed("duplicate a pipe"))
    }
}

/// Another open file of the same pipe.
fn reopen(end: &OwnedFd, flags: OFlag) -> Result<OwnedFd, Error> {
    let link = format!("/proc/self/fd/{}", end.as_raw_fd());
    open(link.as_str(), flags | OFlag::O_CLOEXEC, Mode::empty())
        .map_err(failed("open an end of a pipe"))
}

fn open_named(name: &[u8], flags: OFlag) -> Result<OwnedFd, Error> {
    let name = path(name);
    let harmless = flags & !(OFlag::O_CREAT | OFlag::O_TRUNC | OFlag::O_EXCL);
    let opened = open(&name, harmless | OFlag::O_CLOEXEC, Mode::empty());
    let opened = opened.map_err(failed(format!("open {}", name.display())))?;
    let kind = nix::sys::stat::fstat(&opened).map_err(failed("look at a pipe"))?;
    if kind.st_mode & libc::S_IFMT != libc::S_IFIFO {
        return Err(Error::BadImage(
            "a named pipe was replaced by something else",
        ));
    }
    Ok(opened)
}
