//! The parts of a virtual machine, as the user asked for them. A spec is saved with every snapshot,
//! so that a restore builds the same machine.
//!
//! A spec lists its virtio devices, each with its slot on the MMIO bus. [`VmSpec::builder`] makes
//! one; `machine` goes through the list and makes the devices.
//!
//! # How to add a device
//!
//! Example: a network card.
//!
//! 1. A folder `net` beside the other virtio devices: the device (trait `VirtioDevice`), and its
//!    settings, `NetSpec` (trait `DeviceSpec`), which make the device. Saved states name the device
//!    by `DeviceSpec::instance_prefix`.
//! 2. [`DeviceKind`]: a variant `Net(NetSpec)`, and its line in the `match` below the enum.
//! 3. `vmm/cli/src/args/launch.rs`: the flag `--net`, whose value is given to
//!    [`VmSpecBuilder::device`].
//!
//! Nothing else knows the kinds of devices: slots, interrupts, doorbells, ACPI, pause, save and
//! restore are the same for all. A spec with a kind that older versions of nvvmm did not have is
//! saved in a section version that they refuse by number (module `saved`).

mod builder;
mod device;
pub mod files;
mod net_choice;
mod saved;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use builder::VmSpecBuilder;
pub use device::{DeclaredDevice, DeviceKind};
pub use net_choice::NetChoice;
pub use nvvmm_devices::virtio::{
    DiskRate, DiskSource, DiskSpec, Mac, NetPolicy, NetRate, NetSource, NetSpec, Protocol,
    Published,
};
use saved::SavedSpec;
pub(crate) use saved::{SpecError, decode};

/// One virtual machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "SavedSpec", try_from = "SavedSpec")]
pub struct VmSpec {
    /// bzImage, ELF `vmlinux`, or an ELF program with an nvvmm flat-boot note. `None` in a machine
    /// that cannot be booted: a reboot of its guest ends the VM.
    pub kernel: Option<PathBuf>,
    /// Initial RAM disk for Linux.
    pub initramfs: Option<PathBuf>,
    /// Kernel command line, without what nvvmm adds itself.
    pub cmdline: String,
    /// Number of vCPUs, 1 to [`VmSpec::VCPUS_MAX`].
    pub vcpus: u8,
    /// Guest RAM in bytes, a multiple of 2 MiB.
    pub memory_bytes: u64,
    /// virtio devices. Those of one kind are numbered in the order of this list: the first disk is
    /// the guest's `vda` if its slot is the lowest, too.
    pub devices: Vec<DeclaredDevice>,
}

impl VmSpec {
    /// vCPUs one machine may have.
    pub const VCPUS_MAX: u8 = 64;

    /// Starts the spec of a machine that boots `kernel`.
    pub fn builder(kernel: impl Into<PathBuf>) -> VmSpecBuilder {
        VmSpecBuilder::new(kernel.into())
    }

    /// The disks, in the order of the list.
    pub fn disks(&self) -> impl Iterator<Item = &DiskSpec> {
        self.devices.iter().filter_map(|device| match &device.kind {
            DeviceKind::Disk(disk) => Some(disk),
            _ => None,
        })
    }

    /// Puts `disks` in place of the disks, in the order of the list. False, and nothing changed,
    /// when their number differs.
    pub fn replace_disks(&mut self, disks: &[DiskSpec]) -> bool {
        if self.disks().count() != disks.len() {
            return false;
        }
        let mut new = disks.iter();
        for device in &mut self.devices {
            if let DeviceKind::Disk(disk) = &mut device.kind
                && let Some(new) = new.next()
            {
                disk.clone_from(new);
            }
        }
        true
    }

    /// The network cards, in the order of the list.
    pub fn nets(&self) -> impl Iterator<Item = &NetSpec> {
        self.devices.iter().filter_map(|device| match &device.kind {
            DeviceKind::Net(net) => Some(net),
            _ => None,
        })
    }

    /// The same, to be changed.
    pub fn nets_mut(&mut self) -> impl Iterator<Item = &mut NetSpec> {
        { self.devices.iter_mut() }.filter_map(|device| match &mut device.kind {
            DeviceKind::Net(net) => Some(net),
            _ => None,
        })
    }

    /// There is a vsock device.
    pub fn has_vsock(&self) -> bool {
        { self.devices.iter() }.any(|device| matches!(device.kind, DeviceKind::Vsock(_)))
    }

    /// There is a balloon.
    pub fn has_balloon(&self) -> bool {
        { self.devices.iter() }.any(|device| matches!(device.kind, DeviceKind::Balloon(_)))
    }

    /// Kinds and slots of the devices are the same in both, whatever the settings of each.
    pub fn has_same_devices(&self, other: &VmSpec) -> bool {
        self.devices.len() == other.devices.len() && { self.devices.iter().zip(&other.devices) }
            .all(|(own, other)| own.slot == other.slot && own.kind.is_same(&other.kind))
    }
}

#[cfg(test)]
pub(crate) mod saved_test;
#[cfg(test)]
mod spec_test;
