//! A disk as a spec declares it.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use vm_memory::GuestMemory;

use super::{Block, DiskRate};
use crate::virtio::declared::{DeviceError, DeviceHost, DeviceId, DeviceSpec};
use crate::virtio::device::VirtioDevice;

/// One virtio-block disk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskSpec {
    /// Raw image file or block device on the host. Its content is not part of a snapshot.
    pub path: PathBuf,
    /// Offered to the guest read-only.
    pub read_only: bool,
    /// Limits of what the guest does with it.
    #[serde(default, skip_serializing_if = "DiskRate::is_none")]
    pub rate: DiskRate,
    /// The user says that the image is a raw one, whatever its first bytes say.
    #[serde(skip)]
    pub is_surely_raw: bool,
}

impl<Mem: GuestMemory> DeviceSpec<Mem> for DiskSpec {
    fn instance_prefix(&self) -> &'static str {
        "disk"
    }

    fn make(
        &self,
        id: &DeviceId,
        host: &mut DeviceHost,
    ) -> Result<Box<dyn VirtioDevice<Mem>>, DeviceError> {
        let disk = host.disks.next().ok_or_else(|| DeviceError::Missing {
            instance: id.instance.clone(),
            part: "an open disk",
        })?;
        let block = Block::new(disk, &id.instance).with_queues(usize::from(host.vcpus));
        let block = block
            .with_rate(self.rate)
            .map_err(|source| DeviceError::Host {
                op: "make the timer of a disk",
                source,
            })?;
        Ok(Box::new(block))
    }
}
