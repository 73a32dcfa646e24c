//! The information of /proc on a process. Nothing here stops or changes the process.

mod descriptors;
mod kernel;
mod locks;
mod mappings;
mod pagemap;
mod settings;
mod sockets;
mod status;

pub use descriptors::{
    Descriptor, ElsewhereFile, FileId, OpenElsewhere, PipeId, TerminalFile, descriptors, identity,
    is_gone, open_elsewhere,
};
pub use kernel::{Kernel, Vdso, boot, find_vdso, kernel};
pub use locks::{Lock, LockKind, locks};
pub use mappings::{Mapping, mappings};
pub use pagemap::{FrameRun, Listing, Pagemap, Pages};
pub use settings::{
    NamedTimer, asked_for_speculation, core_filter, locked_bytes, timer_slack_ns, timers,
};
pub use sockets::describe as socket;
pub use status::{
    EndedProcess, Ids, MemoryLayout, Relations, Status, all_processes, auxv, children,
    controlling_terminal, ended, is_zombie, layout, limits, named, program, pseudo_terminal,
    relations, status, threads,
};

use std::io;

use crate::error::{Error, Pid, failed};

/// Reads a file of /proc/PID; one that is not there means that the process is not.
fn read(pid: Pid, name: &str) -> Result<Vec<u8>, Error> {
    std::fs::read(format!("/proc/{pid}/{name}")).map_err(gone_or(pid, name))
}

fn read_text(pid: Pid, name: &str) -> Result<String, Error> {
    Ok(String::from_utf8_lossy(&read(pid, name)?).into_owned())
}

fn gone_or(pid: Pid, name: &str) -> impl FnOnce(io::Error) -> Error {
    let op = format!("read /proc/{pid}/{name}");
    move |source| match (source.kind(), source.raw_os_error()) {
        (io::ErrorKind::NotFound, _) | (_, Some(libc::ESRCH)) => Error::Gone(pid),
        _ => failed(op)(source),
    }
}

fn unreadable(pid: Pid, name: &str) -> Error {
    failed(format!("read /proc/{pid}/{name}"))(io::Error::from(io::ErrorKind::InvalidData))
}
