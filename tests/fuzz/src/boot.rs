//! Loading a kernel file: bzImage, ELF image or flat guest.
//!
//! The first bytes are the machine (see [`Choice::read`]). The rest is the kernel file.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::Path;

use nix::sys::memfd::{MFdFlags, memfd_create};
use nvvmm::arch::boot::acpi::{AcpiDevice, AcpiParts, PowerRegisters};
use nvvmm::arch::boot::layout::{ACPI, CMDLINE, HIMEM, PDPT, PML4, ZERO_PAGE};
use nvvmm::arch::boot::{BootParts, Entry, load};
use nvvmm::spec::{VmSpec, files::BootFile};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use crate::script::Script;

type Memory = GuestMemoryMmap<()>;

const HIGH_RAM: u64 = 4 << 30;
const MIB: u64 = 1 << 20;

/// Offsets in the zero page: the initial RAM disk's address and size, and the command line's
/// address.
const RAMDISK_IMAGE_AT: u64 = 0x218;
const RAMDISK_SIZE_AT: u64 = 0x21c;
const CMD_LINE_PTR_AT: u64 = 0x228;

/// Header fields that the loader checks first, so that the fuzzer need not guess them.
const ELF_IDENT: [u8; 20] = [
    0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 62, 0,
];
const BZIMAGE_MAGIC_AT: usize = 0x202;
const BZIMAGE_MAGIC_AND_VERSION: [u8; 6] = *b"HdrS\x0f\x02";

/// The machine that boots.
struct Choice {
    low_ram_bytes: u64,
    high_ram: bool,
    vcpus: u8,
    initramfs: Option<Vec<u8>>,
    cmdline: String,
    kernel: Vec<u8>,
}

impl Choice {
    fn read(script: &mut Script) -> Choice {
        let flags = script.u8();
        let low_ram_bytes = (2 + u64::from(script.u8() % 32)) * MIB;
        let vcpus = 1 + script.u8() % VmSpec::VCPUS_MAX;
        let initramfs = (flags & 4 != 0).then(|| vec![0xa5; usize::from(script.u16()) * 16]);
        let cmdline_bytes = if flags & 16 != 0 {
            usize::from(script.u8())
        } else {
            0
        };
        let cmdline = String::from_utf8_lossy(script.bytes(cmdline_bytes)).into_owned();
        let mut kernel = script.bytes(usize::MAX).to_vec();
        let mut overlay = |at: usize, bytes: &[u8]| {
            if let Some(place) = kernel.get_mut(at..at + bytes.len()) {
                place.copy_from_slice(bytes);
            }
        };
        match flags & 3 {
            1 => overlay(0, &ELF_IDENT),
            2 => overlay(BZIMAGE_MAGIC_AT, &BZIMAGE_MAGIC_AND_VERSION),
            _ => {}
        }
        Choice {
            low_ram_bytes,
            high_ram: flags & 8 != 0,
            vcpus,
            initramfs,
            cmdline,
            kernel,
        }
    }

    fn memory(&self) -> Memory {
        let mut ranges = vec![(GuestAddress(0), self.low_ram_bytes as usize)];
        if self.high_ram {
            ranges.push((GuestAddress(HIGH_RAM), 2 * MIB as usize));
        }
        Memory::from_ranges(&ranges).expect("guest memory")
    }
}

/// A file in memory, opened.
fn file(bytes: &[u8]) -> BootFile {
    let file = File::from(memfd_create(c"file", MFdFlags::MFD_CLOEXEC).expect("a memory file"));
    file.write_all_at(bytes, 0).expect("room in memory");
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    BootFile::open(BootFile::KERNEL, Path::new(&path)).expect("a regular file")
}

/// Runs one input.
pub fn run(input: &[u8]) {
    let choice = Choice::read(&mut Script::new(input));
    let memory = choice.memory();
    let kernel = file(&choice.kernel);
    let initramfs = choice.initramfs.as_deref().map(file);
    let acpi = AcpiParts {
        serial: AcpiDevice {
            base: 0x3f8,
            gsi: 4,
        },
        virtio: &[0],
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
    let parts = BootParts {
        kernel: &kernel,
        initramfs: initramfs.as_ref(),
        cmdline: &choice.cmdline,
        vcpus: choice.vcpus,
        acpi: &acpi,
    };
    match load(&memory, &parts) {
        Ok(Entry::Linux { rip }) => check_linux(&choice, &memory, rip),
        Ok(Entry::Flat { rip, .. }) => check_entry(&choice, &memory, rip),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// Checks that the first instruction is mapped, and in RAM above the BIOS area.
fn check_entry(choice: &Choice, memory: &Memory, rip: u64) {
    assert!(
        (HIMEM..choice.low_ram_bytes).contains(&rip),
        "starts at {rip:#x}"
    );
    let pml4: u64 = memory.read_obj(GuestAddress(PML4)).expect("page tables");
    assert_eq!(pml4 & !0xfff, PDPT, "the page tables were overwritten");
}

/// Checks that the data for Linux is where the zero page says, for any kernel file.
fn check_linux(choice: &Choice, memory: &Memory, rip: u64) {
    check_entry(choice, memory, rip);
    let word = |at| -> u32 {
        memory
            .read_obj(GuestAddress(ZERO_PAGE + at))
            .expect("the zero page")
    };
    let bytes = |at, len| {
        let mut bytes = vec![0; len];
        memory
            .read_slice(&mut bytes, GuestAddress(at))
            .expect("RAM");
        bytes
    };
    assert_eq!(bytes(ACPI, 8), b"RSD PTR ");

    assert_eq!(u64::from(word(CMD_LINE_PTR_AT)), CMDLINE);
    let cmdline = bytes(CMDLINE, 2048);
    let end = cmdline
        .iter()
        .position(|byte| *byte == 0)
        .expect("the command line's end");
    assert!(cmdline[..end].ends_with(choice.cmdline.trim().as_bytes()));

    if let Some(initramfs) = &choice.initramfs {
        assert_eq!(word(RAMDISK_SIZE_AT) as usize, initramfs.len());
        let found = bytes(u64::from(word(RAMDISK_IMAGE_AT)), initramfs.len());
        assert!(found == *initramfs, "the initial RAM disk was overwritten");
    }
}
