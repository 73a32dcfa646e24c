//! Kinds of devices. The only list of them.

use std::mem::discriminant;

use nvvmm_devices::virtio::{
    BalloonSpec, DeviceSpec, DiskSpec, NetSpec, PmemSpec, RngSpec, VsockSpec,
};
use serde::{Deserialize, Serialize};
use vm_memory::GuestMemory;

/// One device of a machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeclaredDevice {
    /// Its slot on the MMIO bus. It decides the device's registers and its interrupt.
    pub slot: u32,
    /// Kind and settings.
    #[serde(flatten)]
    pub kind: DeviceKind,
}

/// Kinds of virtio devices, each with its settings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum DeviceKind {
    /// Random numbers.
    Rng(RngSpec),
    /// A disk.
    Disk(DiskSpec),
    /// Streams between guest and host.
    Vsock(VsockSpec),
    /// Memory beside RAM, in which images of processes can be shown.
    Pmem(PmemSpec),
    /// A network card.
    Net(NetSpec),
    /// Gives memory that the guest does not use back to the host.
    Balloon(BalloonSpec),
}

impl DeviceKind {
    /// The settings, by which the device is made.
    pub fn spec<Mem: GuestMemory>(&self) -> &dyn DeviceSpec<Mem> {
        match self {
            Self::Rng(spec) => spec,
            Self::Disk(spec) => spec,
            Self::Vsock(spec) => spec,
            Self::Pmem(spec) => spec,
            Self::Net(spec) => spec,
            Self::Balloon(spec) => spec,
        }
    }

    /// Both are of one kind, whatever their settings.
    pub fn is_same(&self, other: &DeviceKind) -> bool {
        discriminant(self) == discriminant(other)
    }
}
