//! virtio-rng, the entropy device (Virtio 1.2 section 5.4).

use serde::{Deserialize, Serialize};
use virtio_bindings::virtio_ids::VIRTIO_ID_RNG;
use vm_memory::GuestMemory;

use super::chain::{Chain, ChainError};
use super::declared::{DeviceError, DeviceHost, DeviceId, DeviceSpec};
use super::device::{Served, VirtioDevice, read_fields};
use crate::lifecycle::{LifecycleError, SavedDevice};
use crate::sys;

const KIND: &str = "virtio-rng";
const VERSION: u16 = 1;
const QUEUE_SIZES: [u16; 1] = [64];
/// Most random bytes for one request; the driver asks again for more.
const REQUEST_BYTES_MAX: usize = 64 << 10;

/// Settings of [`Rng`]: none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RngSpec {}

impl<Mem: GuestMemory> DeviceSpec<Mem> for RngSpec {
    fn instance_prefix(&self) -> &'static str {
        "rng"
    }

    fn make(
        &self,
        _id: &DeviceId,
        _host: &mut DeviceHost,
    ) -> Result<Box<dyn VirtioDevice<Mem>>, DeviceError> {
        Ok(Box::new(Rng::new()))
    }
}

/// Random numbers from the host kernel. Every restored copy of a VM gets its own.
#[derive(Debug, Default)]
pub struct Rng {}

/// State of [`Rng`]: none. Random numbers must not repeat in a copy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RngStateV1 {}

impl Rng {
    /// An entropy device.
    pub fn new() -> Self {
        Self {}
    }
}

impl<Mem: GuestMemory> VirtioDevice<Mem> for Rng {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn device_type(&self) -> u32 {
        VIRTIO_ID_RNG
    }

    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn read_config(&self, offset: u64, bytes: &mut [u8]) {
        read_fields(&[], offset, bytes);
    }

    fn activate(&mut self, _driver_features: u64) {}

    fn serve(
        &mut self,
        _queue_index: usize,
        chain: Chain,
        mem: &Mem,
    ) -> Result<Served, ChainError> {
        if !chain.readable.is_empty() || chain.writable.is_empty() {
            return Err(ChainError::WrongShape);
        }
        let wanted = usize::try_from(chain.writable.len_bytes()).unwrap_or(usize::MAX);
        let mut bytes = vec![0; wanted.min(REQUEST_BYTES_MAX)];
        if let Err(error) = sys::fill_random(&mut bytes) {
            // The driver takes a request of no bytes as "nothing now".
            tracing::error!(%error, "no random numbers from the host kernel");
            return Ok(Served::Done(0));
        }
        chain.writable.write(mem, &bytes)?;
        Ok(Served::Done(bytes.len() as u32))
    }

    fn reset(&mut self) {}

    fn save(&self, instance: &str) -> Result<SavedDevice, LifecycleError> {
        SavedDevice::encode(KIND, VERSION, instance, &RngStateV1 {})
    }

    fn restore(&mut self, instance: &str, saved: &SavedDevice) -> Result<(), LifecycleError> {
        let RngStateV1 {} = saved.decode(KIND, VERSION, instance)?;
        Ok(())
    }
}

#[cfg(test)]
#[path = "rng_test.rs"]
mod rng_test;
