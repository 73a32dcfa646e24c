//! /proc/self/pagemap: the kinds of pages behind this process's own addresses.
//!
//! Source: the kernel's Documentation/admin-guide/mm/pagemap.rst.

use std::{fs::File, io, os::unix::fs::FileExt, sync::OnceLock};

use nvvmm_snapshot::{Resource, ask_for};

use super::PAGE_SIZE_BYTES;

const PATH: &str = "/proc/self/pagemap";
static KEPT: OnceLock<File> = OnceLock::new();
const ENTRY_SIZE_BYTES: usize = 8;
const PRESENT: u64 = 1 << 63;
const SWAP: u64 = 1 << 62;
const FILE: u64 = 1 << 61;
/// Page frame, or swap type and offset. Zero to a process without CAP_SYS_ADMIN.
const LOCATION: u64 = (1 << 55) - 1;

/// Kinds of pages of a private, armed mapping of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageKind {
    /// The file's page, or nothing yet.
    Untouched,
    /// A private copy, be it in memory, swapped out or being moved: the page was written.
    Written,
    /// Nothing yet, or a private copy that is swapped out or being moved: the kernel does not tell
    /// this process which. After the page was read, the kernel tells.
    Unclear,
}

/// An open pagemap of this process.
#[derive(Debug)]
pub struct Pagemap {
    file: File,
}

impl Pagemap {
    /// Opens the file. This needs no privilege.
    pub fn open() -> io::Result<Self> {
        let kept = KEPT.get().map(File::try_clone);
        ask_for(Resource::Descriptor)?;
        Ok(Self {
            file: kept.unwrap_or_else(|| File::open(PATH))?,
        })
    }

    /// Opens the file once for this process to come, which may be unable to open it later.
    pub fn keep() -> io::Result<()> {
        if KEPT.get().is_none() {
            let _ = KEPT.set(File::open(PATH)?);
        }
        Ok(())
    }

    /// Kind of each of the pages of `[start, start + 4096 * pages)`, which are a private mapping of
    /// a file, armed after it was made.
    pub fn pages(&self, start: usize, pages: usize) -> io::Result<Vec<PageKind>> {
        let entries = self.entries(start, pages)?;
        Ok(entries.into_iter().map(kind).collect())
    }

    /// Number of pages of the range that are in the page tables.
    pub fn present(&self, start: usize, pages: usize) -> io::Result<u32> {
        let entries = self.entries(start, pages)?;
        let present = entries.iter().filter(|entry| *entry & PRESENT != 0);
        Ok(present.count() as u32)
    }

    fn entries(&self, start: usize, pages: usize) -> io::Result<Vec<u64>> {
        let mut entries = vec![0u8; pages * ENTRY_SIZE_BYTES];
        let offset = (start / PAGE_SIZE_BYTES * ENTRY_SIZE_BYTES) as u64;
        self.file.read_exact_at(&mut entries, offset)?;
        let entries = entries.as_chunks::<ENTRY_SIZE_BYTES>().0;
        Ok(entries.iter().copied().map(u64::from_le_bytes).collect())
    }
}

fn kind(entry: u64) -> PageKind {
    let location = entry & LOCATION;
    match (entry & PRESENT != 0, entry & SWAP != 0) {
        _ if entry & FILE != 0 => PageKind::Untouched,
        (true, _) => PageKind::Written,
        (false, false) => PageKind::Untouched,
        (false, true) if location == 0 => PageKind::Unclear,
        (false, true) if is_write_protect_marker(location) => PageKind::Untouched,
        (false, true) => PageKind::Written,
    }
}

/// True for the marker of an armed page that is not populated. pagemap shows the marker like a page
/// that is swapped out to a swap file of a type that no file has: the last type (Linux 5.19, and
/// from 6.3 on) or the last but one.
fn is_write_protect_marker(location: u64) -> bool {
    let (swap_type, marks) = (location & 0x1f, location >> 5);
    swap_type >= 30 && marks & 1 == 1 && marks < 8
}

#[cfg(test)]
#[path = "pagemap_test.rs"]
mod pagemap_test;
