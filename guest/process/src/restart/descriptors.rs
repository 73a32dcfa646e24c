//! File descriptors of a stub.

use super::fetch::Fetch;
use super::files::OpenFiles;
use super::stubs::Stub;
use crate::error::Error;
use crate::image::{Image, What};

/// Gives a stub the descriptors of its process.
pub fn set(stub: &Stub, files: &OpenFiles) -> Result<(), Error> {
    let descriptors = &stub.process.descriptors;
    let Some(last) = descriptors.last() else {
        return Ok(());
    };
    stub.raise_descriptor_limit()?;
    let fetch = Fetch::new(&stub.blank, last.fd + 1)?;
    for descriptor in descriptors {
        // In rising order: the lowest free number is this one or a lower one that is not needed.
        let got = fetch.get(&stub.blank, files.number(descriptor.file))?;
        let (fd, flag) = (
            descriptor.fd as u64,
            if descriptor.close_on_exec {
                libc::O_CLOEXEC
            } else {
                0
            },
        );
        if got != fd {
            stub.call("move a descriptor", libc::SYS_dup3, &[got, fd, flag as u64])?;
            stub.call("close a descriptor", libc::SYS_close, &[got])?;
        } else if !descriptor.close_on_exec {
            stub.call(
                "set a descriptor's flags",
                libc::SYS_fcntl,
                &[fd, libc::F_SETFD as u64, 0],
            )?;
        }
    }
    fetch.end(&stub.blank)
}

/// Makes the terminal among a session leader's standard streams that of its session, so that keys
/// can interrupt it.
pub fn take_terminal(stub: &Stub, image: &Image) -> Result<(), Error> {
    let process = stub.process;
    if process.session != process.pid {
        return Ok(());
    }
    let is_terminal = |file: u32| {
        matches!(
            image.files[file as usize].what,
            What::Stdio {
                terminal: Some(_),
                ..
            }
        )
    };
    let terminal = (process.descriptors.iter()).find(|descriptor| is_terminal(descriptor.file));
    if let Some(terminal) = terminal {
        // The new stream may be no terminal, or the terminal of another session.
        let arguments = [terminal.fd as u64, libc::TIOCSCTTY, 0];
        let _ = stub.leader().try_call(libc::SYS_ioctl, &arguments)?;
    }
    Ok(())
}
