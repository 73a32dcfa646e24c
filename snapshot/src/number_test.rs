use super::*;

#[test]
fn blocks_and_chunks_convert() {
    let block = BlockNo::new(513);
    assert_eq!(
        (
            block.chunk().get(),
            block.index_in_chunk().get(),
            block.byte_offset()
        ),
        (1, 1, 513 * 4096)
    );
    assert_eq!(block.chunk().block(1), block);
    assert_eq!(BlockNo::from_byte_offset(513 * 4096), Some(block));
    assert_eq!(BlockNo::from_byte_offset(513 * 4096 + 1), None);
    assert_eq!(BlockNo::from_byte_offset(16 << 40), None);
    assert_eq!(ChunkNo::new(8_388_608), None);
    let last = ChunkNo::new(8_388_607).unwrap();
    assert_eq!(last.block(511), BlockNo::new(u32::MAX));
    assert_eq!(last.byte_offset() + CHUNK_SIZE_BYTES, 16 << 40);
    assert_eq!(last.blocks().count(), 512);
    assert_eq!(SnapshotId::new(0), None);
}

#[test]
fn a_frame_set_is_a_set() {
    let mut set = FrameSet::EMPTY;
    for index in [0, 63, 64, 511] {
        assert!(set.insert(index) && !set.insert(index));
    }
    assert_eq!(set.iter().collect::<Vec<_>>(), [0, 63, 64, 511]);
    assert_eq!((set.count(), set.iter_absent().count()), (4, 508));
    assert!(set.remove(63) && !set.remove(63) && !set.contains(63));
    assert!(
        FrameSet::FULL.is_full() && FrameSet::EMPTY.is_empty() && !set.is_full() && !set.is_empty()
    );
}

#[test]
fn frame_sets_combine_place_by_place() {
    let of = |places: &[u32]| {
        let mut set = FrameSet::EMPTY;
        places.iter().for_each(|place| _ = set.insert(*place));
        set
    };
    let (left, right) = (of(&[1, 64, 300]), of(&[64, 511]));
    assert_eq!(left.union(&right), of(&[1, 64, 300, 511]));
    assert_eq!(left.intersection(&right), of(&[64]));
    assert_eq!(left.minus(&right), of(&[1, 300]));
    let mut words = [0; 8];
    (words[1], words[7]) = (1, 1 << 63);
    assert_eq!(FrameSet::from_words(words), right);
}

#[test]
fn indices_of_a_map_convert() {
    let chunk = ChunkIndex::new(3);
    let frame = FrameIndex::new(5);
    assert_eq!(chunk.byte_offset(), 3 * CHUNK_SIZE_BYTES);
    assert_eq!(chunk.frame_number(frame), 3 * 512 + 5);
    let byte = chunk.byte_offset() + frame.byte_offset() + 4095;
    assert_eq!(
        (ChunkIndex::at_byte(byte), FrameIndex::at_byte(byte)),
        (chunk, frame)
    );
    assert_eq!(
        FrameIndex::of_frame_number(chunk.frame_number(frame)),
        frame
    );
    assert_eq!(ChunkIndex::at_byte(u64::MAX).get(), u32::MAX);
    assert_eq!(FrameIndex::new(513).get(), 1);
    assert_eq!(FrameIndex::all().last(), Some(FrameIndex::LAST));
    assert_eq!(FrameIndex::range(510..600).count(), 2);
}
