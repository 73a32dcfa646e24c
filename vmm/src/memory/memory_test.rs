use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

use super::*;

const MIB: u64 = 1 << 20;

#[test]
fn ram_below_three_gibibytes_is_one_range() {
    let ranges = ram_ranges(256 * MIB);
    assert_eq!(
        ranges,
        [RamRange {
            gpa: 0,
            size_bytes: 256 * MIB,
            ram_offset: 0
        }]
    );
}

#[test]
fn ram_above_the_hole_continues_at_four_gibibytes() {
    let ranges = ram_ranges(LOW_RAM_END + 512 * MIB);
    assert_eq!(ranges[0].size_bytes, LOW_RAM_END);
    assert_eq!(
        ranges[1],
        RamRange {
            gpa: HIGH_RAM_START,
            size_bytes: 512 * MIB,
            ram_offset: LOW_RAM_END
        }
    );
}

#[test]
fn an_offset_in_ram_has_the_address_that_its_range_says() {
    for range in ram_ranges(LOW_RAM_END + 512 * MIB) {
        for at in [0, 1, range.size_bytes - 1] {
            assert_eq!(gpa_of(range.ram_offset + at), range.gpa + at);
        }
    }
}

#[test]
fn guest_addresses_on_both_sides_of_the_hole_reach_their_own_bytes() {
    let ram = GuestRam::reserve(LOW_RAM_END + 4 * MIB).unwrap();
    let memory = ram.memory();
    memory
        .write_obj(0x11u8, GuestAddress(LOW_RAM_END - 1))
        .unwrap();
    memory
        .write_obj(0x22u8, GuestAddress(HIGH_RAM_START))
        .unwrap();
    assert_eq!(
        memory
            .read_obj::<u8>(GuestAddress(LOW_RAM_END - 1))
            .unwrap(),
        0x11
    );
    assert_eq!(
        memory.read_obj::<u8>(GuestAddress(HIGH_RAM_START)).unwrap(),
        0x22
    );
    assert!(
        memory.read_obj::<u8>(GuestAddress(LOW_RAM_END)).is_err(),
        "the MMIO hole is not RAM"
    );
    assert!(
        memory
            .read_obj::<u8>(GuestAddress(HIGH_RAM_START + 4 * MIB))
            .is_err()
    );
    assert_eq!(ram.slots()[1].hva - ram.slots()[0].hva, LOW_RAM_END);
}

#[test]
fn sizes_that_are_no_whole_chunks_are_refused() {
    for size in [
        0,
        1,
        MIB,
        3 * MIB,
        GuestRam::SIZE_BYTES_MAX + 2 * MIB,
        u64::MAX,
    ] {
        assert!(GuestRam::reserve(size).is_err(), "{size}");
    }
}

#[test]
fn slices_never_leave_their_region() {
    let ram = GuestRam::reserve(2 * MIB).unwrap();
    let region = ram.memory().iter().next().unwrap();
    assert!(
        region
            .get_slice(vm_memory::MemoryRegionAddress(0), 2 * MIB as usize)
            .is_ok()
    );
    assert!(
        region
            .get_slice(vm_memory::MemoryRegionAddress(1), 2 * MIB as usize)
            .is_err()
    );
    assert!(
        region
            .get_slice(vm_memory::MemoryRegionAddress(u64::MAX), 2)
            .is_err()
    );
}
