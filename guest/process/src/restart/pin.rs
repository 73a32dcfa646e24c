//! Keeps the kernel from moving frames while somebody outside of it writes to them.
//!
//! A page that is in a pipe (vmsplice(2)) has more references than mappings. Nothing that moves or
//! merges pages takes such a one: compaction, collapse into huge pages, balancing between nodes,
//! KSM. mlock(2) alone does not do that, but it is needed as well: it keeps a page from
//! being written to swap, after which the kernel would take it for unchanged.

use std::os::fd::{AsRawFd, OwnedFd};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::unistd::pipe2;

use super::blank::Blank;
use super::fetch::Fetch;
use crate::arch::PAGE_BYTES;
use crate::error::{Error, failed};
use crate::pages::Placed;

/// Pages that a pipe may hold without any privilege: /proc/sys/fs/pipe-max-size, as the kernel sets
/// it.
const PIPE_PAGES_MIN: u64 = 256;
/// Pages that a pipe is asked to hold. The kernel needs one piece of memory for its list of them.
const PIPE_PAGES: u64 = 4096;

/// Pages of a blank process that stay in their frames until this is dropped.
#[derive(Debug, Default)]
pub struct Pinned {
    _pipes: Vec<(OwnedFd, OwnedFd)>,
}

impl Pinned {
    /// The most pages that are to be pinned at once, if there is no reason for more.
    pub const PAGES_MAX: u64 = 2 * PIPE_PAGES;

    /// Pins pages that are there.
    pub fn new(blank: &Blank, fetch: &Fetch, runs: &[Placed]) -> Result<Self, Error> {
        let mut pipes = Vec::new();
        for part in in_parts(runs, PIPE_PAGES) {
            match pipe_for(PIPE_PAGES) {
                Ok(pipe) => pipes.push(lend(blank, fetch, pipe, &part)?),
                Err(_) => {
                    for part in in_parts(&part, PIPE_PAGES_MIN) {
                        pipes.push(lend(blank, fetch, pipe_for(PIPE_PAGES_MIN)?, &part)?);
                    }
                }
            }
        }
        Ok(Self { _pipes: pipes })
    }
}

fn pipe_for(pages: u64) -> Result<(OwnedFd, OwnedFd), Error> {
    let (reader, writer) = pipe2(OFlag::O_CLOEXEC).map_err(failed("make a pipe"))?;
    let capacity = FcntlArg::F_SETPIPE_SZ((pages * PAGE_BYTES) as i32);
    fcntl(&writer, capacity).map_err(failed("set a pipe's size"))?;
    Ok((reader, writer))
}

/// Puts pages into a pipe that has room for them.
fn lend(
    blank: &Blank,
    fetch: &Fetch,
    pipe: (OwnedFd, OwnedFd),
    runs: &[Placed],
) -> Result<(OwnedFd, OwnedFd), Error> {
    let fd = fetch.get(blank, pipe.1.as_raw_fd())?;
    // The most that the kernel takes in one call.
    for runs in runs.chunks(libc::UIO_MAXIOV as usize) {
        let parts = runs
            .iter()
            .flat_map(|run| [run.address, run.pages * PAGE_BYTES]);
        let bytes: Vec<u8> = parts.flat_map(u64::to_le_bytes).collect();
        let address = blank.put(&bytes)?;
        let arguments = [
            fd,
            address,
            runs.len() as u64,
            libc::SPLICE_F_NONBLOCK.into(),
        ];
        let lent = blank.call("pin memory", libc::SYS_vmsplice, &arguments)?;
        if lent != runs.iter().map(|run| run.pages * PAGE_BYTES).sum::<u64>() {
            let source = std::io::ErrorKind::WriteZero.into();
            return Err(failed::<std::io::Error>("pin all of the memory")(source));
        }
    }
    blank.call("close a descriptor", libc::SYS_close, &[fd])?;
    Ok(pipe)
}

/// The same pages, in parts of at most so many.
pub fn in_parts(runs: &[Placed], pages_max: u64) -> Vec<Vec<Placed>> {
    let mut parts = Vec::new();
    let (mut part, mut room) = (Vec::new(), pages_max);
    for run in runs {
        let mut done = 0;
        while done < run.pages {
            let pages = room.min(run.pages - done);
            part.push(Placed {
                address: run.address + done * PAGE_BYTES,
                image_page: run.image_page + done,
                pages,
                frame: run.frame.map(|first| first + done),
            });
            done += pages;
            room -= pages;
            if room == 0 {
                parts.push(std::mem::take(&mut part));
                room = pages_max;
            }
        }
    }
    if !part.is_empty() {
        parts.push(part);
    }
    parts
}
