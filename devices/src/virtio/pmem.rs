//! virtio-pmem (Virtio 1.2 section 5.19): memory beside RAM that the guest uses without a page
//! cache of its own.
//!
//! The memory behind the device comes and goes while the guest runs. A device without memory has
//! the type 0, which drivers pass over (section 4.2.2). The host tells the guest by other means
//! that there is memory now. The guest cannot write the memory, so a flush has nothing to do.

use std::sync::{Arc, Mutex};

use serde::{Deserialize, Serialize};
use virtio_bindings::virtio_ids::VIRTIO_ID_PMEM;
use vm_memory::GuestMemory;

use super::chain::{Chain, ChainError};
use super::declared::{DeviceError, DeviceHost, DeviceId, DeviceSpec};
use super::device::{Served, VirtioDevice, read_fields};
use crate::lifecycle::{LifecycleError, SavedDevice};
use crate::lock::lock;

const KIND: &str = "virtio-pmem";
const VERSION: u16 = 1;
const QUEUE_SIZES: [u16; 1] = [64];
/// Device type while there is no memory behind the device.
const NO_DEVICE: u32 = 0;
/// Request type and answers of section 5.19.6, which virtio-bindings does not have.
const VIRTIO_PMEM_REQ_TYPE_FLUSH: u32 = 0;
const VIRTIO_PMEM_RESP_TYPE_OK: u32 = 0;
const VIRTIO_PMEM_RESP_TYPE_EIO: u32 = 1;

/// Addresses at which the guest finds the memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PmemRange {
    /// Guest physical address of the first byte.
    pub gpa: u64,
    /// Length in bytes.
    pub size_bytes: u64,
}

/// State of the memory behind a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Content {
    Nothing,
    /// No driver uses it yet.
    Offered(PmemRange),
    /// A driver uses it.
    Used(PmemRange),
}

impl Content {
    fn range(self) -> Option<PmemRange> {
        match self {
            Self::Nothing => None,
            Self::Offered(range) | Self::Used(range) => Some(range),
        }
    }
}

/// Memory behind a [`Pmem`], as the machine offers and withdraws it.
pub struct PmemBacking {
    content: Mutex<Content>,
    on_release: Arc<dyn Fn() + Send + Sync>,
}

impl PmemBacking {
    /// Starts without memory. `on_release` is called, with the device locked, when a driver has
    /// reset the device and so uses the memory no longer. There is no memory then.
    pub fn new(on_release: Arc<dyn Fn() + Send + Sync>) -> Self {
        Self {
            content: Mutex::new(Content::Nothing),
            on_release,
        }
    }

    /// Offers memory that is already mapped for the guest. False when there is memory already.
    pub fn offer(&self, range: PmemRange) -> bool {
        let mut content = lock(&self.content);
        let is_free = *content == Content::Nothing;
        if is_free {
            *content = Content::Offered(range);
        }
        is_free
    }

    /// Withdraws the memory if no driver uses it. A driver that does releases it itself.
    pub fn withdraw(&self) {
        let mut content = lock(&self.content);
        if let Content::Offered(_) = *content {
            *content = Content::Nothing;
        }
    }

    /// Takes the memory away, whoever uses it: the guest goes back to a moment at which there was
    /// none.
    pub fn take_away(&self) {
        *lock(&self.content) = Content::Nothing;
    }

    /// There is no memory.
    pub fn is_empty(&self) -> bool {
        self.range().is_none()
    }

    fn range(&self) -> Option<PmemRange> {
        lock(&self.content).range()
    }
}

impl std::fmt::Debug for PmemBacking {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_tuple("PmemBacking")
            .field(&lock(&self.content))
            .finish()
    }
}

/// Settings of [`Pmem`]: none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PmemSpec {}

impl<Mem: GuestMemory> DeviceSpec<Mem> for PmemSpec {
    /// The name in snapshots from when a pmem device was called a window.
    fn instance_prefix(&self) -> &'static str {
        "window"
    }

    fn make(
        &self,
        id: &DeviceId,
        host: &mut DeviceHost,
    ) -> Result<Box<dyn VirtioDevice<Mem>>, DeviceError> {
        let backing = Arc::new(PmemBacking::new(Arc::clone(&host.on_pmem_released)));
        host.pmem.push((id.slot, Arc::clone(&backing)));
        Ok(Box::new(Pmem::new(backing)))
    }
}

/// Answers a request to flush memory that the guest cannot write: there is nothing to do.
pub(super) fn serve_flush<Mem: GuestMemory>(
    chain: &Chain,
    mem: &Mem,
) -> Result<Served, ChainError> {
    let mut kind = [0; 4];
    chain.readable.read(mem, &mut kind)?;
    let answer = match u32::from_le_bytes(kind) {
        VIRTIO_PMEM_REQ_TYPE_FLUSH => VIRTIO_PMEM_RESP_TYPE_OK,
        _ => VIRTIO_PMEM_RESP_TYPE_EIO,
    };
    chain.writable.write(mem, &answer.to_le_bytes())?;
    Ok(Served::Done(size_of_val(&answer) as u32))
}

/// Persistent memory, while its backing has some.
#[derive(Debug)]
pub struct Pmem {
    backing: Arc<PmemBacking>,
}

/// State of [`Pmem`]: none. A device with memory behind it cannot be saved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PmemStateV1 {}

impl Pmem {
    /// A device in front of `backing`.
    pub fn new(backing: Arc<PmemBacking>) -> Self {
        Self { backing }
    }
}

impl<Mem: GuestMemory> VirtioDevice<Mem> for Pmem {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn device_type(&self) -> u32 {
        if self.backing.is_empty() {
            NO_DEVICE
        } else {
            VIRTIO_ID_PMEM
        }
    }

    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn read_config(&self, offset: u64, bytes: &mut [u8]) {
        let fields = self
            .backing
            .range()
            .map_or([0; 2], |range| [range.gpa, range.size_bytes]);
        read_fields(&fields.map(u64::to_le_bytes).concat(), offset, bytes);
    }

    fn activate(&mut self, _driver_features: u64) {
        let mut content = lock(&self.backing.content);
        if let Some(range) = content.range() {
            *content = Content::Used(range);
        }
    }

    fn serve(
        &mut self,
        _queue_index: usize,
        chain: Chain,
        mem: &Mem,
    ) -> Result<Served, ChainError> {
        serve_flush(&chain, mem)
    }

    fn reset(&mut self) {
        let mut content = lock(&self.backing.content);
        if matches!(*content, Content::Used(_)) {
            *content = Content::Nothing;
            drop(content);
            (self.backing.on_release)();
        }
    }

    fn save(&self, instance: &str) -> Result<SavedDevice, LifecycleError> {
        if !self.backing.is_empty() {
            return Err(LifecycleError::Rejected {
                kind: KIND.to_owned(),
                instance: instance.to_owned(),
                reason: "the guest sees memory that is not its own; a snapshot cannot hold that"
                    .to_owned(),
            });
        }
        SavedDevice::encode(KIND, VERSION, instance, &PmemStateV1 {})
    }

    fn restore(&mut self, instance: &str, saved: &SavedDevice) -> Result<(), LifecycleError> {
        let PmemStateV1 {} = saved.decode(KIND, VERSION, instance)?;
        Ok(())
    }
}

#[cfg(test)]
#[path = "pmem_test.rs"]
mod pmem_test;
