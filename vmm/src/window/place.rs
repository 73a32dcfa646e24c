//! Guest physical addresses of windows: behind RAM, each with room of its own.

use crate::memory::{HIGH_RAM_START, gpa_of};

/// Room for one window, in bytes.
pub const ROOM_BYTES: u64 = 16 << 30;
/// Linux adds persistent memory in sections of 128 MiB, and reports a conflict with RAM in the same
/// gigabyte.
const ALIGN_BYTES: u64 = 1 << 30;

/// Guest physical address of window `index`, behind `memory_bytes` of RAM.
pub fn gpa(memory_bytes: u64, index: usize) -> u64 {
    let behind_ram = gpa_of(memory_bytes).max(HIGH_RAM_START);
    behind_ram.next_multiple_of(ALIGN_BYTES) + index as u64 * ROOM_BYTES
}

#[cfg(test)]
#[path = "place_test.rs"]
mod place_test;
