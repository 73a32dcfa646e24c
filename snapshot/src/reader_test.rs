//! Reads give the snapshot's memory and nothing else, also of one that is removed meanwhile.

use super::SnapshotReader;
use crate::test_snapshot::{Taken, of_vm, pool};
use crate::{CHUNK_SIZE_BYTES, Error};

const FRAME: u64 = 4096;
const FRAMES: [(u32, u32, u8); 6] = [
    (0, 0, 1),
    (0, 5, 2),
    (0, 511, 3),
    (1, 0, 4),
    (3, 7, 5),
    (3, 8, 6),
];

fn at(chunk: u32, frame: u32) -> u64 {
    u64::from(chunk) * CHUNK_SIZE_BYTES + u64::from(frame) * FRAME
}

fn read(reader: &SnapshotReader, offset: u64, len: u64) -> Vec<u8> {
    let mut bytes = vec![0xee; len as usize];
    reader.read(offset, &mut bytes).unwrap();
    bytes
}

#[test]
fn memory_is_read_at_any_place_and_length() {
    let (_directory, pool) = pool();
    let vm = pool.hold("vm").unwrap();
    of_vm("a", None, &FRAMES).by(&vm);
    let reader = pool.reader("a").unwrap();
    let size = reader.entry().memory_bytes;
    let mut expected = vec![0; size as usize];
    for (chunk, frame, with) in FRAMES {
        expected[at(chunk, frame) as usize..][..FRAME as usize].fill(with);
    }
    assert!(read(&reader, 0, size) == expected);
    for (offset, len) in [
        (1, 1),
        (4095, 2),
        (at(0, 511) - 10, 2 * FRAME + 20),
        (at(3, 7) + 100, 4000),
        (size - 3, 3),
        (size, 0),
    ] {
        let same = read(&reader, offset, len) == expected[offset as usize..][..len as usize];
        assert!(same, "{len} bytes at {offset}");
    }
    for (offset, len) in [(size, 1), (size - 1, 2), (u64::MAX, 1)] {
        let refused = reader.read(offset, &mut vec![0; len]);
        assert!(
            matches!(refused, Err(Error::InvalidSnapshot { .. })),
            "{refused:?}"
        );
    }
    assert_eq!(reader.state().unwrap(), b"state");
    assert_eq!(
        pool.reader_of(reader.entry().id).unwrap().entry(),
        reader.entry()
    );
}

#[test]
fn holes_are_found() {
    let (_directory, pool) = pool();
    let vm = pool.hold("vm").unwrap();
    of_vm("a", None, &FRAMES).by(&vm);
    let reader = pool.reader("a").unwrap();
    let size = reader.entry().memory_bytes;
    let mut stretches = Vec::new();
    let mut from = 0;
    while let Some(start) = reader.next_data(from).unwrap() {
        from = reader.next_hole(start).unwrap();
        stretches.push((start, from));
    }
    let expected = [
        (0, FRAME),
        (at(0, 5), at(0, 6)),
        (at(0, 511), at(1, 1)),
        (at(3, 7), at(3, 9)),
    ];
    assert_eq!(stretches, expected);
    assert_eq!(reader.next_data(7).unwrap(), Some(7));
    assert_eq!(reader.next_hole(at(0, 5) + 9).unwrap(), at(0, 6));
    assert_eq!(reader.next_hole(size - 1).unwrap(), size - 1);
    assert_eq!(reader.next_data(at(3, 9)).unwrap(), None);
    assert_eq!(
        (
            reader.next_data(size).unwrap(),
            reader.next_hole(size).unwrap()
        ),
        (None, size)
    );
    assert!(reader.next_data(size + 1).is_err());
}

#[test]
fn memory_without_a_hole_is_data_to_its_end() {
    let (_directory, pool) = pool();
    let vm = pool.hold("vm").unwrap();
    let frames: Vec<(u32, u32, u8)> = (0..512).map(|frame| (0, frame, frame as u8)).collect();
    let whole = Taken {
        memory_chunks: 1,
        ..of_vm("whole", None, &frames)
    };
    whole.by(&vm);
    let reader = pool.reader("whole").unwrap();
    assert_eq!(reader.next_hole(0).unwrap(), CHUNK_SIZE_BYTES);
    let bytes = read(&reader, 0, CHUNK_SIZE_BYTES);
    let frames: Vec<u8> = bytes.chunks(FRAME as usize).map(|frame| frame[0]).collect();
    assert_eq!(
        frames,
        (0..512).map(|frame| frame as u8).collect::<Vec<u8>>()
    );
}

#[test]
fn a_snapshot_that_was_removed_is_not_read_but_by_who_pins_it_still() {
    let (_directory, pool) = pool();
    let vm = pool.hold("vm").unwrap();
    of_vm("a", None, &FRAMES).by(&vm);
    let reader = pool.reader("a").unwrap();
    pool.remove("a").unwrap();
    // The VM that it was taken of pins it.
    assert_eq!(read(&reader, 0, 2), [1, 1]);
    assert!(pool.reader("a").is_err());
    drop(vm);
    // Its blocks are somebody else's by now.
    let other = pool.hold("other").unwrap();
    of_vm("a", None, &[(0, 0, 99), (0, 5, 99), (0, 511, 99)]).by(&other);
    let mut bytes = [0; 8];
    let refused = [
        reader.read(0, &mut bytes).err(),
        reader.next_data(0).err(),
        reader.next_hole(0).err(),
        reader.state().err(),
        pool.reader_of(reader.entry().id).err(),
    ];
    for error in refused {
        assert!(matches!(error, Some(Error::NotFound { .. })), "{error:?}");
    }
}
