use acpi_tables::fadt::FADTBuilder;

use super::acpi::{AcpiDevice, AcpiParts, PowerRegisters, tables, write};
use super::layout::{ACPI, ACPI_END, VIRTIO_DEVICES_MAX};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

const POWER: PowerRegisters = PowerRegisters {
    sleep_control_port: 0x600,
    sleep_status_port: 0x601,
    s5_type: 5,
    reset_port: 0x602,
    reset_value: 1,
    events_port: 0x603,
    button_pressed: 1,
    restored: 2,
    gsi: 3,
};

fn virtio(count: usize) -> Vec<u8> {
    (0..count as u8).collect()
}

fn build(vcpus: u8, virtio: &[u8]) -> Vec<u8> {
    tables(
        vcpus,
        &AcpiParts {
            serial: AcpiDevice {
                base: 0x3f8,
                gsi: 4,
            },
            virtio,
            power: POWER,
        },
    )
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

/// The table at guest address `gpa`, with its length and checksum verified.
fn table(bytes: &[u8], gpa: u64) -> &[u8] {
    let start = usize::try_from(gpa - ACPI).unwrap();
    let length = u32_at(bytes, start + 4) as usize;
    let table = &bytes[start..start + length];
    assert_eq!(
        sum(table),
        0,
        "checksum of {:?}",
        String::from_utf8_lossy(&table[..4])
    );
    table
}

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

/// Follows the pointers as an OS does: RSDP, XSDT, FADT, DSDT.
fn walk(bytes: &[u8]) -> (Vec<&[u8]>, &[u8]) {
    assert_eq!(&bytes[..8], b"RSD PTR ");
    assert_eq!(
        (sum(&bytes[..20]), sum(&bytes[..36])),
        (0, 0),
        "RSDP checksums"
    );
    let xsdt = table(bytes, u64_at(bytes, 24));
    assert_eq!(&xsdt[..4], b"XSDT");
    let listed: Vec<_> = xsdt[36..]
        .chunks(8)
        .map(|entry| table(bytes, u64_at(entry, 0)))
        .collect();
    let fadt = listed.iter().find(|t| &t[..4] == b"FACP").expect("FADT");
    (
        listed.clone(),
        table(
            bytes,
            u64_at(fadt, std::mem::offset_of!(FADTBuilder, x_dsdt)),
        ),
    )
}

#[test]
fn every_table_is_reachable_and_sums_to_zero() {
    for (vcpus, devices) in [(1, 0), (2, 3), (64, VIRTIO_DEVICES_MAX)] {
        let bytes = build(vcpus, &virtio(devices));
        let (listed, dsdt) = walk(&bytes);
        let names: Vec<_> = listed.iter().map(|t| &t[..4]).collect();
        assert_eq!(names, [b"FACP", b"APIC"]);
        assert_eq!(&dsdt[..4], b"DSDT");
    }
}

#[test]
fn the_madt_lists_each_vcpu_and_the_ioapic() {
    let bytes = build(3, &[]);
    let madt = walk(&bytes).0[1];
    let mut entries = &madt[44..];
    let mut apics = Vec::new();
    let mut ioapics = 0;
    while let [kind, length, ..] = *entries {
        match kind {
            0 => apics.push((entries[3], u32_at(entries, 4))),
            1 => ioapics += 1,
            other => panic!("unexpected entry {other}"),
        }
        entries = &entries[usize::from(length)..];
    }
    assert_eq!(
        (apics, ioapics),
        (vec![(0, 1), (1, 1), (2, 1)], 1),
        "APIC ids, all enabled"
    );
}

#[test]
fn the_fadt_says_hardware_reduced_and_where_to_power_off() {
    let bytes = build(1, &[]);
    let fadt = walk(&bytes).0[0];
    let flags = u32_at(fadt, std::mem::offset_of!(FADTBuilder, flags));
    assert_ne!(flags & 1 << 20, 0, "hardware-reduced");
    assert_ne!(flags & 1 << 10, 0, "reset register supported");
    let register = |at: usize| (fadt[at], u64_at(fadt, at + 4));
    assert_eq!(
        register(std::mem::offset_of!(FADTBuilder, sleep_control_reg)),
        (1, 0x600)
    );
    assert_eq!(
        register(std::mem::offset_of!(FADTBuilder, sleep_status_reg)),
        (1, 0x601)
    );
    assert_eq!(
        register(std::mem::offset_of!(FADTBuilder, reset_reg)),
        (1, 0x602)
    );
    assert_eq!(fadt[std::mem::offset_of!(FADTBuilder, reset_value)], 1);
}

#[test]
fn the_dsdt_has_a_device_for_each_virtio_slot() {
    let devices = virtio(VIRTIO_DEVICES_MAX);
    let bytes = build(1, &devices);
    let dsdt = walk(&bytes).1;
    let count = |needle: &[u8]| {
        dsdt.windows(needle.len())
            .filter(|window| *window == needle)
            .count()
    };
    assert_eq!(count(b"LNRO0005"), devices.len());
    assert_eq!((count(b"_S5_"), count(b"COM1")), (1, 1));
    for slot in devices {
        let (base, gsi) = (0xd000_0000 + u32::from(slot) * 0x1000, 5 + u32::from(slot));
        // Memory32Fixed: tag, length 9, read-write, base, one page. Extended interrupt: edge,
        // active high, consumer.
        let mut range = vec![0x86, 9, 0, 1];
        range.extend(base.to_le_bytes());
        range.extend(0x1000u32.to_le_bytes());
        range.extend([0x89, 6, 0, 0b11, 1]);
        range.extend(gsi.to_le_bytes());
        assert_eq!(count(&range), 1, "{slot}");
    }
}

#[test]
fn the_dsdt_tells_of_the_power_button() {
    let bytes = build(1, &[]);
    let dsdt = walk(&bytes).1;
    let has = |needle: &[u8]| dsdt.windows(needle.len()).any(|window| window == needle);
    assert!(has(b"ACPI0013"), "a generic event device");
    // OperationRegion: SystemIO, the port, one byte.
    assert!(has(
        &[b"PWRR".as_slice(), &[1, 0x0b, 0x03, 0x06, 1]].concat()
    ));
    // Extended interrupt: edge, active high, consumer, GSI 3.
    assert!(has(&[0x89, 6, 0, 0b11, 1, 3, 0, 0, 0]));
    // Notify (PWRB, 0x80).
    assert!(has(&[b"\x86PWRB".as_slice(), &[0x0a, 0x80]].concat()));
    // _HID of the button: EISAID "PNP0C0C".
    assert!(has(&[0x41, 0xd0, 0x0c, 0x0c]));
}

#[test]
fn the_dsdt_names_generation_and_clock_as_kernels_look_for_them() {
    let bytes = build(1, &[]);
    let dsdt = walk(&bytes).1;
    let has = |needle: &[u8]| dsdt.windows(needle.len()).any(|window| window == needle);
    for id in ["VMGENCTR", "VM_Gen_Counter", "AMZNC10C", "VMCLOCK"] {
        assert!(has(&[&[0x0d], id.as_bytes(), &[0]].concat()), "{id}");
    }
    // ADDR: a package of two numbers.
    let address = [0x12, 8, 2, 0x0c, 0x00, 0xe0, 0x0e, 0x00, 0x00];
    assert!(has(&[b"\x08ADDR".as_slice(), &address].concat()));
    // Memory32Fixed: read-only, one page.
    assert!(has(&[0x86, 9, 0, 0, 0, 0xf0, 0x0e, 0, 0, 0x10, 0, 0]));
    // Notify (VGEN, 0x80), Notify (VCLK, 0x80), one after the other.
    assert!(has(b"\x86VGEN\x0a\x80\x86VCLK\x0a\x80"));
    // For a look by a disassembler: NVVMM_TEST_DSDT=FILE.
    if let Some(path) = std::env::var_os("NVVMM_TEST_DSDT") {
        std::fs::write(path, dsdt).unwrap();
    }
}

#[test]
fn a_device_is_named_by_its_slot_whatever_is_in_the_others() {
    let (dense, sparse) = (build(1, &virtio(8)), build(1, &[7]));
    let of_slot_7 = |bytes: &[u8]| {
        let dsdt = walk(bytes).1;
        let at = dsdt.windows(4).position(|name| name == b"VR07").unwrap();
        dsdt[at..].to_vec()
    };
    assert_eq!(of_slot_7(&dense), of_slot_7(&sparse));
}

#[test]
fn tables_of_the_largest_machine_fit_where_they_go() {
    let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), 2 << 20)]).unwrap();
    let devices = virtio(VIRTIO_DEVICES_MAX);
    let parts = AcpiParts {
        serial: AcpiDevice {
            base: 0x3f8,
            gsi: 4,
        },
        virtio: &devices,
        power: POWER,
    };
    write(&memory, 64, &parts).unwrap();
    let rsdp: [u8; 8] = memory.read_obj(GuestAddress(ACPI)).unwrap();
    assert_eq!(&rsdp, b"RSD PTR ");
    assert_eq!(
        memory.read_obj::<u64>(GuestAddress(ACPI_END)).unwrap(),
        0,
        "nothing beyond the room for tables"
    );
}
