//! What the transport needs from a device.

use vm_memory::GuestMemory;

use super::chain::{Chain, ChainError};
use crate::lifecycle::{LifecycleError, SavedDevice};

/// A virtio device, without its transport and its queues.
///
/// The transport owns the queues: it takes requests out of them and hands them over one by one, so a device has nothing
/// in flight when none of its methods is running. All methods are called with the transport's worker locked.
pub trait VirtioDevice<Mem: GuestMemory>: Send {
    /// What the device is, as written into its saved state: "virtio-block".
    fn kind(&self) -> &'static str;

    /// Device type (Virtio 1.2 section 5).
    fn device_type(&self) -> u32;

    /// Features offered to the driver, without those of the transport and the rings.
    fn features(&self) -> u64;

    /// Largest size of each queue; powers of two.
    fn queue_sizes(&self) -> &[u16];

    /// The driver reads the configuration space. What is past the device's fields reads as zero.
    fn read_config(&self, offset: u64, bytes: &mut [u8]);

    /// The driver writes the configuration space. Answers whether a field changed.
    fn write_config(&mut self, _offset: u64, _bytes: &[u8]) -> bool {
        false
    }

    /// The driver is ready (or was, when the state was saved) and has accepted `driver_features`.
    fn activate(&mut self, driver_features: u64);

    /// Carries out one request, wholly. Answers how many bytes it wrote to the chain's writable buffers.
    ///
    /// # Errors
    /// The request is so malformed that the driver cannot be told in it. The transport stops the device and asks the
    /// driver to reset it.
    fn serve(&mut self, queue_index: usize, chain: Chain, mem: &Mem) -> Result<u32, ChainError>;

    /// The driver has reset the device: forget what it negotiated.
    fn reset(&mut self);

    /// The device's own state; the transport saves registers and queues.
    ///
    /// # Errors
    /// The state cannot be encoded.
    fn save(&self, instance: &str) -> Result<SavedDevice, LifecycleError>;

    /// Takes over a saved state. `activate` follows when the driver was ready.
    ///
    /// # Errors
    /// The state is unknown, damaged, or does not fit this device.
    fn restore(&mut self, instance: &str, saved: &SavedDevice) -> Result<(), LifecycleError>;
}

/// Answers a configuration space read at `offset` from `fields`, with zeros past their end.
pub(super) fn read_fields(fields: &[u8], offset: u64, bytes: &mut [u8]) {
    bytes.fill(0);
    let start = usize::try_from(offset).unwrap_or(usize::MAX).min(fields.len());
    let len = bytes.len().min(fields.len() - start);
    bytes[..len].copy_from_slice(&fields[start..start + len]);
}
