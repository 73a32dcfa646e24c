//! A VM from start to end: the pool's holder, guest RAM and the machine.
//!
//! [`Vm`] is a running VM. Below it, [`Builder`] makes one machine with its memory, a
//! [`RunningVm`], which neither reboots nor goes back to a snapshot. Programs need only [`Vm`]; the
//! benchmark measures the parts.

mod ahead;
mod arriving;
mod audit;
mod build;
mod episode;
mod error;
mod given;
mod handle;
mod host;
mod host_paths;
mod in_place;
#[cfg(test)]
mod kinds_test;
mod life;
mod memory;
mod networks;
mod options;
mod process;
mod reading;
mod reboots;
mod rewind;
mod ring;
mod running;
mod stale_disks;
mod standby;
mod supervisor;

pub use ahead::open_ahead;
pub use arriving::Arrivals;
pub use build::Builder;
pub use episode::Episode;
pub use given::{KernelKind, check_disk, check_kernel, check_machine};
pub use handle::Vm;
pub use host::{check_host, check_kvm, check_userfaultfd};
pub use host_paths::BootChoice;
pub use options::{
    OnReboot, RebootListener, RestoreOptions, TakenListener, VmExit, VmOptions, VmSource,
    VsockSockets,
};
pub use process::check_image;
pub use running::RunningVm;

use crate::error::VmError;
