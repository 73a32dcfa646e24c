//! Layout of RAM in the guest physical address space.

use nvvmm_snapshot::CHUNK_SIZE_BYTES;

/// End of low RAM. The gigabyte above it, up to 4 GiB, is for MMIO (virtio-mmio, IOAPIC, local
/// APIC).
pub const LOW_RAM_END: u64 = 3 << 30;
/// Start of the RAM that does not fit below [`LOW_RAM_END`].
pub const HIGH_RAM_START: u64 = 4 << 30;

/// One contiguous range of guest physical RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RamRange {
    /// First guest physical address.
    pub gpa: u64,
    /// Length in bytes, a multiple of the chunk size.
    pub size_bytes: u64,
    /// Offset of the range in RAM, that is without the MMIO hole.
    pub ram_offset: u64,
}

/// The guest physical address of a byte of RAM.
pub fn gpa_of(ram_offset: u64) -> u64 {
    if ram_offset < LOW_RAM_END {
        ram_offset
    } else {
        ram_offset - LOW_RAM_END + HIGH_RAM_START
    }
}

/// The byte of RAM at a guest physical address; `None` where there is none in a guest with
/// `memory_bytes` of RAM.
pub fn ram_offset_of(gpa: u64, memory_bytes: u64) -> Option<u64> {
    ram_ranges(memory_bytes).into_iter().find_map(|range| {
        let offset = gpa.checked_sub(range.gpa)?;
        (offset < range.size_bytes).then_some(range.ram_offset + offset)
    })
}

/// The ranges that `memory_bytes` of RAM take, lowest first. `memory_bytes` is a multiple of the
/// chunk size.
pub fn ram_ranges(memory_bytes: u64) -> Vec<RamRange> {
    debug_assert!(memory_bytes.is_multiple_of(CHUNK_SIZE_BYTES));
    let low = memory_bytes.min(LOW_RAM_END);
    let mut ranges = vec![RamRange {
        gpa: 0,
        size_bytes: low,
        ram_offset: 0,
    }];
    if memory_bytes > low {
        ranges.push(RamRange {
            gpa: HIGH_RAM_START,
            size_bytes: memory_bytes - low,
            ram_offset: low,
        });
    }
    ranges
}
