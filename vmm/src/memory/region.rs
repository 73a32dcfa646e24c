//! One contiguous range of guest RAM for vm-memory, over host addresses whose mappings change
//! underneath.

use std::sync::Arc;

use vm_memory::{
    GuestAddress, GuestMemoryError, GuestMemoryRegion, GuestMemoryRegionBytes, GuestUsize,
    MemoryRegionAddress, VolatileSlice,
    bitmap::{BS, Bitmap},
    guest_memory::Result,
};

use super::WrittenFrames;
use crate::sys::address_range::AddressRange;

/// A range of guest RAM. It keeps the reservation of host addresses that it lies in alive.
#[derive(Debug)]
pub struct PoolRegion {
    reservation: Arc<AddressRange>,
    offset_bytes: usize,
    size_bytes: usize,
    gpa: GuestAddress,
    written: Option<Arc<WrittenFrames>>,
}

impl PoolRegion {
    /// The range of `reservation` from `offset_bytes` on, seen by the guest at `gpa`; writes
    /// through it are noted in `written`. `None` when it does not lie inside the reservation.
    pub fn new(
        reservation: Arc<AddressRange>,
        offset_bytes: usize,
        size_bytes: usize,
        gpa: GuestAddress,
        written: Option<Arc<WrittenFrames>>,
    ) -> Option<Self> {
        let end = offset_bytes.checked_add(size_bytes)?;
        (end <= reservation.size_bytes() && size_bytes > 0).then_some(Self {
            reservation,
            offset_bytes,
            size_bytes,
            gpa,
            written,
        })
    }

    /// Host addresses that the region lies in.
    pub(crate) fn reservation(&self) -> &AddressRange {
        &self.reservation
    }

    /// Offset of the region's first byte in [`PoolRegion::reservation`], in bytes.
    pub(crate) fn offset_bytes(&self) -> usize {
        self.offset_bytes
    }

    fn host_address(&self, offset: usize) -> *mut u8 {
        self.reservation
            .as_ptr()
            .wrapping_add(self.offset_bytes + offset)
    }
}

impl GuestMemoryRegion for PoolRegion {
    type B = Option<WrittenFrames>;

    fn len(&self) -> GuestUsize {
        self.size_bytes as GuestUsize
    }

    fn start_addr(&self) -> GuestAddress {
        self.gpa
    }

    fn bitmap(&self) -> BS<'_, Self::B> {
        let written = self.written.as_ref();
        written.map(|written| written.slice_at(self.offset_bytes))
    }

    fn get_host_address(&self, addr: MemoryRegionAddress) -> Result<*mut u8> {
        let addr = self
            .check_address(addr)
            .ok_or(GuestMemoryError::InvalidBackendAddress)?;
        Ok(self.host_address(addr.0 as usize))
    }

    fn get_slice(
        &self,
        offset: MemoryRegionAddress,
        count: usize,
    ) -> Result<VolatileSlice<'_, BS<'_, Self::B>>> {
        let start = offset.0 as usize;
        match start.checked_add(count) {
            Some(end) if end <= self.size_bytes => {}
            _ => return Err(GuestMemoryError::InvalidBackendAddress),
        }
        // SAFETY: the range was checked to lie in this region, and `new` checked the region to lie
        // in the reservation, which `self` keeps mapped. Every address of it is mapped
        // readable and writable at all times: mappings are only ever replaced atomically
        // (MAP_FIXED). Access is volatile only, as the guest and other threads write the
        // same memory.
        Ok(unsafe {
            VolatileSlice::with_bitmap(
                self.host_address(start),
                count,
                self.bitmap().slice_at(start),
                None,
            )
        })
    }
}

impl GuestMemoryRegionBytes for PoolRegion {}
