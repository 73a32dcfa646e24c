//! Opens the image's open files in this process. The stubs fetch them.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

use nix::fcntl::{FcntlArg, OFlag, fcntl, open};
use nix::sys::stat::Mode;
use nix::unistd::{Whence, lseek, pipe};

use super::check::{Identities, path};
use super::options::RestartOptions;
use crate::error::{Error, failed};
use crate::image::{Image, MappedFile, OpenFile, What};
use crate::sys;

/// The image's open files, in its order.
#[derive(Debug)]
pub struct OpenFiles {
    files: Vec<OwnedFd>,
}

impl OpenFiles {
    /// Opens all of them.
    pub fn open(image: &Image, options: &RestartOptions) -> Result<Self, Error> {
        let identities = Identities::of(image)?;
        let mut pipes = Vec::new();
        for pipe in &image.pipes {
            pipes.push(filled_pipe(pipe.capacity_bytes, &pipe.held)?);
        }
        let mut files = Vec::new();
        for file in &image.files {
            files.push(match &file.what {
                What::File { path, identity, .. } => {
                    by_path(file, path, Some((*identity, identities)))?
                }
                What::Device { path, .. } => by_path(file, path, None)?,
                What::PipeEnd { pipe, write } => {
                    let (reader, writer) = &pipes[*pipe as usize];
                    let end = if *write { writer } else { reader };
                    let end = end.try_clone().map_err(failed("duplicate a pipe"))?;
                    fcntl(&end, FcntlArg::F_SETFL(OFlag::from_bits_retain(file.flags)))
                        .map_err(failed("set up a pipe"))?;
                    end
                }
                What::Stdio { stream, terminal } => stdio(options, *stream, terminal.as_deref())?,
            });
        }
        Ok(Self { files })
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
    let harmless = file.flags & !(libc::O_CREAT | libc::O_TRUNC | libc::O_EXCL)
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
    if identity.is_some() && file.flags & libc::O_PATH == 0 {
        lseek(&opened, file.offset as i64, Whence::SeekSet).map_err(failed(doing()))?;
    }
    Ok(opened)
}

fn filled_pipe(capacity_bytes: u32, held: &[u8]) -> Result<(OwnedFd, OwnedFd), Error> {
    let (reader, writer) = pipe().map_err(failed("make a pipe"))?;
    fcntl(&writer, FcntlArg::F_SETPIPE_SZ(capacity_bytes as i32))
        .map_err(failed("set a pipe's size"))?;
    // The pipe has room for all of it, so this does not wait.
    let filler = writer.try_clone().map_err(failed("duplicate a pipe"))?;
    File::from(filler)
        .write_all(held)
        .map_err(failed("fill a pipe"))?;
    Ok((reader, writer))
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
