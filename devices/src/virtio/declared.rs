//! Devices as the spec of a machine declares them.

use std::sync::Arc;

use vm_memory::GuestMemory;

use super::balloon::{BalloonHost, FreePages};
use super::block::{BlockError, DiskBackend};
use super::device::VirtioDevice;
use super::net::NetPort;
use super::pmem::{PmemBacking, PmemRange};
use crate::host_socket::HostSocket;

/// Settings of one kind of device: all that a machine needs to make one. They are saved with every
/// snapshot.
pub trait DeviceSpec<Mem: GuestMemory> {
    /// Start of an instance's name in saved states: "disk" for `disk0`, `disk1`, ... Snapshots
    /// refer to it, so it stays the same for ever.
    fn instance_prefix(&self) -> &'static str;

    /// Makes the device `id`.
    ///
    /// # Errors
    /// The host refuses something, or `host` lacks a part that the device needs.
    fn make(
        &self,
        id: &DeviceId,
        host: &mut DeviceHost,
    ) -> Result<Box<dyn VirtioDevice<Mem>>, DeviceError>;
}

/// One device of one machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceId {
    /// Its name in saved states: prefix and number among the devices of its kind.
    pub instance: String,
    /// Its slot on the MMIO bus.
    pub slot: u8,
}

/// Parts of the machine that devices are made with, and what some devices give back to it.
pub struct DeviceHost {
    /// Number of vCPUs of the machine: queues of a device that has one for each.
    pub vcpus: u8,
    /// Storage of the disks that are still to be made, in their order.
    pub disks: std::vec::IntoIter<Arc<dyn DiskBackend>>,
    /// Places of the disks that the guest finds in memory, in their order.
    pub dax: std::vec::IntoIter<PmemRange>,
    /// Places of the network cards that are still to be made, in their order.
    pub nets: std::vec::IntoIter<Arc<NetPort>>,
    /// The host's side of the vsock device, if there is one.
    pub vsock: Option<Arc<HostSocket>>,
    /// RAM, as far as the guest can give it back.
    pub free_pages: Option<Arc<dyn FreePages>>,
    /// The host's side of the balloon that was made, if one was.
    pub balloon: Option<Arc<BalloonHost>>,
    /// Called when the guest's driver releases a pmem device.
    pub on_pmem_released: Arc<dyn Fn() + Send + Sync>,
    /// The pmem devices made so far: the slot of each and what is behind it.
    pub pmem: Vec<(u8, Arc<PmemBacking>)>,
}

/// Reasons why a device cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// A disk cannot be used.
    #[error(transparent)]
    Disk(#[from] BlockError),
    /// The host refused something.
    #[error("cannot {op}: {source}")]
    Host {
        /// The step that failed.
        op: &'static str,
        /// The host's error.
        source: std::io::Error,
    },
    /// The machine was given no such part.
    #[error("{instance} needs {part}, which the machine was not given")]
    Missing {
        /// The device.
        instance: String,
        /// The part of [`DeviceHost`].
        part: &'static str,
    },
}
