//! The running machine: KVM VM, vCPU threads, devices on their buses, and the event thread that
//! drives them.
//!
//! A machine is created (nothing runs), then either loaded (booted) or restored, then started.
//! vCPUs pause and resume as one; devices separately, as a snapshot needs both: pause vCPUs, then
//! devices; resume devices, then vCPUs.
//!
//! Lock order, outermost first: the list of threads, the vCPU gate, a vCPU's descriptor, a device's
//! own locks (crate `nvvmm-devices`). The event queue's lock is a leaf.

mod assembly;
mod balloon;
mod board;
mod dax;
mod disks;
mod error;
mod event_thread;
mod events;
mod gate;
mod identity;
mod rewind;
mod slots;
mod vcpu;

use nvvmm_devices::SavedDevice;
use serde::{Deserialize, Serialize};

pub use assembly::{Machine, MachineParts, ShownWindow};
pub use error::{MachineError, Result};
pub use events::{Interrupter, MachineEvent};
pub use gate::Hold;
pub use slots::check as check_devices;

use crate::arch::KvmStateV1;

/// Saved state of a machine, without its memory and its disks.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MachineStateV1 {
    /// KVM: interrupt controllers, clock, vCPUs.
    pub kvm: KvmStateV1,
    /// Every device.
    pub devices: Vec<SavedDevice>,
}

#[cfg(test)]
mod gate_test;
#[cfg(test)]
mod machine_test;
