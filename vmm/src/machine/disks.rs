//! The disks of a machine, for its owner.

use nvvmm_devices::virtio::ContentStamp;

use super::{Machine, Result};
use crate::disk::OpenDisk;

impl Machine {
    /// Content of each image, for a snapshot: the first write after this is told from those before.
    /// Devices must be paused. `None` for a disk of which nothing can be told, or of the pool.
    pub fn note_disks(&self) -> Vec<Option<ContentStamp>> {
        self.disks.iter().map(OpenDisk::note_content).collect()
    }

    /// The disks, in the order of the spec.
    pub fn disks(&self) -> &[OpenDisk] {
        &self.disks
    }

    /// Finds the sizes of the disks anew, and tells the guest those that have changed; a paused
    /// guest gets to know it when it goes on. Gives the disks that have.
    ///
    /// # Errors
    /// [`MachineError::Disk`] when a disk has a size that is none; the guest is told nothing.
    pub fn measure_disks(&self) -> Result<Vec<&OpenDisk>> {
        let mut resized = Vec::new();
        for disk in &self.disks {
            if disk.measure()? {
                resized.push(disk);
            }
        }
        self.board.look_anew()?;
        Ok(resized)
    }
}
