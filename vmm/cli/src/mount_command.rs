//! `nvvmm pool mount`.

use std::io;
use std::path::Path;

use nix::errno::Errno;
use nvvmm::{ErrorKind, VmError};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::args::PoolOption;
use super::message;
use super::{output, pool_path};
use crate::confine;
use crate::mount::{Ended, Mount, Unmounter};

const DEVICE: &str = "/dev/fuse";

/// `nvvmm pool mount`: returns when it is unmounted.
pub fn run(directory: &Path, option: &PoolOption) -> Result<(), VmError> {
    let path = pool_path::found(option)?;
    let unmounter = Unmounter::of(directory).map_err(|e| not_mounted(directory, &e))?;
    let pool = pool_path::open(&path)?;
    let signals =
        Signals::new([SIGINT, SIGTERM]).map_err(|e| VmError::io("watch for signals", &e))?;
    if !Path::new(DEVICE).exists() {
        let error = VmError::new(ErrorKind::HostLacks, format!("there is no {DEVICE}"));
        return Err(error.with_remedy("load the kernel's module: modprobe fuse"));
    }
    let mount = Mount::new(pool, unmounter, signals).map_err(|e| not_mounted(directory, &e))?;
    output::print(&format!(
        "{} is mounted on {}; Ctrl-C or 'umount {}' ends it\n",
        path.display(),
        directory.display(),
        directory.display()
    ))?;
    confine::to_pool(&path)?;
    let ended = mount
        .serve()
        .map_err(|e| VmError::io(format_args!("serve {}", directory.display()), &e))?;
    if ended == Ended::InUse {
        message::note("programs that have files open there get errors now");
    }
    Ok(())
}

fn not_mounted(directory: &Path, error: &io::Error) -> VmError {
    let shown = directory.display();
    let told = VmError::io(format_args!("mount on {shown}"), error);
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ENOENT) => told.with_remedy(format!("make the directory: mkdir {shown}")),
        // What was served by a process that is gone.
        Some(Errno::ENOTCONN) => VmError {
            kind: ErrorKind::Refused,
            ..told
        }
        .with_remedy(format!(
            "the process that served it was killed: 'umount {shown}' first"
        )),
        Some(Errno::ENOTDIR) => VmError {
            kind: ErrorKind::Usage,
            ..told
        },
        _ => VmError {
            kind: ErrorKind::HostLacks,
            ..told
        }
        .with_remedy("run as root, or install fusermount3 (package fuse3)"),
    }
}

#[cfg(test)]
#[path = "mount_command_test.rs"]
mod mount_command_test;
