use super::*;
use crate::inspect::test_memory::taken;
use crate::memory::{HIGH_RAM_START, LOW_RAM_END};

const FRAME: u64 = 4096;

/// Memory where the last frame below the gap and the first two above it were written.
fn around_the_gap(
    kind: SnapshotKind,
    memory_bytes: u64,
) -> (tempfile::TempDir, Result<Memory, InspectError>) {
    let above = (LOW_RAM_END / CHUNK_SIZE_BYTES) as u32;
    taken(
        kind,
        memory_bytes,
        &[(above - 1, 511, 1), (above, 0, 2), (above, 1, 3)],
    )
}

fn read(memory: &Memory, address: u64, len: u64) -> Vec<u8> {
    let mut bytes = vec![0xee; len as usize];
    memory.read(address, &mut bytes).unwrap();
    bytes
}

#[test]
fn a_guests_memory_has_a_gap_below_4_gib() {
    let (_directory, memory) = around_the_gap(SnapshotKind::Vm, 4 << 30);
    let memory = memory.unwrap();
    assert_eq!(memory.end(), 5 << 30);
    assert_eq!(read(&memory, LOW_RAM_END - 1, 3), [1, 0, 0]);
    assert_eq!(read(&memory, HIGH_RAM_START - 2, 3), [0, 0, 2]);
    assert_eq!(read(&memory, HIGH_RAM_START + FRAME - 1, 2), [2, 3]);
    assert_eq!(read(&memory, memory.end() - 1, 3), [0, 0, 0]);
    assert_eq!(read(&memory, u64::MAX - 1, 1), [0]);
    let data = LOW_RAM_END - FRAME;
    assert_eq!(memory.next_data(0).unwrap(), Some(data));
    assert_eq!(memory.next_hole(data).unwrap(), LOW_RAM_END);
    for from in [LOW_RAM_END, LOW_RAM_END + 5, HIGH_RAM_START] {
        assert_eq!(memory.next_data(from).unwrap(), Some(HIGH_RAM_START));
    }
    assert_eq!(memory.next_hole(LOW_RAM_END + 5).unwrap(), LOW_RAM_END + 5);
    assert_eq!(
        memory.next_hole(HIGH_RAM_START).unwrap(),
        HIGH_RAM_START + 2 * FRAME
    );
    assert_eq!(memory.next_data(HIGH_RAM_START + 2 * FRAME).unwrap(), None);
    assert_eq!(memory.next_data(memory.end()).unwrap(), None);
    assert_eq!(memory.next_hole(memory.end()).unwrap(), memory.end());
}

#[test]
fn an_images_pages_have_none() {
    let (_directory, memory) = around_the_gap(SnapshotKind::Process, (4 << 30) - FRAME);
    let memory = memory.unwrap();
    assert_eq!(memory.end(), (4 << 30) - FRAME);
    assert_eq!(read(&memory, LOW_RAM_END - 1, 2), [1, 2]);
    assert_eq!(
        memory.next_hole(LOW_RAM_END - FRAME).unwrap(),
        LOW_RAM_END + 2 * FRAME
    );
}

#[test]
fn memory_of_a_size_that_no_vm_has_is_refused() {
    let (_directory, memory) = around_the_gap(SnapshotKind::Vm, (4 << 30) - FRAME);
    assert!(matches!(memory, Err(InspectError::Size { .. })));
}
