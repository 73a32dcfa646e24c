use nvvmm_snapshot::{ChunkIndex, FrameSet};
use vm_memory::{
    Bytes, GuestAddress, GuestMemoryBackend,
    bitmap::{Bitmap, BitmapSlice},
};

use super::*;

const MIB: u64 = 1 << 20;

fn frames(written: &WrittenFrames) -> Vec<(u32, Vec<u32>)> {
    written
        .take()
        .map(|(chunk, frames)| (chunk.get(), frames.iter().collect()))
        .collect()
}

#[test]
fn every_way_to_write_is_noted_under_its_ram_offset() {
    let (ram, written) = GuestRam::reserve_noting_writes(LOW_RAM_END + 4 * MIB).unwrap();
    let memory = ram.memory();
    memory.write_obj(1u64, GuestAddress(0x1ffc)).unwrap();
    assert_eq!(
        frames(&written),
        [(0, vec![1, 2])],
        "a write across frames is one to both"
    );
    memory
        .store(
            7u16,
            GuestAddress(HIGH_RAM_START + 2 * MIB + 0x5000),
            std::sync::atomic::Ordering::Release,
        )
        .unwrap();
    let first_high = (LOW_RAM_END / (2 * MIB)) as u32;
    assert_eq!(
        frames(&written),
        [(first_high + 1, vec![5])],
        "there is no hole in RAM offsets"
    );
    let slice = memory.get_slice(GuestAddress(4 * MIB), 0x3000).unwrap();
    let part = slice.subslice(0x1000, 0x1000).unwrap();
    part.bitmap().mark_dirty(0, part.len());
    part.write_obj(3u8, 0).unwrap();
    assert_eq!(
        frames(&written),
        [(2, vec![1])],
        "a slice of a slice knows where it is"
    );
    memory
        .read_volatile_from(GuestAddress(0), &mut &[1u8; 0x1001][..], 0x1001)
        .unwrap();
    assert_eq!(
        frames(&written),
        [(0, vec![0, 1])],
        "reading a file into memory writes it"
    );
    let _: u64 = memory.read_obj(GuestAddress(0x9000)).unwrap();
    assert_eq!(frames(&written), [], "reading memory does not");
}

#[test]
fn a_look_leaves_the_bits_where_they_are() {
    let written = WrittenFrames::new(64 * MIB);
    written.mark_dirty(0x3000, 1);
    let mut expected = FrameSet::EMPTY;
    expected.insert(3);
    assert_eq!(
        written.peek().collect::<Vec<_>>(),
        [(ChunkIndex::FIRST, expected)]
    );
    assert_eq!(
        written.take().collect::<Vec<_>>(),
        [(ChunkIndex::FIRST, expected)]
    );
    assert_eq!(written.peek().count(), 0);
}

#[test]
fn nothing_is_noted_behind_the_end_or_for_no_bytes() {
    let written = WrittenFrames::new(2 * MIB);
    written.mark_dirty(1 << 40, 5);
    written.mark_dirty(0, 0);
    assert_eq!(written.peek().count(), 0);
}

#[test]
fn memory_that_notes_nothing_takes_the_same_calls() {
    fn of<B: BitmapSlice>(bitmap: B) -> bool {
        bitmap.mark_dirty(0, 4096);
        bitmap.dirty_at(0)
    }
    let ram = GuestRam::reserve(2 * MIB).unwrap();
    let slice = ram.memory().get_slice(GuestAddress(0), 4096).unwrap();
    assert!(!of(*slice.bitmap()));
}
