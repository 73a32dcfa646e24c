//! All RAM of one guest.

use std::sync::Arc;

use nvvmm_snapshot::{CHUNK_SIZE_BYTES, SizeText};
use vm_memory::{GuestAddress, GuestRegionCollection};

use super::{GuestMemory, PoolRegion, WrittenFrames, ram_ranges};
use crate::sys::address_range::AddressRange;

/// Why guest RAM could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// The size is zero, not a multiple of a chunk, or larger than host addresses allow.
    #[error(
        "guest memory of {} is not possible: it must be a multiple of 2 MiB, from 2 MiB to 16 TiB",
        SizeText::of(*size_bytes)
    )]
    Size {
        /// The size asked for.
        size_bytes: u64,
    },
    /// The host refused the addresses.
    #[error(
        "cannot reserve {} of address space for guest memory: {source}",
        SizeText::of(*size_bytes)
    )]
    Reserve {
        /// The size asked for.
        size_bytes: u64,
        /// The system's answer.
        source: std::io::Error,
    },
}

/// RAM that one KVM memslot shows the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RamSlot {
    /// Guest physical address of the first byte.
    pub gpa: u64,
    /// Size in bytes.
    pub size_bytes: u64,
    /// Host virtual address of the first byte.
    pub hva: u64,
}

/// RAM of one guest: a reservation of host addresses and the guest's view of it. Until a COW engine
/// takes charge it is plain demand-zero memory.
#[derive(Clone, Debug)]
pub struct GuestRam {
    reservation: Arc<AddressRange>,
    memory: Arc<GuestMemory>,
    slots: Vec<RamSlot>,
}

impl GuestRam {
    /// Largest RAM of a guest, in bytes.
    pub const SIZE_BYTES_MAX: u64 = 16 << 40;

    /// Reserves host addresses for `memory_bytes` of RAM. No memory is used until it is touched.
    pub fn reserve(memory_bytes: u64) -> Result<Self, MemoryError> {
        Self::reserve_with(memory_bytes, None)
    }

    /// Reserves like [`GuestRam::reserve`], and notes which frames are written through
    /// [`GuestRam::memory`].
    pub fn reserve_noting_writes(
        memory_bytes: u64,
    ) -> Result<(Self, Arc<WrittenFrames>), MemoryError> {
        let written = Arc::new(WrittenFrames::new(memory_bytes.min(Self::SIZE_BYTES_MAX)));
        let ram = Self::reserve_with(memory_bytes, Some(&written))?;
        Ok((ram, written))
    }

    fn reserve_with(
        memory_bytes: u64,
        written: Option<&Arc<WrittenFrames>>,
    ) -> Result<Self, MemoryError> {
        if memory_bytes == 0
            || !memory_bytes.is_multiple_of(CHUNK_SIZE_BYTES)
            || memory_bytes > Self::SIZE_BYTES_MAX
        {
            return Err(MemoryError::Size {
                size_bytes: memory_bytes,
            });
        }
        let reservation = AddressRange::new(memory_bytes as usize, CHUNK_SIZE_BYTES as usize)
            .map_err(|source| MemoryError::Reserve {
                size_bytes: memory_bytes,
                source,
            })?;
        let reservation = Arc::new(reservation);
        let mut regions = Vec::new();
        let mut slots = Vec::new();
        for range in ram_ranges(memory_bytes) {
            let region = PoolRegion::new(
                Arc::clone(&reservation),
                range.ram_offset as usize,
                range.size_bytes as usize,
                GuestAddress(range.gpa),
                written.map(Arc::clone),
            )
            .ok_or(MemoryError::Size {
                size_bytes: memory_bytes,
            })?;
            regions.push(region);
            slots.push(RamSlot {
                gpa: range.gpa,
                size_bytes: range.size_bytes,
                hva: reservation.as_ptr() as u64 + range.ram_offset,
            });
        }
        let memory =
            GuestRegionCollection::from_regions(regions).map_err(|_| MemoryError::Size {
                size_bytes: memory_bytes,
            })?;
        Ok(Self {
            reservation,
            memory: Arc::new(memory),
            slots,
        })
    }

    /// Memory by guest physical address, as the guest sees it.
    pub fn memory(&self) -> &Arc<GuestMemory> {
        &self.memory
    }

    /// The memslots KVM is given.
    pub fn slots(&self) -> &[RamSlot] {
        &self.slots
    }

    /// Total RAM in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.reservation.size_bytes() as u64
    }

    /// The host addresses behind RAM, linear in RAM offset.
    pub fn reservation(&self) -> &Arc<AddressRange> {
        &self.reservation
    }
}
