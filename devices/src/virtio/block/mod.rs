//! virtio-block (Virtio 1.2 section 5.2). The storage is a [`DiskBackend`]; [`RawDisk`] is one on a
//! raw image file.
//!
//! Requests are carried out one after the other in the event thread. A snapshot holds the device's
//! state, not the disk's content. A restored VM needs a disk with the content of that instant, for
//! example a copy of the image that was made while the VM was paused. Every clone needs its own.

mod backend;
mod content;
mod raw;
mod request;
mod spec;

use std::path::Path;

use serde::{Deserialize, Serialize};
use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_RO, VIRTIO_BLK_F_SEG_MAX,
};
use virtio_bindings::virtio_ids::VIRTIO_ID_BLOCK;
use vm_memory::GuestMemory;

pub use self::backend::{DiskBackend, SECTOR_BYTES};
pub use self::content::{ContentStamp, Since};
pub use self::raw::{BlockError, RawDisk};
use self::request::ID_BYTES;
pub use self::spec::DiskSpec;
use super::chain::{Chain, ChainError};
use super::device::{Served, VirtioDevice, read_fields};
use crate::lifecycle::{LifecycleError, SavedDevice};

const KIND: &str = "virtio-block";
const VERSION: u16 = 1;
const QUEUE_SIZE: u16 = 256;
const QUEUE_SIZES: [u16; 1] = [QUEUE_SIZE];
/// Data buffers of one request: a chain has room for the header and the status beside them.
const SEGMENTS_MAX: u32 = QUEUE_SIZE as u32 - 2;

/// Options for opening a raw disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BlockOptions {
    /// Open the image read-only and tell the guest so.
    pub read_only: bool,
    /// The disk's serial number for the guest; cut off after 20 bytes.
    pub serial: String,
}

/// A disk of the guest, on a backend.
pub struct Block<D = RawDisk> {
    disk: D,
    id: [u8; ID_BYTES],
    fields: [u8; 24],
    /// The driver sends flushes. One that does not expects every write to be stable when it is
    /// done (section 5.2.5.2).
    writeback: bool,
}

/// State of [`Block`]. Size and mode must be those of the disk that it is restored with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockStateV1 {
    /// Size of the disk in bytes.
    pub size_bytes: u64,
    /// The guest knows the disk as read-only.
    pub read_only: bool,
    /// The disk's serial number, padded with zeros. A restored disk keeps it.
    pub id: [u8; ID_BYTES],
}

impl Block<RawDisk> {
    /// Opens a raw image file or block device and locks it against use by another VM.
    ///
    /// # Errors
    /// See [`BlockError`].
    pub fn open(path: &Path, options: &BlockOptions) -> Result<Self, BlockError> {
        let disk = RawDisk::open(path, options.read_only)?;
        Ok(Self::new(disk, &options.serial))
    }
}

impl<D: DiskBackend> Block<D> {
    /// A disk on `disk`, with a serial number that is cut off after 20 bytes.
    pub fn new(disk: D, serial: &str) -> Self {
        let mut id = [0; ID_BYTES];
        let serial = serial.as_bytes();
        let len = serial.len().min(ID_BYTES);
        id[..len].copy_from_slice(&serial[..len]);
        let fields = config_fields(&disk);
        Self {
            disk,
            id,
            fields,
            writeback: false,
        }
    }

    fn rejected(instance: &str, reason: String) -> LifecycleError {
        LifecycleError::Rejected {
            kind: KIND.to_owned(),
            instance: instance.to_owned(),
            reason,
        }
    }
}

/// The start of `struct virtio_blk_config`: capacity, size_max, seg_max, geometry, blk_size.
fn config_fields(disk: &impl DiskBackend) -> [u8; 24] {
    let mut fields = [0; 24];
    fields[0..8].copy_from_slice(&(disk.size_bytes() / SECTOR_BYTES).to_le_bytes());
    fields[12..16].copy_from_slice(&SEGMENTS_MAX.to_le_bytes());
    fields[20..24].copy_from_slice(&(SECTOR_BYTES as u32).to_le_bytes());
    fields
}

impl<Mem: GuestMemory, D: DiskBackend> VirtioDevice<Mem> for Block<D> {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn device_type(&self) -> u32 {
        VIRTIO_ID_BLOCK
    }

    fn features(&self) -> u64 {
        let features =
            (1 << VIRTIO_BLK_F_FLUSH) | (1 << VIRTIO_BLK_F_SEG_MAX) | (1 << VIRTIO_BLK_F_BLK_SIZE);
        features
            | if self.disk.is_read_only() {
                1 << VIRTIO_BLK_F_RO
            } else {
                0
            }
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn read_config(&self, offset: u64, bytes: &mut [u8]) {
        read_fields(&self.fields, offset, bytes);
    }

    fn activate(&mut self, driver_features: u64) {
        self.writeback = driver_features & (1 << VIRTIO_BLK_F_FLUSH) != 0;
    }

    fn serve(
        &mut self,
        _queue_index: usize,
        chain: Chain,
        mem: &Mem,
    ) -> Result<Served, ChainError> {
        request::serve(&self.disk, &self.id, self.writeback, chain, mem).map(Served::Done)
    }

    fn reset(&mut self) {
        self.writeback = false;
    }

    fn save(&self, instance: &str) -> Result<SavedDevice, LifecycleError> {
        let state = BlockStateV1 {
            size_bytes: self.disk.size_bytes(),
            read_only: self.disk.is_read_only(),
            id: self.id,
        };
        SavedDevice::encode(KIND, VERSION, instance, &state)
    }

    fn restore(&mut self, instance: &str, saved: &SavedDevice) -> Result<(), LifecycleError> {
        let state: BlockStateV1 = saved.decode(KIND, VERSION, instance)?;
        if state.size_bytes != self.disk.size_bytes() {
            return Err(Self::rejected(
                instance,
                format!(
                    "the snapshot's disk has {} bytes, {} has {}; restore with a copy of the disk \
                     as it was when the snapshot was taken",
                    state.size_bytes,
                    self.disk.name(),
                    self.disk.size_bytes()
                ),
            ));
        }
        if state.read_only != self.disk.is_read_only() {
            let mode = |read_only| if read_only { "read-only" } else { "writable" };
            return Err(Self::rejected(
                instance,
                format!(
                    "the guest knows this disk as {}, {} is given as {}; open it in the same way",
                    mode(state.read_only),
                    self.disk.name(),
                    mode(self.disk.is_read_only())
                ),
            ));
        }
        self.id = state.id;
        Ok(())
    }
}

#[cfg(test)]
mod backend_test;
#[cfg(test)]
#[path = "block_test.rs"]
mod block_test;
