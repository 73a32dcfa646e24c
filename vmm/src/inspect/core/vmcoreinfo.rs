//! VMCOREINFO, a Linux kernel's note for readers of its cores: its release, where its
//! symbols are, how it is laid out.
//!
//! A kernel keeps it ready as an ELF note at the begin of a page (kernel/vmcore_info.c,
//! `update_vmcoreinfo_note`). Memory is looked through for that: nvvmm booted the guest, but knows
//! of no address in it.

use std::mem::size_of;

use zerocopy::FromBytes;

use super::notes::NoteHeader;
use super::{COPY_BYTES, PAGE_BYTES};
use crate::arch::Mapped;
use crate::inspect::{InspectError, Memory};

/// The note's name, and as in memory: with zeros up to a multiple of four.
pub const NAME: &str = "VMCOREINFO";
const NAME_PADDED: &[u8; 12] = b"VMCOREINFO\0\0";
/// The text begins with it.
const FIRST_LINE: &[u8] = b"OSRELEASE=";
/// `VMCOREINFO_BYTES`: no text is longer.
const TEXT_BYTES_MAX: usize = PAGE_BYTES as usize;
/// Offset of the text in the page.
const TEXT_AT: usize = size_of::<NoteHeader>() + NAME_PADDED.len();
/// Address of the kernel's code.
const TEXT_SYMBOL: &str = "SYMBOL(_stext)=";

/// The text of the kernel that runs: of several, as an earlier kernel may have left one, that whose
/// code is mapped. None where no Linux is. `on_progress` is told how many bytes were looked
/// through.
///
/// # Errors
/// [`InspectError::Pool`], also when the snapshot was removed.
pub fn find(
    memory: &Memory,
    mapped: &[Mapped],
    on_progress: &mut dyn FnMut(u64),
) -> Result<Option<Vec<u8>>, InspectError> {
    let mut first = None;
    let mut buffer = vec![0; COPY_BYTES as usize];
    let (mut from, mut done) = (0, 0);
    while let Some(data) = memory.next_data(from)? {
        let stop = memory.next_hole(data)?.min(data + COPY_BYTES);
        let piece = &mut buffer[..(stop - data) as usize];
        memory.read(data, piece)?;
        for (page, number) in piece.chunks(PAGE_BYTES as usize).zip(0..) {
            let Some(bytes) = text_bytes(page) else {
                continue;
            };
            let mut text = vec![0; bytes];
            memory.read(data + number * PAGE_BYTES + TEXT_AT as u64, &mut text)?;
            if is_mapped(&text, mapped) {
                return Ok(Some(text));
            }
            first.get_or_insert(text);
        }
        from = stop;
        done += piece.len() as u64;
        on_progress(done);
    }
    Ok(first)
}

/// Release of the kernel, from a note's text.
pub fn release(text: &[u8]) -> String {
    let line = text[FIRST_LINE.len()..].split(|byte| *byte == b'\n').next();
    String::from_utf8_lossy(line.unwrap_or_default()).into_owned()
}

/// Length of the note's text, if a page begins with one.
fn text_bytes(page: &[u8]) -> Option<usize> {
    let (header, rest) = NoteHeader::read_from_prefix(page).ok()?;
    let bytes = header.desc_bytes.get() as usize;
    let is_note = header.name_bytes.get() as usize == NAME.len() + 1 && header.kind.get() == 0;
    let starts = rest
        .strip_prefix(NAME_PADDED)
        .is_some_and(|text| text.starts_with(FIRST_LINE));
    (is_note && starts && (FIRST_LINE.len()..=TEXT_BYTES_MAX).contains(&bytes)).then_some(bytes)
}

fn is_mapped(text: &[u8], mapped: &[Mapped]) -> bool {
    let text = String::from_utf8_lossy(text);
    let code = text.lines().find_map(|line| line.strip_prefix(TEXT_SYMBOL));
    let Some(code) = code.and_then(|code| u64::from_str_radix(code, 16).ok()) else {
        return false;
    };
    mapped
        .iter()
        .any(|range| (range.virt..range.virt.saturating_add(range.bytes)).contains(&code))
}

#[cfg(test)]
#[path = "vmcoreinfo_test.rs"]
mod vmcoreinfo_test;
