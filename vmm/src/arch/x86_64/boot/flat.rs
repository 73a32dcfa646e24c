//! The nvvmm flat boot protocol, version 1 (guest/bare-metal/README.md).

use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

use super::elf::Program;
use super::error::at;
use super::layout::{FLAT_BOOT_BLOCK, FLAT_TSS, HIMEM, PD};
use super::linux::low_ram_end;
use super::{BootError, BootParts, Entry, Result, paging};

const NOTE_OWNER: &[u8] = b"nvvmm";
const NOTE_KIND: u32 = 1;
const VERSION: u32 = 1;
/// Flag of a guest that has the memory of [`super::layout::IDENTITY`].
const HAS_IDENTITY: u32 = 1 << 0;
const VCPUS_MAX: u8 = 8;
/// "NVVMFLT1".
const BOOT_BLOCK_MAGIC: u64 = 0x3154_4c46_4d56_564e;

/// RAM that there is room for page tables of.
const MEMORY_BYTES_MAX: u64 = 128 << 30;
const _: () = assert!(PD + (MEMORY_BYTES_MAX >> 30) * 0x1000 <= HIMEM);

/// In the TSS: where the offset of the I/O bitmap is, what it is, and where the bitmap's end mark
/// goes. The bitmap's zeros let user mode use every port (the port privilege level in `rflags` is
/// not enough on a software KVM).
const TSS_BITMAP_OFFSET_AT: u64 = 0x66;
const TSS_BITMAP_OFFSET: u16 = 0x68;
const TSS_BITMAP_END_AT: u64 = 0x2068;

/// The content of a program's flat note.
#[derive(Clone, Copy, Debug)]
pub(super) struct FlatNote {
    /// The guest looks at the memory by which copies are told apart.
    pub(super) has_identity: bool,
}

/// Reads the program's flat note, if it has one.
///
/// # Errors
/// [`BootError::NotAKernel`] for one of another version or with unknown flags.
pub(super) fn note(program: &Program) -> Result<Option<FlatNote>> {
    let Some(note) = program
        .notes
        .iter()
        .find(|note| note.owner == NOTE_OWNER && note.kind == NOTE_KIND)
    else {
        return Ok(None);
    };
    let words: Vec<u32> = note
        .desc
        .chunks_exact(4)
        .map(|word| u32::from_le_bytes([word[0], word[1], word[2], word[3]]))
        .collect();
    match words[..] {
        [VERSION, flags] if note.desc.len() == 8 && flags & !HAS_IDENTITY == 0 => {
            let has_identity = flags & HAS_IDENTITY != 0;
            Ok(Some(FlatNote { has_identity }))
        }
        [version, flags] if note.desc.len() == 8 => Err(program.not_bootable(format!(
            "it is a flat guest of version {version} with flags {flags:#x}; this nvvmm knows \
             version {VERSION} with flags up to {HAS_IDENTITY:#x}"
        ))),
        _ => {
            let bytes = note.desc.len();
            Err(program.not_bootable(format!("its nvvmm note has {bytes} bytes instead of 8")))
        }
    }
}

/// Loads a flat guest.
pub(super) fn load<M: GuestMemoryBackend>(
    memory: &M,
    parts: &BootParts,
    mut program: Program,
    note: FlatNote,
) -> Result<Entry> {
    if parts.initramfs.is_some() {
        return Err(BootError::LinuxOnly("an initramfs"));
    }
    if !parts.cmdline.is_empty() {
        return Err(BootError::LinuxOnly("a kernel command line"));
    }
    if parts.vcpus > VCPUS_MAX {
        return Err(BootError::TooManyVcpus {
            vcpus: parts.vcpus,
            vcpus_max: VCPUS_MAX,
        });
    }
    let end = program.load(memory, low_ram_end(memory))?;
    let free_start = end.next_multiple_of(0x1000);
    let ram_bytes: u64 = memory.iter().map(|region| region.len()).sum();
    let memory_bytes = ram_bytes.min(MEMORY_BYTES_MAX);
    paging::write_flat_map(memory, memory_bytes)?;
    let block: [u64; 4] = [
        BOOT_BLOCK_MAGIC,
        u64::from(parts.vcpus),
        memory_bytes,
        free_start,
    ];
    memory
        .write_obj(block, GuestAddress(FLAT_BOOT_BLOCK))
        .map_err(at("the boot block", FLAT_BOOT_BLOCK))?;
    let tss = |offset: u64, bytes: &[u8]| {
        let gpa = FLAT_TSS + offset;
        memory
            .write_slice(bytes, GuestAddress(gpa))
            .map_err(at("the task state segment", gpa))
    };
    tss(TSS_BITMAP_OFFSET_AT, &TSS_BITMAP_OFFSET.to_le_bytes())?;
    tss(TSS_BITMAP_END_AT, &[0xff])?;
    Ok(Entry::Flat {
        rip: program.entry,
        has_identity: note.has_identity,
    })
}
