//! /proc/self/pagemap: what is behind this process's own pages.
//!
//! Source: the kernel's Documentation/admin-guide/mm/pagemap.rst.

use std::{fs::File, io, os::unix::fs::FileExt};

const ENTRY_SIZE_BYTES: usize = 8;
const PRESENT: u64 = 1 << 63;
const SWAP: u64 = 1 << 62;
const FILE: u64 = 1 << 61;
/// Page frame, or swap type and offset. Zero to a process without CAP_SYS_ADMIN.
const PLACE: u64 = (1 << 55) - 1;

/// What is behind a page of a private, armed mapping of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageKind {
    /// The file's page, or nothing yet.
    Untouched,
    /// A private copy, be it in memory, swapped out or being moved: the page was written.
    Written,
    /// Nothing yet, or a private copy that is swapped out or being moved: this process may not
    /// know. Reading the page clears it up.
    Unclear,
}

/// An open pagemap of this process.
#[derive(Debug)]
pub struct Pagemap {
    file: File,
}

impl Pagemap {
    /// Opens it; needs no privilege.
    pub fn open() -> io::Result<Self> {
        Ok(Self {
            file: File::open("/proc/self/pagemap")?,
        })
    }

    /// What is behind each of the pages of `[start, start + 4096 * pages)`, which are a private
    /// mapping of a file, armed after it was made.
    pub fn pages(&self, start: usize, pages: usize) -> io::Result<Vec<PageKind>> {
        let mut entries = vec![0u8; pages * ENTRY_SIZE_BYTES];
        let offset = (start / crate::cow::FRAME_SIZE_BYTES * ENTRY_SIZE_BYTES) as u64;
        self.file.read_exact_at(&mut entries, offset)?;
        let entries = entries.as_chunks::<ENTRY_SIZE_BYTES>().0;
        Ok(entries
            .iter()
            .map(|raw| kind(u64::from_le_bytes(*raw)))
            .collect())
    }
}

fn kind(entry: u64) -> PageKind {
    let place = entry & PLACE;
    match (entry & PRESENT != 0, entry & SWAP != 0) {
        _ if entry & FILE != 0 => PageKind::Untouched,
        (true, _) => PageKind::Written,
        (false, false) => PageKind::Untouched,
        (false, true) if place == 0 => PageKind::Unclear,
        (false, true) if is_write_protect_marker(place) => PageKind::Untouched,
        (false, true) => PageKind::Written,
    }
}

/// An armed page that is not there is a marker in the page table, which pagemap shows as if it was
/// swapped out, to a swap file of a type that none has: the last (Linux 5.19, and 6.3 on) or the
/// last but one.
fn is_write_protect_marker(place: u64) -> bool {
    let (swap_type, marks) = (place & 0x1f, place >> 5);
    swap_type >= 30 && marks & 1 == 1 && marks < 8
}

#[cfg(test)]
#[path = "pagemap_test.rs"]
mod pagemap_test;
