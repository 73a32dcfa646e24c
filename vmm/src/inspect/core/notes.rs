//! The notes of a core file.

use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::arch::{self, VcpuStateV1};

/// `Elf64_Nhdr` (elf.h): name and description follow, each with zeros up to a multiple of four.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct NoteHeader {
    /// Length of the name, with the zero that ends it.
    pub name_bytes: U32,
    /// Length of the description.
    pub desc_bytes: U32,
    /// Type of the note, in the numbers of its name.
    pub kind: U32,
}

/// The notes of all vCPUs, in their order.
pub fn of_vcpus(vcpus: &[VcpuStateV1]) -> Vec<u8> {
    let mut notes = Vec::new();
    for note in arch::core_notes(vcpus) {
        add(&mut notes, note.name, note.kind, &note.desc);
    }
    notes
}

/// Appends a note.
pub fn add(notes: &mut Vec<u8>, name: &str, kind: u32, desc: &[u8]) {
    let header = NoteHeader {
        name_bytes: U32::new(name.len() as u32 + 1),
        desc_bytes: U32::new(desc.len() as u32),
        kind: U32::new(kind),
    };
    notes.extend_from_slice(header.as_bytes());
    for part in [[name.as_bytes(), &[0]].concat(), desc.to_vec()] {
        notes.extend(part);
        notes.resize(notes.len().next_multiple_of(4), 0);
    }
}
