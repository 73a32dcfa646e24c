//! Sessions that pseudo-terminals control.

use std::os::fd::OwnedFd;

use super::files::OpenFiles;
use super::makers::take;
use super::stubs::{Stub, Stubs};
use super::terminals::Terminals;
use crate::error::{Error, Pid};
use crate::image::{Image, OpenFile, TerminalEnd, What};

/// Sets the foreground groups, all of which are there, and takes the terminals from those that have
/// given them up. Opens them as the controlling ones.
pub fn set(
    stubs: &mut Stubs,
    image: &Image,
    terminals: &Terminals,
    files: &mut OpenFiles,
) -> Result<(), Error> {
    for (index, terminal) in image.terminals.iter().enumerate() {
        if terminal.session == 0 {
            continue;
        }
        let stub = find(stubs, terminal.session)?;
        if terminal.foreground != 0 {
            let group = stub.put(&terminal.foreground.to_le_bytes())?;
            let request = [libc::TIOCSPGRP, group];
            terminals.ask(index, &stub.blank, "set the foreground group", request)?;
        }
        let controlling = What::Terminal {
            terminal: index as u32,
            end: TerminalEnd::Controlling,
        };
        for (number, file) in (0..).zip(&image.files) {
            if file.what == controlling {
                files.put(number, open_controlling(stub, file)?);
            }
        }
        for pid in &terminal.without {
            let stub = find(stubs, *pid)?;
            let request = [libc::TIOCNOTTY, 0];
            terminals.ask(
                index,
                &stub.blank,
                "give up a controlling terminal",
                request,
            )?;
        }
    }
    Ok(())
}

/// Opens /dev/tty as the leader of a session does.
fn open_controlling(stub: &Stub, file: &OpenFile) -> Result<OwnedFd, Error> {
    let name = stub.put(b"/dev/tty\0")?;
    let flags = file.flags & (libc::O_ACCMODE | libc::O_NONBLOCK) | libc::O_NOCTTY;
    let at = libc::AT_FDCWD as u64;
    let arguments = [at, name, (flags | libc::O_CLOEXEC) as u64, 0];
    let fd = stub.call("open /dev/tty", libc::SYS_openat, &arguments)?;
    take(stub, fd)
}

fn find<'s, 'i>(stubs: &'s mut Stubs<'i>, pid: Pid) -> Result<&'s Stub<'i>, Error> {
    let stubs: &'s [Stub<'i>] = stubs.all();
    let found = stubs.iter().find(|stub| stub.process.pid == pid);
    found.ok_or(Error::BadImage("a terminal is of a session that is none"))
}
