//! virtio-block (Virtio 1.2 section 5.2). The storage is a [`DiskBackend`]; [`RawDisk`] is one on a
//! raw image file.
//!
//! Requests are carried out one after the other in the event thread, whatever their queue. A
//! snapshot holds the device's state, not the disk's content. A restored VM needs a disk with the
//! content of that instant, for example a copy of the image that was made while the VM was paused.
//! Every clone needs its own.

mod backend;
mod config;
mod content;
mod raw;
mod request;
mod spec;

use std::io;
use std::os::fd::RawFd;
use std::path::Path;

use serde::{Deserialize, Serialize};
use virtio_bindings::virtio_ids::VIRTIO_ID_BLOCK;
use vm_memory::GuestMemory;

pub use self::backend::{DiskBackend, DiskError, DiskLimits, SECTOR_BYTES};
use self::config::{CONFIG_BYTES, QUEUE_SIZE};
pub use self::content::{ContentStamp, Since};
pub use self::raw::{BlockError, RawDisk};
use self::request::{ID_BYTES, Request, Target};
pub use self::spec::{DiskSource, DiskSpec};
use super::chain::{Chain, ChainError};
use super::device::{Served, VirtioDevice, read_fields};
use super::rate::{DiskRate, Throttle};
use crate::lifecycle::{LifecycleError, SavedDevice};

const KIND: &str = "virtio-block";
const VERSION: u16 = 1;
/// Most queues of one disk: as many as a machine has vCPUs.
const QUEUES_MAX: usize = 64;

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
    fields: [u8; CONFIG_BYTES],
    queue_sizes: Vec<u16>,
    /// Features that the driver has accepted; none before it is ready. A driver without flushes
    /// expects every write to be stable when it is done (section 5.2.5.2).
    driver_features: u64,
    throttle: Option<Throttle>,
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
    /// A disk on `disk` with one queue, and a serial number that is cut off after 20 bytes.
    pub fn new(disk: D, serial: &str) -> Self {
        let mut id = [0; ID_BYTES];
        let ends = (0..=ID_BYTES).rev();
        let len = { ends }
            .find(|&end| serial.is_char_boundary(end))
            .unwrap_or(0);
        id[..len].copy_from_slice(&serial.as_bytes()[..len]);
        let fields = config::fields(&disk, 1);
        Self {
            disk,
            id,
            fields,
            queue_sizes: vec![QUEUE_SIZE],
            driver_features: 0,
            throttle: None,
        }
    }

    /// Gives it `queues` queues, of which a guest uses one for each of its CPUs.
    #[must_use]
    pub fn with_queues(mut self, queues: usize) -> Self {
        self.set_queues(queues.clamp(1, QUEUES_MAX));
        self
    }

    /// Limits what the guest does with it.
    ///
    /// # Errors
    /// The host has no timer for it.
    pub fn with_rate(mut self, rate: DiskRate) -> io::Result<Self> {
        self.throttle = match rate.is_none() {
            true => None,
            false => Some(Throttle::new(rate)?),
        };
        Ok(self)
    }

    fn set_queues(&mut self, queues: usize) {
        self.queue_sizes = vec![QUEUE_SIZE; queues];
        self.fields = config::fields(&self.disk, queues as u16);
    }

    fn rejected(instance: &str, reason: String) -> LifecycleError {
        LifecycleError::Rejected {
            kind: KIND.to_owned(),
            instance: instance.to_owned(),
            reason,
        }
    }
}

impl<Mem: GuestMemory, D: DiskBackend> VirtioDevice<Mem> for Block<D> {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn device_type(&self) -> u32 {
        VIRTIO_ID_BLOCK
    }

    fn features(&self) -> u64 {
        config::features(&self.disk)
    }

    fn queue_sizes(&self) -> &[u16] {
        &self.queue_sizes
    }

    fn take_queues(&mut self, count: usize) -> bool {
        let fits = (1..=self.queue_sizes.len()).contains(&count);
        if fits {
            self.set_queues(count);
        }
        fits
    }

    fn read_config(&self, offset: u64, bytes: &mut [u8]) {
        read_fields(&self.fields, offset, bytes);
    }

    fn look_anew(&mut self) -> io::Result<bool> {
        let before = self.fields;
        self.disk.find_size()?;
        self.fields = config::fields(&self.disk, self.queue_sizes.len() as u16);
        Ok(self.fields != before)
    }

    fn activate(&mut self, driver_features: u64) {
        self.driver_features = driver_features;
    }

    fn serve(&mut self, queue_index: usize, chain: Chain, mem: &Mem) -> Result<Served, ChainError> {
        let target = Target {
            disk: &self.disk,
            id: &self.id,
            features: self.driver_features,
        };
        let request = Request::read(&target, chain, mem)?;
        if let (Some(throttle), Some(bytes)) = (&mut self.throttle, request.transfer_bytes())
            && !throttle.admit(queue_index, bytes)
        {
            return Ok(Served::NotYet);
        }
        request.serve(&target, mem).map(Served::Done)
    }

    fn host_events(&self) -> Option<RawFd> {
        self.throttle.as_ref().map(Throttle::events)
    }

    fn on_host_events(&mut self) {
        if let Some(throttle) = &mut self.throttle {
            throttle.on_timer();
        }
    }

    fn take_wakes(&mut self) -> u64 {
        self.throttle.as_mut().map_or(0, Throttle::take_wakes)
    }

    fn reset(&mut self) {
        self.driver_features = 0;
        if let Some(throttle) = &mut self.throttle {
            throttle.reset();
        }
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
                    "the snapshot's disk has {} B, and {} has {} B; restore with a copy of the \
                     disk as it was when the snapshot was taken",
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
pub(super) mod block_test;
#[cfg(test)]
mod requests_test;
