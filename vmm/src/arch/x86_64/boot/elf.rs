//! ELF programs: headers and notes, checked before anything is loaded.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::PathBuf;

use linux_loader::elf::{
    ELFCLASS64, ELFDATA2LSB, EM_X86_64, ET_EXEC, Elf64_Ehdr, Elf64_Phdr, PT_LOAD, PT_NOTE,
};
use linux_loader::loader::{Elf, KernelLoader};
use vm_memory::{ByteValued, GuestMemoryBackend};

use super::{BootError, Result, layout};
use crate::spec::files::BootFile;

/// Program headers one file may have, and bytes of notes: far more than any kernel has.
const SEGMENTS_MAX: u16 = 64;
const NOTES_SIZE_BYTES_MAX: u64 = 1 << 16;

/// An executable ELF file for x86-64 whose headers lie within the file.
#[derive(Debug)]
pub(super) struct Program {
    pub(super) path: PathBuf,
    pub(super) entry: u64,
    pub(super) notes: Vec<Note>,
    segments: Vec<Elf64_Phdr>,
    file: File,
}

/// One ELF note.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Note {
    pub(super) owner: Vec<u8>,
    pub(super) kind: u32,
    pub(super) desc: Vec<u8>,
}

impl Program {
    /// Reads the headers and notes of `file`.
    pub(super) fn open(kernel: &BootFile, mut file: File, file_bytes: u64) -> Result<Program> {
        let not = |why: String| BootError::NotAKernel {
            path: kernel.path().into(),
            why,
        };
        let read = |source| kernel.unreadable(source);
        let mut header = Elf64_Ehdr::default();
        if file_bytes < size_of::<Elf64_Ehdr>() as u64 {
            return Err(not("it is an ELF file cut short".into()));
        }
        file.rewind()
            .and_then(|()| file.read_exact(header.as_mut_slice()))
            .map_err(read)?;
        check_header(&header).map_err(not)?;
        let table_bytes = u64::from(header.e_phnum) * size_of::<Elf64_Phdr>() as u64;
        if header
            .e_phoff
            .checked_add(table_bytes)
            .is_none_or(|end| end > file_bytes)
        {
            return Err(not("its ELF program headers lie outside of the file".into()));
        }
        file.seek(SeekFrom::Start(header.e_phoff)).map_err(read)?;
        let mut segments = vec![Elf64_Phdr::default(); usize::from(header.e_phnum)];
        for segment in &mut segments {
            file.read_exact(segment.as_mut_slice()).map_err(read)?;
        }
        let mut notes = Vec::new();
        for segment in &segments {
            let end = segment.p_offset.checked_add(segment.p_filesz);
            if end.is_none_or(|end| end > file_bytes) {
                return Err(not("it is an ELF file cut short".into()));
            }
            if segment.p_type == PT_NOTE && segment.p_filesz <= NOTES_SIZE_BYTES_MAX {
                let mut bytes = vec![0; segment.p_filesz as usize];
                file.seek(SeekFrom::Start(segment.p_offset)).map_err(read)?;
                file.read_exact(&mut bytes).map_err(read)?;
                notes.extend(parse_notes(&bytes));
            }
        }
        segments.retain(|segment| segment.p_type == PT_LOAD && segment.p_memsz > 0);
        if segments.is_empty() {
            return Err(not("it is an ELF file with nothing to load".into()));
        }
        Ok(Program {
            path: kernel.path().into(),
            entry: header.e_entry,
            notes,
            segments,
            file,
        })
    }

    /// Puts the segments at their physical addresses and gives the end of the highest one. Memory
    /// that a segment has beyond the file must be zero already.
    pub(super) fn load<M: GuestMemoryBackend>(&mut self, memory: &M, ram_end: u64) -> Result<u64> {
        let mut end_max = 0;
        for segment in &self.segments {
            if segment.p_filesz > segment.p_memsz {
                return Err(
                    self.not_bootable("an ELF segment is larger in the file than in memory".into())
                );
            }
            let end = segment.p_paddr.checked_add(segment.p_memsz);
            match end {
                Some(end) if segment.p_paddr >= layout::HIMEM && end <= ram_end => {
                    end_max = end_max.max(end)
                }
                _ => {
                    return Err(BootError::DoesNotFit {
                        what: format!("an ELF segment of {}", self.path.display()),
                        size_bytes: segment.p_memsz,
                        why: format!(
                            "it goes to {:#x}, RAM for it is from {:#x} to {ram_end:#x}",
                            segment.p_paddr,
                            layout::HIMEM
                        ),
                    });
                }
            }
        }
        if !self
            .segments
            .iter()
            .any(|s| (s.p_paddr..s.p_paddr + s.p_memsz).contains(&self.entry))
        {
            return Err(self.not_bootable(format!(
                "its ELF entry {:#x} lies in no segment",
                self.entry
            )));
        }
        Elf::load(memory, None, &mut self.file, None)
            .map_err(|error| self.not_bootable(format!("loading it failed: {error}")))?;
        Ok(end_max)
    }

    pub(super) fn not_bootable(&self, why: String) -> BootError {
        BootError::NotAKernel {
            path: self.path.clone(),
            why,
        }
    }
}

/// Says what is wrong with an ELF header, if anything.
fn check_header(header: &Elf64_Ehdr) -> std::result::Result<(), String> {
    let (class, order) = (header.e_ident[4], header.e_ident[5]);
    if class != ELFCLASS64 {
        return Err("it is a 32-bit ELF file".into());
    }
    if order != ELFDATA2LSB || header.e_machine != EM_X86_64 {
        return Err(format!(
            "it is an ELF file for another machine ({})",
            machine_name(header.e_machine)
        ));
    }
    if header.e_type != ET_EXEC {
        let what = match header.e_type {
            1 => "a relocatable object or kernel module",
            3 => "a position-independent program or shared library",
            4 => "a core dump",
            _ => "not executable",
        };
        return Err(format!("it is an ELF file that is {what}"));
    }
    if usize::from(header.e_phentsize) != size_of::<Elf64_Phdr>() || header.e_phnum > SEGMENTS_MAX {
        return Err("its ELF program headers are of an unknown form".into());
    }
    if (header.e_phoff as usize) < size_of::<Elf64_Ehdr>() {
        return Err("its ELF program headers overlap the file header".into());
    }
    Ok(())
}

fn machine_name(machine: u16) -> String {
    match machine {
        3 => "i386".into(),
        8 => "MIPS".into(),
        20 | 21 => "PowerPC".into(),
        22 => "s390".into(),
        40 => "32-bit ARM".into(),
        183 => "ARM64".into(),
        243 => "RISC-V".into(),
        other => format!("number {other}"),
    }
}

/// Takes notes apart until the first malformed one.
pub(super) fn parse_notes(mut bytes: &[u8]) -> Vec<Note> {
    fn take<'a>(bytes: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = bytes.split_at_checked(count)?;
        *bytes = rest;
        Some(taken)
    }
    fn word(bytes: &mut &[u8]) -> Option<u32> {
        take(bytes, 4)
            .and_then(|word| word.try_into().ok())
            .map(u32::from_le_bytes)
    }
    /// `count` bytes and their padding, which the last field may lack.
    fn padded<'a>(bytes: &mut &'a [u8], count: u32) -> Option<&'a [u8]> {
        let count = usize::try_from(count).ok()?;
        let field = take(bytes, count)?;
        let padding = count.wrapping_neg() % 4;
        take(bytes, padding.min(bytes.len()))?;
        Some(field)
    }
    let mut notes = Vec::new();
    let mut next = || {
        let (name_bytes, desc_bytes, kind) =
            (word(&mut bytes)?, word(&mut bytes)?, word(&mut bytes)?);
        let owner = padded(&mut bytes, name_bytes)?;
        let desc = padded(&mut bytes, desc_bytes)?;
        Some(Note {
            owner: owner.strip_suffix(b"\0").unwrap_or(owner).to_vec(),
            kind,
            desc: desc.to_vec(),
        })
    };
    while let Some(note) = next() {
        notes.push(note);
    }
    notes
}
