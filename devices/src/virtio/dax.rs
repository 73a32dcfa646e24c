//! A read-only disk as persistent memory (Virtio 1.2 section 5.19): the guest uses its blocks where
//! they are, without a copy in its RAM.
//!
//! Unlike the memory behind [`super::Pmem`], it is there as long as the machine is.

use serde::{Deserialize, Serialize};
use virtio_bindings::virtio_ids::VIRTIO_ID_PMEM;
use vm_memory::GuestMemory;

use super::chain::{Chain, ChainError};
use super::device::{Served, VirtioDevice, read_fields};
use super::pmem::{self, PmemRange};
use crate::lifecycle::{LifecycleError, SavedDevice};

const KIND: &str = "virtio-pmem-disk";
const VERSION: u16 = 1;
const QUEUE_SIZES: [u16; 1] = [64];

/// A read-only disk that the guest finds in memory.
#[derive(Debug)]
pub struct DaxDisk {
    range: PmemRange,
}

/// State of [`DaxDisk`]: the place at which the guest has mapped it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DaxDiskStateV1 {
    /// Guest physical address of the first byte.
    pub gpa: u64,
    /// Length in bytes.
    pub size_bytes: u64,
}

impl DaxDisk {
    /// A disk whose content is mapped for the guest at `range`.
    pub fn new(range: PmemRange) -> Self {
        Self { range }
    }
}

impl<Mem: GuestMemory> VirtioDevice<Mem> for DaxDisk {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn device_type(&self) -> u32 {
        VIRTIO_ID_PMEM
    }

    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn read_config(&self, offset: u64, bytes: &mut [u8]) {
        let fields = [self.range.gpa, self.range.size_bytes].map(u64::to_le_bytes);
        read_fields(&fields.concat(), offset, bytes);
    }

    fn activate(&mut self, _driver_features: u64) {}

    fn serve(
        &mut self,
        _queue_index: usize,
        chain: Chain,
        mem: &Mem,
    ) -> Result<Served, ChainError> {
        pmem::serve_flush(&chain, mem)
    }

    fn reset(&mut self) {}

    fn save(&self, instance: &str) -> Result<SavedDevice, LifecycleError> {
        let PmemRange { gpa, size_bytes } = self.range;
        let state = DaxDiskStateV1 { gpa, size_bytes };
        SavedDevice::encode(KIND, VERSION, instance, &state)
    }

    fn restore(&mut self, instance: &str, saved: &SavedDevice) -> Result<(), LifecycleError> {
        let DaxDiskStateV1 { gpa, size_bytes } = saved.decode(KIND, VERSION, instance)?;
        if (PmemRange { gpa, size_bytes }) == self.range {
            return Ok(());
        }
        Err(LifecycleError::Rejected {
            kind: KIND.to_owned(),
            instance: instance.to_owned(),
            reason: format!(
                "the guest has mapped {size_bytes} B of it at {gpa:#x}, and it has {} B at {:#x}",
                self.range.size_bytes, self.range.gpa
            ),
        })
    }
}

#[cfg(test)]
#[path = "dax_test.rs"]
mod dax_test;
