//! The sandbox of the VM process.
//!
//! The process is still a launcher when it opens everything: pool, disks, kernel, devices, sockets.
//! Then [`enter`] confines it, while it has one thread, and only then it builds the machine. Every
//! thread inherits the confinement, and holds itself to the system calls of its kind when it
//! starts. `docs/inside/sandbox.md` has the layers, and what each is for.
//!
//! What still needs a path later is done by the [`Helper`], a process of its own that was forked
//! before: it connects to the programs at the guest's host ports, and removes the VM's files at the
//! end.

mod calls;
mod filter;
mod helper;
mod landlocked;
mod namespaces;
mod privileges;
#[cfg(debug_assertions)]
mod probe;
mod program;
mod sys;
mod violation;

use std::path::Path;

use nvvmm::VmError;
use nvvmm::control::SandboxStatus;
use nvvmm::threads::{self, ThreadKind};

pub use helper::Helper;

/// Confines this process, which must have a single thread. `place` is an empty place for a moment:
/// any directory that exists.
///
/// # Errors
/// The process could not give its privileges up, or the filters are refused. Namespaces and
/// Landlock that the kernel does not allow are left out; the answer tells which hold.
pub fn enter(place: &Path) -> Result<SandboxStatus, VmError> {
    let namespaces = namespaces::enter(place);
    privileges::drop_all()?;
    let landlock = landlocked::forbid_everything();
    filter::enter()?;
    threads::on_start(begin_thread);
    let status = SandboxStatus {
        privileges: true,
        namespaces,
        landlock,
        seccomp: true,
    };
    tracing::info!(?status, "the VM process is confined");
    Ok(status)
}

/// Does without the sandbox, for debugging.
pub fn stay_out() -> SandboxStatus {
    tracing::warn!("the VM process is not confined (--no-sandbox)");
    #[cfg(debug_assertions)]
    threads::on_start(probe::run_if_asked);
    SandboxStatus::default()
}

/// Holds this thread to the system calls of its kind.
pub fn begin_thread(kind: ThreadKind) {
    filter::narrow(kind);
    #[cfg(debug_assertions)]
    probe::run_if_asked(kind);
}
