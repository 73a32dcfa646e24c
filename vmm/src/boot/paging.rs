//! The page tables that a guest starts with: identity map in 2 MiB pages.

use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

use super::error::at;
use super::layout::{PD, PDPT, PML4};
use super::{BootError, Result};

const ENTRY_PRESENT_WRITE: u64 = 0x3;
const ENTRY_USER: u64 = 0x4;
/// Set beforehand, so that no CPU has to write the tables later.
const ENTRY_ACCESSED: u64 = 0x20;
const ENTRY_DIRTY: u64 = 0x40;
const ENTRY_LARGE: u64 = 0x80;
const GIB: u64 = 1 << 30;
const LARGE_PAGE: u64 = 2 << 20;

/// Identity-maps `[0, end)`, up to 4 GiB, for kernel mode or (`user`) for user mode too.
pub(super) fn write_identity_map<M: GuestMemoryBackend>(memory: &M, end: u64, user: bool) -> Result<()> {
    let table = ENTRY_PRESENT_WRITE | ENTRY_ACCESSED | if user { ENTRY_USER } else { 0 };
    let put = |gpa: u64, entry: u64| -> std::result::Result<(), BootError> {
        memory
            .write_obj(entry, GuestAddress(gpa))
            .map_err(at("page tables", gpa))
    };
    put(PML4, PDPT | table)?;
    for gib in 0..end.min(4 * GIB).div_ceil(GIB) {
        put(PDPT + gib * 8, (PD + gib * 0x1000) | table)?;
    }
    for page in 0..end.min(4 * GIB).div_ceil(LARGE_PAGE) {
        put(
            PD + page * 8,
            (page * LARGE_PAGE) | table | ENTRY_DIRTY | ENTRY_LARGE,
        )?;
    }
    Ok(())
}
