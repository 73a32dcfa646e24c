//! Interface between the transport and a device.

use std::io;
use std::os::fd::RawFd;

use vm_memory::GuestMemory;

use super::chain::{Chain, ChainError};
use crate::lifecycle::{LifecycleError, SavedDevice};

/// Outcome of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Served {
    /// The request was carried out; so many bytes of its writable buffers were written.
    Done(u32),
    /// So many bytes of its writable buffers were written, and the request goes on in the next
    /// chain of the ring. The driver sees all chains of a request at once. If the ring has too few
    /// of them, [`VirtioDevice::take_back`] is called, and the chains are served again later.
    Part(u32),
    /// The device cannot use the request yet. It stays in the ring, with all behind it, until the
    /// driver notifies the queue or [`VirtioDevice::take_wakes`] names the queue.
    NotYet,
}

/// A virtio device, without its transport and its queues.
///
/// The transport owns the queues: it takes requests out of them and hands them over one by one, so
/// a device has nothing in flight when none of its methods is running. All methods are called with
/// the transport's worker locked.
pub trait VirtioDevice<Mem: GuestMemory>: Send {
    /// Kind of the device, as written into its saved state: "virtio-block".
    fn kind(&self) -> &'static str;

    /// Device type (Virtio 1.2 section 5); 0 while there is nothing for a driver.
    fn device_type(&self) -> u32;

    /// Features offered to the driver, without those of the transport and the rings.
    fn features(&self) -> u64;

    /// Largest size of each queue; powers of two.
    fn queue_sizes(&self) -> &[u16];

    /// The driver reads the configuration space. Bytes past the device's fields read as zero.
    fn read_config(&self, offset: u64, bytes: &mut [u8]);

    /// The driver writes the configuration space. Answers whether a field changed.
    fn write_config(&mut self, _offset: u64, _bytes: &[u8]) -> bool {
        false
    }

    /// The driver is ready (or was, when the state was saved) and has accepted `driver_features`.
    fn activate(&mut self, driver_features: u64);

    /// Carries out one request, wholly, or leaves it untouched.
    ///
    /// # Errors
    /// The request is so malformed that it has no room for an error status. The transport stops the
    /// device and asks the driver to reset it.
    fn serve(&mut self, queue_index: usize, chain: Chain, mem: &Mem) -> Result<Served, ChainError>;

    /// The chains that were [`Served::Part`] of a request go back into the ring, which has no more
    /// of them. `is_whole_ring` if they were all that the ring has room for.
    fn take_back(&mut self, _queue_index: usize, _is_whole_ring: bool) {}

    /// True, once, when a field of the configuration space changed without an access of the driver:
    /// the driver is told.
    fn take_config_change(&mut self) -> bool {
        false
    }

    /// A descriptor that is readable whenever something has happened on the host that the device
    /// acts on, without a request of the driver. It stays the same for the device's life.
    fn host_events(&self) -> Option<RawFd> {
        None
    }

    /// Acts on what has happened on the host, and makes the descriptor unreadable. Not called while
    /// the device is paused.
    fn on_host_events(&mut self) {}

    /// Queues to serve although the driver did not notify them, one bit for each: the device has
    /// refused their requests before, and can use them now. Each is named once.
    fn take_wakes(&mut self) -> u64 {
        0
    }

    /// Looks at the host's side of the device anew, for example at the size of a disk. Answers
    /// whether a field of the configuration space changed.
    ///
    /// # Errors
    /// The host fails; the device is as before.
    fn look_anew(&mut self) -> io::Result<bool> {
        Ok(false)
    }

    /// The driver has reset the device: forget what it negotiated.
    fn reset(&mut self);

    /// The device's own state; the transport saves registers and queues.
    ///
    /// # Errors
    /// The state cannot be encoded.
    fn save(&self, instance: &str) -> Result<SavedDevice, LifecycleError>;

    /// Takes over the number of queues that a saved state has, before that state. False when the
    /// device cannot have it. Queues past that number are not used any more.
    fn take_queues(&mut self, count: usize) -> bool {
        count == self.queue_sizes().len()
    }

    /// Takes over a saved state. `activate` follows when the driver was ready.
    ///
    /// # Errors
    /// The state is unknown, damaged, or does not fit this device.
    fn restore(&mut self, instance: &str, saved: &SavedDevice) -> Result<(), LifecycleError>;
}

/// Answers a configuration space read at `offset` from `fields`, with zeros past their end.
pub(super) fn read_fields(fields: &[u8], offset: u64, bytes: &mut [u8]) {
    bytes.fill(0);
    let start = usize::try_from(offset)
        .unwrap_or(usize::MAX)
        .min(fields.len());
    let len = bytes.len().min(fields.len() - start);
    bytes[..len].copy_from_slice(&fields[start..start + len]);
}
