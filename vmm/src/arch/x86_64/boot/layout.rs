//! Guest physical addresses that nvvmm chooses.
//!
//! | from | to | what |
//! |---|---|---|
//! | `0x1000` | | GDT (Linux) |
//! | `0x3000` | | boot block (flat guest) |
//! | `0x4000` | `0x606a` | TSS with I/O bitmap (flat guest) |
//! | `0x7000` | `0x8000` | zero page (Linux); PD of the devices (flat guest) |
//! | `0x8000` | `0xe000` | page tables: PML4, PDPT, four PDs (flat guest: see below) |
//! | `0x2_0000` | `0x3_0000` | command line (Linux) |
//! | `0x9_fc00` | `0xa_0000` | not RAM for Linux: where a PC's BIOS keeps its data area |
//! | `0xe_0000` | `0xe_e000` | ACPI tables, the RSDP first: an OS searches for it here |
//! | `0xe_e000` | `0xe_f000` | the generation identifier (VMGenID) |
//! | `0xe_f000` | `0xf_0000` | the VMClock page |
//! | `0x10_0000` | | kernel |
//! | `0xc000_0000` | `0x1_0000_0000` | no RAM: devices, IOAPIC, local APIC, KVM's own pages |
//!
//! A flat guest has a PD for each GiB of RAM, up to `0x8_a000` at most.
//!
//! virtio-mmio devices get one page each from `0xd000_0000` on, and GSIs from 5 on.

use nvvmm_devices::{CLOCK_PAGE_BYTES, IdentityPlaces};

/// GDT for the Linux entry.
pub const GDT: u64 = 0x1000;
/// Boot block of the flat protocol.
pub const FLAT_BOOT_BLOCK: u64 = 0x3000;
/// Task state segment of the flat protocol.
pub const FLAT_TSS: u64 = 0x4000;
/// Page table of a flat guest's devices.
pub const FLAT_DEVICES_PD: u64 = 0x7000;
/// The GiB at which a flat guest finds the devices: the last one below 512 GiB.
pub const FLAT_DEVICES_GIB: u64 = 511;
/// Linux's boot parameters.
pub const ZERO_PAGE: u64 = 0x7000;
/// Top page table.
pub const PML4: u64 = 0x8000;
/// Second page table.
pub const PDPT: u64 = 0x9000;
/// First of the page tables that map 1 GiB each.
pub const PD: u64 = 0xa000;
/// Kernel command line.
pub const CMDLINE: u64 = 0x2_0000;
/// Room for the kernel command line, with its final zero.
pub const CMDLINE_SIZE_BYTES: usize = 0x1_0000;
/// End of RAM below the BIOS data area.
pub const LOWEST_RAM_END: u64 = 0x9_fc00;
/// ACPI tables.
pub const ACPI: u64 = 0xe_0000;
/// End of the room for ACPI tables.
pub const ACPI_END: u64 = 0xe_e000;
/// Memory by which a guest tells its copies apart. A saved state implies these addresses.
pub const IDENTITY: IdentityPlaces = IdentityPlaces {
    generation_id: ACPI_END,
    clock_page: ACPI_END + 0x1000,
};
/// End of that memory.
pub const IDENTITY_END: u64 = IDENTITY.clock_page + CLOCK_PAGE_BYTES;
/// Start of RAM above the BIOS area; kernels and programs go here or higher.
pub const HIMEM: u64 = 0x10_0000;

/// Registers of the virtio-mmio device in slot 0.
pub const VIRTIO_MMIO: u64 = 0xd000_0000;
/// Bytes of one slot.
pub const VIRTIO_MMIO_SIZE_BYTES: u64 = 0x1000;
/// GSI of the virtio-mmio device in slot 0.
pub const VIRTIO_GSI: u32 = 5;
/// Slots for virtio-mmio devices: as many as there are GSIs, of the 24 inputs of the IOAPIC.
pub const VIRTIO_DEVICES_MAX: usize = 24 - VIRTIO_GSI as usize;

/// Guest physical address of the registers in `slot`.
pub const fn virtio_mmio_gpa(slot: u8) -> u64 {
    VIRTIO_MMIO + slot as u64 * VIRTIO_MMIO_SIZE_BYTES
}

/// GSI of the device in `slot`.
pub const fn virtio_gsi(slot: u8) -> u32 {
    VIRTIO_GSI + slot as u32
}

/// IOAPIC registers (KVM's in-kernel one cannot be moved).
pub const IOAPIC: u32 = 0xfec0_0000;
/// Local APIC registers.
pub const LOCAL_APIC: u32 = 0xfee0_0000;
