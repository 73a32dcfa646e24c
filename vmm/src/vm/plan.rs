//! What a VM process is asked to do, and how it ends.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use crate::control::{ControlError, VmRuntimePaths};
use crate::spec::{DiskSpec, VmSpec};

/// Why a VM could not be started or had to end: cause, remedy, and the kind that decides the exit
/// code.
pub type VmError = ControlError;

/// Everything that is needed to run one VM. All paths are absolute.
#[derive(Debug)]
pub struct RunPlan {
    /// Name of the VM, already claimed in the registry.
    pub name: String,
    /// The pool, which exists.
    pub pool: PathBuf,
    /// A new machine or a snapshot.
    pub origin: Origin,
    /// Where the guest's console goes besides its socket.
    pub console: ConsoleMode,
    /// Build the machine but do not let the guest run until it is resumed.
    pub paused: bool,
    /// Where the sockets belong.
    pub runtime: VmRuntimePaths,
}

/// Where the VM's memory comes from.
#[derive(Debug)]
pub enum Origin {
    /// A new machine.
    Boot(VmSpec),
    /// A snapshot in the pool.
    Restore {
        /// Its name.
        snapshot: String,
        /// Disks in place of those that the snapshot names, in the guest's order.
        disks: Option<Vec<DiskSpec>>,
        /// Consume the snapshot.
        once: bool,
        /// Fill page tables before the guest runs.
        prefault: bool,
        /// Have the guest's agent set the guest's time of day to the host's.
        step_clock: bool,
    },
}

/// Where the guest's console goes. It is on the socket [`VmRuntimePaths::console`] in every mode.
#[derive(Debug)]
pub enum ConsoleMode {
    /// Output also goes to stdout, input also comes from `input`.
    Stdio {
        /// Read end of a pipe with what the user typed (non-blocking; the command line has already
        /// taken Ctrl-] out of it). End of file means that no more input comes, not that
        /// the VM should end.
        input: OwnedFd,
    },
    /// Only the socket.
    SocketOnly,
}

/// How a VM came to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VmExit {
    /// The guest switched itself off.
    PoweredOff,
    /// It was asked to stop.
    Stopped,
    /// It was snapshotted with `--stop`.
    Snapshotted {
        /// Name of the snapshot.
        snapshot: String,
    },
}
