//! /proc/self/pagemap: what is behind this process's own pages.
//!
//! Source: the kernel's Documentation/admin-guide/mm/pagemap.rst.

use std::{fs::File, io, os::unix::fs::FileExt};

const ENTRY_SIZE_BYTES: usize = 8;
const PRESENT: u64 = 1 << 63;
const FILE: u64 = 1 << 61;

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

    /// Pages of `[start, start + 4096 * pages)` that are private copies, as page indexes from `start`: in a
    /// private mapping of a file, those that were written.
    pub fn private_pages(&self, start: usize, pages: usize) -> io::Result<Vec<usize>> {
        let mut entries = vec![0u8; pages * ENTRY_SIZE_BYTES];
        let offset = (start / crate::cow::FRAME_SIZE_BYTES * ENTRY_SIZE_BYTES) as u64;
        self.file.read_exact_at(&mut entries, offset)?;
        let private = entries
            .as_chunks::<ENTRY_SIZE_BYTES>()
            .0
            .iter()
            .enumerate()
            .filter(|(_, raw)| {
                let entry = u64::from_le_bytes(**raw);
                entry & PRESENT != 0 && entry & FILE == 0
            });
        Ok(private.map(|(index, _)| index).collect())
    }
}
