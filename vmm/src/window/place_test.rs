use super::*;
use crate::memory::{LOW_RAM_END, ram_ranges};

#[test]
fn windows_are_behind_ram_and_apart() {
    for memory_bytes in [2 << 20, LOW_RAM_END, LOW_RAM_END + (2 << 20), 40 << 30] {
        let ram_end = ram_ranges(memory_bytes)
            .last()
            .map(|last| last.gpa + last.size_bytes);
        let first = gpa(memory_bytes, 0);
        assert!(
            Some(first) >= ram_end && first >= 4 << 30,
            "{memory_bytes:#x}"
        );
        assert_eq!(gpa(memory_bytes, 3), first + 3 * ROOM_BYTES);
    }
}
