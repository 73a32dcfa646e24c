//! Address ranges and the devices behind them. One bus for port I/O, one for MMIO.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use crate::lock::lock;

/// A device that answers reads and writes within the range it was given.
pub trait BusDevice: Send {
    /// The guest reads `bytes.len()` bytes at `offset` from the start of the range. The device
    /// fills all of `bytes`.
    fn read(&mut self, offset: u64, bytes: &mut [u8]);

    /// The guest writes `bytes` at `offset` from the start of the range.
    fn write(&mut self, offset: u64, bytes: &[u8]);
}

/// Reasons why a device cannot be put on a bus.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum BusError {
    /// The range is empty or runs past the end of the address space.
    #[error("{name}: {len} bytes at {base:#x} are not a valid address range")]
    BadRange {
        /// Name of the device to be added.
        name: String,
        /// Start of the range.
        base: u64,
        /// Length of the range in bytes.
        len: u64,
    },
    /// Another device has part of the range.
    #[error("{name}: {len} bytes at {base:#x} overlap {other}; give one of them another address")]
    Overlap {
        /// Name of the device to be added.
        name: String,
        /// Start of the range.
        base: u64,
        /// Length of the range in bytes.
        len: u64,
        /// Name of the device that is there already.
        other: String,
    },
}

struct Slot {
    name: String,
    len: u64,
    device: Arc<Mutex<dyn BusDevice>>,
}

/// Address ranges, each answered by one device. Built once, then shared by all vCPU threads without
/// a lock of its own.
#[derive(Default)]
pub struct Bus {
    slots: BTreeMap<u64, Slot>,
}

impl Bus {
    /// An empty bus.
    pub fn new() -> Self {
        Self::default()
    }

    /// Puts `device` at `base..base + len`. `name` is for error messages.
    ///
    /// # Errors
    /// The range is empty, overflows, or overlaps another device; the bus is unchanged then.
    pub fn insert(
        &mut self,
        name: &str,
        base: u64,
        len: u64,
        device: Arc<Mutex<dyn BusDevice>>,
    ) -> Result<(), BusError> {
        let last = len.checked_sub(1).and_then(|len| base.checked_add(len));
        let Some(last) = last else {
            return Err(BusError::BadRange {
                name: name.to_owned(),
                base,
                len,
            });
        };
        // Only the nearest range that starts at or before the end of the new one can reach into it
        // without starting inside it.
        if let Some((&other_base, other)) = self.slots.range(..=last).next_back()
            && other_base + (other.len - 1) >= base
        {
            return Err(BusError::Overlap {
                name: name.to_owned(),
                base,
                len,
                other: other.name.clone(),
            });
        }
        self.slots.insert(
            base,
            Slot {
                name: name.to_owned(),
                len,
                device,
            },
        );
        Ok(())
    }

    /// The guest reads at `address`. Answers whether a device claimed the access; when none did,
    /// all of `bytes` is 0xff, as on an undriven bus.
    pub fn read(&self, address: u64, bytes: &mut [u8]) -> bool {
        let Some((offset, device)) = self.claim(address, bytes.len()) else {
            bytes.fill(0xff);
            return false;
        };
        lock(device).read(offset, bytes);
        true
    }

    /// The guest writes at `address`. Answers whether a device claimed the access; when none did,
    /// nothing happens.
    pub fn write(&self, address: u64, bytes: &[u8]) -> bool {
        let Some((offset, device)) = self.claim(address, bytes.len()) else {
            return false;
        };
        lock(device).write(offset, bytes);
        true
    }

    /// The device whose range holds the whole access. No device gets an access across the end of a
    /// range.
    fn claim(&self, address: u64, len: usize) -> Option<(u64, &Mutex<dyn BusDevice>)> {
        let (&base, slot) = self.slots.range(..=address).next_back()?;
        let offset = address - base;
        let end = offset.checked_add(len as u64)?;
        (end <= slot.len && len > 0).then(|| (offset, &*slot.device))
    }
}

#[cfg(test)]
#[path = "bus_test.rs"]
mod bus_test;
