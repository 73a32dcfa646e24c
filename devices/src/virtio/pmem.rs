//! virtio-pmem (Virtio 1.2 section 5.19): memory beside RAM that the guest uses without a page
//! cache of its own.
//!
//! What is behind it comes and goes while the guest runs. Without anything the device has the type
//! 0, which drivers pass over (section 4.2.2); whoever offers something tells the guest by other
//! means to look again. The guest cannot write the memory, so a flush has nothing to do.

use std::sync::{Arc, Mutex};

use serde::{Deserialize, Serialize};
use virtio_bindings::virtio_ids::VIRTIO_ID_PMEM;
use vm_memory::GuestMemory;

use super::chain::{Chain, ChainError};
use super::device::{Served, VirtioDevice, read_fields};
use crate::lifecycle::{LifecycleError, SavedDevice};
use crate::lock::lock;

const KIND: &str = "virtio-pmem";
const VERSION: u16 = 1;
const QUEUE_SIZES: [u16; 1] = [64];
/// Device type of a placeholder.
const NO_DEVICE: u32 = 0;
/// Request type and answers of section 5.19.6, which virtio-bindings does not have.
const VIRTIO_PMEM_REQ_TYPE_FLUSH: u32 = 0;
const VIRTIO_PMEM_RESP_TYPE_OK: u32 = 0;
const VIRTIO_PMEM_RESP_TYPE_EIO: u32 = 1;

/// Where the guest finds the memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PmemRange {
    /// Guest physical address of the first byte.
    pub gpa: u64,
    /// Length in bytes.
    pub size_bytes: u64,
}

/// What is behind a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Content {
    Nothing,
    Offered(PmemRange),
    /// A driver has taken it.
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

/// The machine's end of a [`Pmem`]: what is behind it.
pub struct PmemSlot {
    content: Mutex<Content>,
    on_let_go: Box<dyn Fn() + Send + Sync>,
}

impl PmemSlot {
    /// With nothing in it. `on_let_go` is called, with the device locked, when a driver has reset
    /// the device and so uses the memory no longer: nothing is in the slot then.
    pub fn new(on_let_go: Box<dyn Fn() + Send + Sync>) -> Self {
        Self {
            content: Mutex::new(Content::Nothing),
            on_let_go,
        }
    }

    /// Puts memory, which is in its place, into the slot. False when there is something in it.
    pub fn offer(&self, range: PmemRange) -> bool {
        let mut content = lock(&self.content);
        let is_free = *content == Content::Nothing;
        if is_free {
            *content = Content::Offered(range);
        }
        is_free
    }

    /// Takes out what is in the slot, unless a driver uses it: that one lets go of it.
    pub fn withdraw(&self) {
        let mut content = lock(&self.content);
        if let Content::Offered(_) = *content {
            *content = Content::Nothing;
        }
    }

    /// Whether nothing is in the slot.
    pub fn is_empty(&self) -> bool {
        self.range().is_none()
    }

    fn range(&self) -> Option<PmemRange> {
        lock(&self.content).range()
    }
}

impl std::fmt::Debug for PmemSlot {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_tuple("PmemSlot")
            .field(&lock(&self.content))
            .finish()
    }
}

/// Persistent memory, as far as its slot has some.
#[derive(Debug)]
pub struct Pmem {
    slot: Arc<PmemSlot>,
}

/// State of [`Pmem`]: none. A device is only saved with nothing in its slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PmemStateV1 {}

impl Pmem {
    /// A device in front of `slot`.
    pub fn new(slot: Arc<PmemSlot>) -> Self {
        Self { slot }
    }
}

impl<Mem: GuestMemory> VirtioDevice<Mem> for Pmem {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn device_type(&self) -> u32 {
        if self.slot.is_empty() {
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
            .slot
            .range()
            .map_or([0; 2], |range| [range.gpa, range.size_bytes]);
        read_fields(&fields.map(u64::to_le_bytes).concat(), offset, bytes);
    }

    fn activate(&mut self, _driver_features: u64) {
        let mut content = lock(&self.slot.content);
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
        let mut kind = [0; 4];
        chain.readable.read(mem, &mut kind)?;
        let answer = match u32::from_le_bytes(kind) {
            VIRTIO_PMEM_REQ_TYPE_FLUSH => VIRTIO_PMEM_RESP_TYPE_OK,
            _ => VIRTIO_PMEM_RESP_TYPE_EIO,
        };
        chain.writable.write(mem, &answer.to_le_bytes())?;
        Ok(Served::Done(size_of_val(&answer) as u32))
    }

    fn reset(&mut self) {
        let mut content = lock(&self.slot.content);
        if matches!(*content, Content::Used(_)) {
            *content = Content::Nothing;
            drop(content);
            (self.slot.on_let_go)();
        }
    }

    fn save(&self, instance: &str) -> Result<SavedDevice, LifecycleError> {
        if !self.slot.is_empty() {
            return Err(LifecycleError::Rejected {
                kind: KIND.to_owned(),
                instance: instance.to_owned(),
                reason: "the guest is shown memory that is not its own, which no snapshot can hold"
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
