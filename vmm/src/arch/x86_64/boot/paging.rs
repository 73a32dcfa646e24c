//! The page tables that a guest starts with, in pages of 2 MiB.

use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

use super::Result;
use super::error::at;
use super::layout::{FLAT_DEVICES_GIB, FLAT_DEVICES_PD, PD, PDPT, PML4, VIRTIO_MMIO};
use crate::memory::gpa_of;

const ENTRY_PRESENT_WRITE: u64 = 0x3;
const ENTRY_USER: u64 = 0x4;
/// Set from the start, so that no CPU has to write the tables later.
const ENTRY_ACCESSED: u64 = 0x20;
const ENTRY_DIRTY: u64 = 0x40;
const ENTRY_LARGE: u64 = 0x80;
const GIB: u64 = 1 << 30;
const LARGE_PAGE: u64 = 2 << 20;

/// Maps the first 4 GiB one to one, for kernel mode.
pub(super) fn write_identity_map<M: GuestMemoryBackend>(memory: &M) -> Result<()> {
    write_map(memory, 4 * GIB, 0, |address| address)
}

/// Maps `size_bytes` of RAM from address 0 on, without the hole for devices, and the registers of
/// the devices far behind, for user mode too.
pub(super) fn write_flat_map<M: GuestMemoryBackend>(memory: &M, size_bytes: u64) -> Result<()> {
    write_map(memory, size_bytes, ENTRY_USER, gpa_of)?;
    let table = ENTRY_PRESENT_WRITE | ENTRY_ACCESSED | ENTRY_USER;
    put(memory, PDPT + FLAT_DEVICES_GIB * 8, FLAT_DEVICES_PD | table)?;
    let page = VIRTIO_MMIO | table | ENTRY_DIRTY | ENTRY_LARGE;
    put(memory, FLAT_DEVICES_PD, page)
}

fn put<M: GuestMemoryBackend>(memory: &M, gpa: u64, entry: u64) -> Result<()> {
    memory
        .write_obj(entry, GuestAddress(gpa))
        .map_err(at("page tables", gpa))
}

fn write_map<M: GuestMemoryBackend>(
    memory: &M,
    size_bytes: u64,
    user: u64,
    gpa_at: impl Fn(u64) -> u64,
) -> Result<()> {
    let table = ENTRY_PRESENT_WRITE | ENTRY_ACCESSED | user;
    put(memory, PML4, PDPT | table)?;
    for gib in 0..size_bytes.div_ceil(GIB) {
        put(memory, PDPT + gib * 8, (PD + gib * 0x1000) | table)?;
    }
    for page in 0..size_bytes.div_ceil(LARGE_PAGE) {
        put(
            memory,
            PD + page * 8,
            gpa_at(page * LARGE_PAGE) | table | ENTRY_DIRTY | ENTRY_LARGE,
        )?;
    }
    Ok(())
}
