//! A disk as a spec declares it.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use vm_memory::GuestMemory;

use super::Block;
use crate::virtio::dax::DaxDisk;
use crate::virtio::declared::{DeviceError, DeviceHost, DeviceId, DeviceSpec};
use crate::virtio::device::VirtioDevice;
use crate::virtio::rate::DiskRate;

/// One virtio-block disk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskSpec {
    /// The place of its content.
    #[serde(flatten)]
    pub source: DiskSource,
    /// Offered to the guest read-only.
    pub read_only: bool,
    /// Limits of what the guest does with it.
    #[serde(default, skip_serializing_if = "DiskRate::is_none")]
    pub rate: DiskRate,
    /// Shown to the guest as persistent memory: for a read-only disk of the pool.
    #[serde(default, skip_serializing_if = "is_false")]
    pub dax: bool,
    /// The user says that the image is a raw one, whatever its first bytes say.
    #[serde(skip)]
    pub is_surely_raw: bool,
}

fn is_false(flag: &bool) -> bool {
    !flag
}

/// Place of a disk's content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DiskSource {
    /// Raw image file or block device on the host. Its content is not part of a snapshot.
    #[serde(rename = "path")]
    File(PathBuf),
    /// Disk of the pool, by its name. Its content is part of each snapshot, by this name; copies of
    /// the VM have a disk with another name, and the same name here.
    #[serde(rename = "pool_disk")]
    Pool(String),
}

impl Default for DiskSource {
    fn default() -> Self {
        Self::File(PathBuf::new())
    }
}

impl DiskSpec {
    /// A writable disk on a raw image file or block device.
    pub fn of_file(path: impl Into<PathBuf>) -> Self {
        Self {
            source: DiskSource::File(path.into()),
            ..Self::default()
        }
    }

    /// A writable disk of the pool.
    pub fn of_pool(name: impl Into<String>) -> Self {
        Self {
            source: DiskSource::Pool(name.into()),
            ..Self::default()
        }
    }

    /// The image, unless it is a disk of the pool.
    pub fn path(&self) -> Option<&Path> {
        match &self.source {
            DiskSource::File(path) => Some(path),
            DiskSource::Pool(_) => None,
        }
    }

    /// The name of the disk of the pool, if it is one.
    pub fn pool_disk(&self) -> Option<&str> {
        match &self.source {
            DiskSource::File(_) => None,
            DiskSource::Pool(name) => Some(name),
        }
    }
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
        let missing = |part| DeviceError::Missing {
            instance: id.instance.clone(),
            part,
        };
        if self.dax {
            let range = host.dax.next();
            let range = range.ok_or_else(|| missing("memory with its content"))?;
            return Ok(Box::new(DaxDisk::new(range)));
        }
        let disk = host.disks.next();
        let disk = disk.ok_or_else(|| missing("an open disk"))?;
        let serial = self.pool_disk().unwrap_or(&id.instance);
        let block = Block::new(disk, serial).with_queues(usize::from(host.vcpus));
        let block = block
            .with_rate(self.rate)
            .map_err(|source| DeviceError::Host {
                op: "make the timer of a disk",
                source,
            })?;
        Ok(Box::new(block))
    }
}
