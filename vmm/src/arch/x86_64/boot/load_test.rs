use std::fs;

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::acpi::{AcpiDevice, AcpiParts, PowerRegisters};
use super::elf::{Note, parse_notes};
use super::layout::*;
use super::*;

type Memory = GuestMemoryMmap<()>;
const MIB: usize = 1 << 20;

fn memory(mib: usize) -> Memory {
    Memory::from_ranges(&[(GuestAddress(0), mib * MIB)]).unwrap()
}

const ACPI_PARTS: AcpiParts = AcpiParts {
    serial: AcpiDevice {
        base: 0x3f8,
        gsi: 4,
    },
    virtio: &[],
    power: PowerRegisters {
        sleep_control_port: 0x600,
        sleep_status_port: 0x601,
        s5_type: 5,
        reset_port: 0x602,
        reset_value: 1,
        events_port: 0x603,
        button_pressed: 1,
        restored: 2,
        gsi: 3,
    },
};

struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Files {
        Files(tempfile::tempdir().unwrap())
    }
    fn put(&self, name: &str, bytes: &[u8]) -> BootFile {
        let path = self.0.path().join(name);
        fs::write(&path, bytes).unwrap();
        BootFile::open(BootFile::KERNEL, &path).unwrap()
    }
}

fn parts(kernel: &BootFile) -> BootParts<'_> {
    BootParts {
        kernel,
        initramfs: None,
        cmdline: "",
        vcpus: 1,
        acpi: &ACPI_PARTS,
    }
}

/// The error of loading a file with these bytes.
fn refusal(bytes: &[u8]) -> String {
    let files = Files::new();
    let kernel = files.put("kernel", bytes);
    load(&memory(64), &parts(&kernel)).unwrap_err().to_string()
}

/// A bzImage whose compressed kernel is `payload`.
fn bzimage(payload: &[u8]) -> Vec<u8> {
    let mut image = vec![0; 1024];
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    put(0x1f1, &[1]); // setup_sects
    put(0x1f4, &(payload.len() as u32 / 16).to_le_bytes()); // syssize
    put(0x1fe, &0xaa55u16.to_le_bytes());
    put(0x202, b"HdrS");
    put(0x206, &0x20fu16.to_le_bytes());
    put(0x211, &[1]); // loadflags: loaded high
    put(0x214, &0x10_0000u32.to_le_bytes());
    put(0x22c, &0x7fff_ffffu32.to_le_bytes()); // initrd_addr_max
    put(0x236, &1u16.to_le_bytes()); // xloadflags: 64-bit entry
    put(0x238, &255u32.to_le_bytes()); // cmdline_size
    put(0x258, &0x100_0000u64.to_le_bytes()); // pref_address
    put(0x260, &0x10_0000u32.to_le_bytes()); // init_size
    image.extend_from_slice(payload);
    image
}

/// One ELF program header.
struct Segment<'a> {
    kind: u32,
    paddr: u64,
    memsz: u64,
    bytes: &'a [u8],
}

fn elf(entry: u64, segments: &[Segment]) -> Vec<u8> {
    let mut file = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    file.extend(2u16.to_le_bytes()); // ET_EXEC
    file.extend(62u16.to_le_bytes()); // EM_X86_64
    file.extend(1u32.to_le_bytes());
    file.extend(entry.to_le_bytes());
    file.extend(64u64.to_le_bytes()); // phoff
    file.extend(0u64.to_le_bytes());
    file.extend(0u32.to_le_bytes());
    for half in [64u16, 56, segments.len() as u16, 64, 0, 0] {
        file.extend(half.to_le_bytes());
    }
    let mut offset = (64 + 56 * segments.len()) as u64;
    for segment in segments {
        file.extend(segment.kind.to_le_bytes());
        file.extend(7u32.to_le_bytes());
        for word in [
            offset,
            0,
            segment.paddr,
            segment.bytes.len() as u64,
            segment.memsz,
            0x1000,
        ] {
            file.extend(word.to_le_bytes());
        }
        offset += segment.bytes.len() as u64;
    }
    segments
        .iter()
        .for_each(|segment| file.extend_from_slice(segment.bytes));
    file
}

fn note(owner: &[u8], kind: u32, desc: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for word in [owner.len() as u32, desc.len() as u32, kind] {
        bytes.extend(word.to_le_bytes());
    }
    for field in [owner, desc] {
        bytes.extend_from_slice(field);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
    bytes
}

fn flat(desc: &[u8], paddr: u64) -> Vec<u8> {
    let note = note(b"nvvmm\0", 1, desc);
    elf(
        paddr + 4,
        &[
            Segment {
                kind: 4,
                paddr: 0,
                memsz: 0,
                bytes: &note,
            },
            Segment {
                kind: 1,
                paddr,
                memsz: 0x2001,
                bytes: b"programs",
            },
        ],
    )
}

const FLAT_V1: [u8; 8] = [1, 0, 0, 0, 0, 0, 0, 0];

#[test]
fn a_file_that_is_no_kernel_is_refused_with_what_it_looks_like() {
    let cases: [(&[u8], &str); 7] = [
        (b"", "it is empty"),
        (b"#!/bin/sh\necho hello\n", "it looks like a text file"),
        (b"\x1f\x8b\x08\0\0\0\0", "gzip"),
        (b"070701000000", "cpio archive"),
        (b"\x7fELF", "cut short"),
        (b"MZ\0\0", "EFI program"),
        (&[0xfe, 0, 1, 2, 3], "no known kind"),
    ];
    for (bytes, expected) in cases {
        let text = refusal(bytes);
        assert!(text.contains(expected), "{expected}: {text}");
    }
}

#[test]
fn elf_files_for_other_uses_are_named() {
    let good = flat(&FLAT_V1, 0x10_0000);
    for (at, value, expected) in [
        (4, 1, "32-bit"),
        (18, 183, "ARM64"),
        (16, 3, "position-independent"),
        (16, 1, "kernel module"),
        (54, 55, "unknown form"),
    ] {
        let mut bytes = good.clone();
        bytes[at] = value;
        let text = refusal(&bytes);
        assert!(text.contains(expected), "{expected}: {text}");
    }
}

#[test]
fn truncated_and_flipped_files_give_errors_and_no_panic() {
    for good in [flat(&FLAT_V1, 0x10_0000), bzimage(&[0x90; 592])] {
        let files = Files::new();
        let memory = memory(64);
        for length in (0..good.len()).step_by(7) {
            let kernel = files.put("kernel", &good[..length]);
            assert!(
                load(&memory, &parts(&kernel)).is_err(),
                "{length} of {} bytes",
                good.len()
            );
        }
        for at in 0..good.len().min(0x268) {
            for value in [0, 0xff] {
                let mut bytes = good.clone();
                bytes[at] = value;
                let kernel = files.put("kernel", &bytes);
                let _ = load(&memory, &parts(&kernel));
            }
        }
    }
}

#[test]
fn a_flat_guest_gets_its_boot_block_tables_and_segments() {
    let files = Files::new();
    let kernel = files.put("kernel", &flat(&FLAT_V1, 0x20_0000));
    let memory = memory(6);
    let entry = load(
        &memory,
        &BootParts {
            vcpus: 3,
            ..parts(&kernel)
        },
    )
    .unwrap();
    let rip = 0x20_0004;
    let has_identity = false;
    assert_eq!(entry, Entry::Flat { rip, has_identity });
    assert!(!entry.has_identity());
    let block: [u64; 4] = memory.read_obj(GuestAddress(0x3000)).unwrap();
    assert_eq!(
        block,
        [0x3154_4c46_4d56_564e, 3, 6 * MIB as u64, 0x20_3000],
        "free_start is rounded up"
    );
    let at = |gpa| memory.read_obj::<u64>(GuestAddress(gpa)).unwrap();
    assert_eq!((at(0x8000), at(0x9000), at(0x9008)), (0x9027, 0xa027, 0));
    assert_eq!((at(0x9ff8), at(0x7000)), (0x7027, 0xd000_00e7), "devices");
    assert_eq!(
        (at(0xa000), at(0xa010), at(0xa018)),
        (0xe7, 0x40_00e7, 0),
        "three large pages"
    );
    assert_eq!(memory.read_obj::<u16>(GuestAddress(0x4066)).unwrap(), 0x68);
    assert_eq!(
        memory
            .read_obj::<u8>(GuestAddress(0x4000 + 0x2068))
            .unwrap(),
        0xff
    );
    assert_eq!(
        memory.read_obj::<[u8; 8]>(GuestAddress(0x20_0000)).unwrap(),
        *b"programs"
    );
}

#[test]
fn a_flat_guest_sees_no_hole_in_its_memory() {
    let files = Files::new();
    let kernel = files.put("kernel", &flat(&FLAT_V1, 0x20_0000));
    let (low, high) = (3 << 30, 4 << 30);
    let memory =
        Memory::from_ranges(&[(GuestAddress(0), low), (GuestAddress(high), 4 * MIB)]).unwrap();
    load(&memory, &parts(&kernel)).unwrap();
    let at = |gpa| memory.read_obj::<u64>(GuestAddress(gpa)).unwrap();
    assert_eq!(at(0x3010), (low + 4 * MIB) as u64, "all of it is told");
    assert_eq!(at(0x9018), 0xd027, "a fourth GiB has begun");
    assert_eq!((at(0xcff8), at(0xd000)), (0xbfe0_00e7, high | 0xe7));
    assert_eq!((at(0xd008), at(0xd010)), ((high + 0x20_0000) | 0xe7, 0));
}

#[test]
fn flat_guests_that_do_not_fit_the_protocol_are_refused() {
    let cases: [(&[u8], u64, &str); 5] = [
        (&[2, 0, 0, 0, 0, 0, 0, 0], 0x10_0000, "version 2"),
        (&[1, 0, 0, 0, 4, 0, 0, 0], 0x10_0000, "flags 0x4"),
        (&[1, 0, 0, 0], 0x10_0000, "4 bytes instead of 8"),
        (&FLAT_V1, 0xf_0000, "does not fit"),
        (
            &FLAT_V1,
            64 * MIB as u64 - 0x1000,
            "does not fit into guest memory",
        ),
    ];
    for (desc, paddr, expected) in cases {
        let text = refusal(&flat(desc, paddr));
        assert!(text.contains(expected), "{expected}: {text}");
    }
    let files = Files::new();
    let kernel = files.put("kernel", &flat(&FLAT_V1, 0x10_0000));
    let refused = |parts: &BootParts| load(&memory(4), parts).unwrap_err().to_string();
    assert!(
        refused(&BootParts {
            cmdline: "quiet",
            ..parts(&kernel)
        })
        .contains("command line")
    );
    assert!(
        refused(&BootParts {
            initramfs: Some(&kernel),
            ..parts(&kernel)
        })
        .contains("initramfs")
    );
    assert!(
        refused(&BootParts {
            vcpus: 9,
            ..parts(&kernel)
        })
        .contains("at most 8 vCPUs")
    );
}

#[test]
fn an_entry_outside_of_the_segments_is_refused() {
    let bytes = elf(
        0x30_0000,
        &[Segment {
            kind: 1,
            paddr: 0x10_0000,
            memsz: 0x1000,
            bytes: b"code",
        }],
    );
    assert!(refusal(&bytes).contains("entry 0x300000 lies in no segment"));
}

#[test]
fn a_bzimage_gets_zero_page_command_line_and_initramfs() {
    let files = Files::new();
    let kernel = files.put("vmlinuz", &bzimage(&[0x90; 5000]));
    let initramfs = files.put("initrd", &[7; 5000]);
    let memory = memory(32);
    let parts = BootParts {
        initramfs: Some(&initramfs),
        cmdline: " quiet ",
        ..parts(&kernel)
    };
    assert_eq!(
        load(&memory, &parts).unwrap(),
        Entry::Linux { rip: HIMEM + 0x200 }
    );
    let u32_at = |gpa| memory.read_obj::<u32>(GuestAddress(gpa)).unwrap();
    let u8_at = |gpa| memory.read_obj::<u8>(GuestAddress(gpa)).unwrap();
    assert_eq!(u32_at(HIMEM), 0x9090_9090);
    assert_eq!(
        (u8_at(ZERO_PAGE + 0x210), u32_at(ZERO_PAGE + 0x228)),
        (0xff, CMDLINE as u32)
    );
    let (image, size) = (u32_at(ZERO_PAGE + 0x218), u32_at(ZERO_PAGE + 0x21c));
    assert_eq!(
        (image, size),
        (32 * MIB as u32 - 0x2000, 5000),
        "as high as it goes, on a page"
    );
    assert_eq!(u32_at(u64::from(image)), 0x0707_0707);
    assert_eq!(u32_at(ZERO_PAGE + 0x70), ACPI as u32, "RSDP");
    let mut cmdline = [0; 29];
    memory
        .read_slice(&mut cmdline, GuestAddress(CMDLINE))
        .unwrap();
    assert_eq!(&cmdline, b"console=ttyS0 reboot=a quiet\0");
}

#[test]
fn the_memory_map_has_all_ram_and_no_hole() {
    let memory = Memory::from_ranges(&[
        (GuestAddress(0), 32 * MIB),
        (GuestAddress(4 << 30), 8 * MIB),
    ])
    .unwrap();
    let files = Files::new();
    let kernel = files.put("vmlinuz", &bzimage(&[0x90; 512]));
    load(&memory, &parts(&kernel)).unwrap();
    let count = memory
        .read_obj::<u8>(GuestAddress(ZERO_PAGE + 0x1e8))
        .unwrap();
    let entries: Vec<(u64, u64, u32)> = (0..u64::from(count))
        .map(|index| {
            let at = ZERO_PAGE + 0x2d0 + index * 20;
            (
                memory.read_obj(GuestAddress(at)).unwrap(),
                memory.read_obj(GuestAddress(at + 8)).unwrap(),
                memory.read_obj(GuestAddress(at + 16)).unwrap(),
            )
        })
        .collect();
    let ram: Vec<_> = entries
        .iter()
        .filter(|e| e.2 == 1)
        .map(|e| (e.0, e.1))
        .collect();
    let expected = [
        (0, LOWEST_RAM_END),
        (HIMEM, 32 * MIB as u64 - HIMEM),
        (4 << 30, 8 * MIB as u64),
    ];
    assert_eq!(ram, expected);
    assert!(entries.contains(&(ACPI, ACPI_END - ACPI, 3)));
    assert!(
        entries.contains(&(0xe_e000, 0x2000, 2)),
        "VMGenID and VMClock"
    );
}

#[test]
fn linux_that_does_not_fit_is_refused_with_the_reason() {
    let files = Files::new();
    let kernel = files.put("vmlinuz", &bzimage(&[0x90; 512]));
    let initramfs = files.put("initrd", &vec![0; 16 * MIB]);
    let refused = |mib, parts: &BootParts| load(&memory(mib), parts).unwrap_err().to_string();
    let text = refused(16, &parts(&kernel));
    assert!(
        text.contains("unpacks itself up to guest address 0x1100000"),
        "{text}"
    );
    let text = refused(
        32,
        &BootParts {
            initramfs: Some(&initramfs),
            ..parts(&kernel)
        },
    );
    assert!(
        text.contains("initrd") && text.contains("too little room"),
        "{text}"
    );
    let text = refused(
        32,
        &BootParts {
            cmdline: &"x".repeat(250),
            ..parts(&kernel)
        },
    );
    assert!(
        text.contains("273 characters") && text.contains("at most 255"),
        "{text}"
    );
    let text = refused(
        32,
        &BootParts {
            cmdline: "a\nb",
            ..parts(&kernel)
        },
    );
    assert!(text.contains("printable"), "{text}");
}

#[test]
fn kernels_that_are_too_old_or_32_bit_are_named() {
    let mut old = bzimage(&[0x90; 512]);
    old[0x206] = 0x08;
    assert!(refusal(&old).contains("older than 3.8"));
    let mut narrow = bzimage(&[0x90; 512]);
    narrow[0x236] = 0;
    assert!(refusal(&narrow).contains("32-bit"));
}

#[test]
fn console_and_reset_are_added_only_when_the_user_named_none() {
    assert_eq!(linux::cmdline(""), "console=ttyS0 reboot=a");
    assert_eq!(
        linux::cmdline(" quiet ro"),
        "console=ttyS0 reboot=a quiet ro"
    );
    assert_eq!(
        linux::cmdline("ro console=hvc0"),
        "reboot=a ro console=hvc0"
    );
    assert_eq!(
        linux::cmdline("console=ttyS0 reboot=t"),
        "console=ttyS0 reboot=t"
    );
}

#[test]
fn notes_are_taken_apart_up_to_the_first_bad_one() {
    let mut bytes = note(b"GNU\0", 3, b"12345");
    bytes.extend(note(b"nvvmm\0", 1, &FLAT_V1));
    let expected = [
        Note {
            owner: b"GNU".to_vec(),
            kind: 3,
            desc: b"12345".to_vec(),
        },
        Note {
            owner: b"nvvmm".to_vec(),
            kind: 1,
            desc: FLAT_V1.to_vec(),
        },
    ];
    assert_eq!(parse_notes(&bytes), expected);
    bytes.extend([0xff; 40]);
    assert_eq!(parse_notes(&bytes), expected);
    assert_eq!(parse_notes(&bytes[..10]), []);
}
