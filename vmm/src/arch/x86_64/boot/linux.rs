//! Linux by its 64-bit boot protocol (Documentation/arch/x86/boot.rst).

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};

use linux_loader::bootparam::{XLF_KERNEL_64, boot_e820_entry, boot_params, setup_header};
use linux_loader::loader::{BzImage, KernelLoader};
use vm_memory::{ByteValued, Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

use super::elf::Program;
use super::error::at;
use super::layout::{
    ACPI, ACPI_END, CMDLINE, CMDLINE_SIZE_BYTES, GDT, HIMEM, IDENTITY, IDENTITY_END,
    LOWEST_RAM_END, ZERO_PAGE,
};
use super::{BootError, BootParts, Entry, Result, acpi, paging};
use crate::spec::files::BootFile;

const SETUP_HEADER_AT: u64 = 0x1f1;
/// Boot protocol 2.12, Linux 3.8: the first with `xloadflags`.
const PROTOCOL_MIN: u16 = 0x20c;
/// A bzImage has its 64-bit entry here.
const BZIMAGE_ENTRY_64: u64 = 0x200;
/// A boot loader without a number of its own.
const LOADER_UNDEFINED: u8 = 0xff;
const BOOT_FLAG: u16 = 0xaa55;
const HEADER_MAGIC: u32 = 0x5372_6448;
/// Longest command line of an ELF image, which does not tell: COMMAND_LINE_SIZE on x86, less the
/// final zero.
const CMDLINE_LENGTH_MAX: u32 = 2047;

const E820_RAM: u32 = 1;
const E820_RESERVED: u32 = 2;
const E820_ACPI: u32 = 3;

/// GDT: null, unused, 64-bit code (0x10), data (0x18), as the boot protocol asks for.
const GDT_ENTRIES: [u64; 4] = [0, 0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff];

/// End of the RAM that starts at guest address 0.
pub(super) fn low_ram_end<M: GuestMemoryBackend>(memory: &M) -> u64 {
    memory
        .find_region(GuestAddress(0))
        .map_or(0, |region| region.len())
}

/// Loads a bzImage and all parts that it is handed.
pub(super) fn load_bzimage<M: GuestMemoryBackend>(
    memory: &M,
    parts: &BootParts,
    mut file: File,
) -> Result<Entry> {
    let header = read_setup_header(parts.kernel, &mut file)?;
    let metadata = file.metadata();
    let metadata = metadata.map_err(|source| parts.kernel.unreadable(source))?;
    let file_bytes = metadata.len();
    let setup_sectors = if header.setup_sects == 0 {
        4
    } else {
        u64::from(header.setup_sects)
    };
    let not = |why: &str| BootError::NotAKernel {
        path: parts.kernel.path().into(),
        why: why.into(),
    };
    let kernel_bytes = file_bytes
        .checked_sub((setup_sectors + 1) * 512)
        .ok_or_else(|| not("it is a bzImage cut short"))?;
    if kernel_bytes < u64::from(header.syssize) * 16 {
        return Err(not("it is a bzImage cut short"));
    }
    // The kernel unpacks itself to its preferred address, or higher. Nothing of ours may be there.
    let (pref_address, init_size) = (header.pref_address, u64::from(header.init_size));
    let unpacked_end = pref_address.max(HIMEM).saturating_add(init_size);
    let kernel_end = unpacked_end.max(HIMEM.saturating_add(kernel_bytes));
    if kernel_end > low_ram_end(memory) {
        return Err(BootError::DoesNotFit {
            what: format!("the kernel {}", parts.kernel.path().display()),
            size_bytes: kernel_bytes,
            why: format!("it unpacks itself up to guest address {kernel_end:#x}"),
        });
    }
    let loaded = BzImage::load(
        memory,
        Some(GuestAddress(HIMEM)),
        &mut file,
        Some(GuestAddress(HIMEM)),
    )
    .map_err(|error| not(&format!("loading it failed: {error}")))?;
    let header = loaded.setup_header.unwrap_or(header);
    finish(memory, parts, header, kernel_end)?;
    Ok(Entry::Linux {
        rip: HIMEM + BZIMAGE_ENTRY_64,
    })
}

/// Loads an ELF image, whose entry is the same 64-bit one, and all that it is handed.
pub(super) fn load_vmlinux<M: GuestMemoryBackend>(
    memory: &M,
    parts: &BootParts,
    mut program: Program,
) -> Result<Entry> {
    let kernel_end = program.load(memory, low_ram_end(memory))?;
    let header = setup_header {
        boot_flag: BOOT_FLAG,
        header: HEADER_MAGIC,
        version: PROTOCOL_MIN,
        cmdline_size: CMDLINE_LENGTH_MAX,
        initrd_addr_max: u32::MAX,
        ..Default::default()
    };
    finish(memory, parts, header, kernel_end)?;
    Ok(Entry::Linux { rip: program.entry })
}

fn read_setup_header(kernel: &BootFile, file: &mut File) -> Result<setup_header> {
    let not = |why: &str| BootError::NotAKernel {
        path: kernel.path().into(),
        why: why.into(),
    };
    let mut header = setup_header::default();
    file.seek(SeekFrom::Start(SETUP_HEADER_AT))
        .and_then(|_| file.read_exact(header.as_mut_slice()))
        .map_err(|_| not("it is a bzImage cut short"))?;
    if header.version < PROTOCOL_MIN {
        return Err(not("it is a Linux kernel older than 3.8"));
    }
    if header.xloadflags & XLF_KERNEL_64 == 0 {
        return Err(not("it is a 32-bit Linux kernel"));
    }
    Ok(header)
}

/// Writes everything but the kernel: page tables, GDT, ACPI, initial RAM disk, command line, zero
/// page.
fn finish<M: GuestMemoryBackend>(
    memory: &M,
    parts: &BootParts,
    mut header: setup_header,
    kernel_end: u64,
) -> Result<()> {
    // The kernel's first code wants itself, the zero page and the command line mapped; it maps the
    // rest itself.
    paging::write_identity_map(memory)?;
    memory
        .write_obj(GDT_ENTRIES, GuestAddress(GDT))
        .map_err(at("the GDT", GDT))?;
    acpi::write(memory, parts.vcpus, parts.acpi)?;
    let cmdline = cmdline(parts.cmdline);
    write_cmdline(memory, &cmdline, header.cmdline_size)?;
    if let Some(initramfs) = parts.initramfs {
        let (gpa, size_bytes) =
            load_initramfs(memory, initramfs, kernel_end, header.initrd_addr_max)?;
        (header.ramdisk_image, header.ramdisk_size) = (gpa, size_bytes);
    }
    header.type_of_loader = LOADER_UNDEFINED;
    header.cmd_line_ptr = CMDLINE as u32;
    let mut zero_page = boot_params {
        hdr: header,
        acpi_rsdp_addr: ACPI,
        ..Default::default()
    };
    for entry in e820(memory) {
        zero_page.e820_table[usize::from(zero_page.e820_entries)] = entry;
        zero_page.e820_entries += 1;
    }
    memory
        .write_slice(zero_page.as_slice(), GuestAddress(ZERO_PAGE))
        .map_err(at("the zero page", ZERO_PAGE))
}

/// The user's command line, and before it two options unless the user gave them. `console=`: the
/// serial port. `reboot=a`: reset by ACPI, because Linux on hardware-reduced ACPI otherwise asks
/// EFI, and then jumps into a BIOS; this machine has neither.
pub(super) fn cmdline(user: &str) -> String {
    let missing = [("console=", "console=ttyS0"), ("reboot=", "reboot=a")]
        .into_iter()
        .filter(|(option, _)| !user.split_whitespace().any(|word| word.starts_with(option)))
        .map(|(_, addition)| addition);
    let words: Vec<&str> = missing
        .chain([user.trim()])
        .filter(|word| !word.is_empty())
        .collect();
    words.join(" ")
}

fn write_cmdline<M: GuestMemoryBackend>(
    memory: &M,
    cmdline: &str,
    kernel_length_max: u32,
) -> Result<()> {
    let length_max = CMDLINE_SIZE_BYTES.min(kernel_length_max as usize + 1) - 1;
    if cmdline.len() > length_max {
        return Err(BootError::CmdlineTooLong {
            length: cmdline.len(),
            length_max,
        });
    }
    if !cmdline
        .bytes()
        .all(|byte| byte.is_ascii_graphic() || byte == b' ')
    {
        return Err(BootError::CmdlineCharacters);
    }
    let bytes: Vec<u8> = cmdline.bytes().chain([0]).collect();
    memory
        .write_slice(&bytes, GuestAddress(CMDLINE))
        .map_err(at("the command line", CMDLINE))
}

/// Puts the initial RAM disk as high as the kernel can reach it below the MMIO hole. Gives its
/// address and size.
fn load_initramfs<M: GuestMemoryBackend>(
    memory: &M,
    initramfs: &BootFile,
    kernel_end: u64,
    addr_max: u32,
) -> Result<(u32, u32)> {
    let read = |source| initramfs.unreadable(source);
    let mut file = initramfs.reader()?;
    let size_bytes = file.metadata().map_err(read)?.len();
    let end_max = low_ram_end(memory).min(u64::from(addr_max) + 1);
    let start = end_max
        .checked_sub(size_bytes)
        .map(|start| start & !0xfff)
        .filter(|&start| start >= kernel_end);
    let too_large = || BootError::DoesNotFit {
        what: format!("the initramfs {}", initramfs.path().display()),
        size_bytes,
        why: format!(
            "between the kernel's end {kernel_end:#x} and {end_max:#x} there is too little room"
        ),
    };
    let start = start.ok_or_else(too_large)?;
    let (gpa, size) = (u32::try_from(start), u32::try_from(size_bytes));
    let (Ok(gpa), Ok(size)) = (gpa, size) else {
        return Err(too_large());
    };
    memory
        .read_exact_volatile_from(GuestAddress(start), &mut file, size as usize)
        .map_err(|error| read(std::io::Error::other(error)))?;
    Ok((gpa, size))
}

/// The memory map: RAM with the PC's holes below 1 MiB, and all of it above.
fn e820<M: GuestMemoryBackend>(memory: &M) -> Vec<boot_e820_entry> {
    let entry = |start: u64, end: u64, kind: u32| boot_e820_entry {
        addr: start,
        size: end - start,
        r#type: kind,
    };
    let mut map = vec![
        entry(0, LOWEST_RAM_END, E820_RAM),
        entry(LOWEST_RAM_END, 0xa_0000, E820_RESERVED),
        entry(ACPI, ACPI_END, E820_ACPI),
        entry(IDENTITY.generation_id, IDENTITY_END, E820_RESERVED),
    ];
    for region in memory.iter() {
        let start = region.start_addr().0;
        map.push(entry(start.max(HIMEM), start + region.len(), E820_RAM));
    }
    map
}
