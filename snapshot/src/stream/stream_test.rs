use proptest::prelude::*;

use super::*;
use crate::error::{Error, Result};
use crate::identity::{BaseId, ContentRoot, Identity};
use crate::layout::inode::SnapshotKind;
use crate::number::{BLOCK_SIZE_BYTES, CHUNK_BLOCKS, CHUNK_SIZE_BYTES, ChunkIndex, FrameSet};

const PRELUDE_BYTES: usize = 16;
const RECORD_BYTES: usize = 48;

fn header(base: bool) -> StreamHeader {
    let root = |byte| ContentRoot::from_bytes([byte; 32]);
    StreamHeader {
        root: root(3),
        frames_written: Some(6 * u64::from(CHUNK_BLOCKS)),
        base: base.then(|| BaseOf {
            id: BaseId::Content(root(4).unwrap()),
            name: "before".to_owned(),
        }),
        ..header_of_version_1(base)
    }
}

fn header_of_version_1(base: bool) -> StreamHeader {
    StreamHeader {
        root: None,
        frames_written: None,
        identity: Identity::from_bytes([1; 16]).unwrap(),
        base: base.then(|| BaseOf {
            id: BaseId::Identity(Identity::from_bytes([2; 16]).unwrap()),
            name: "before".to_owned(),
        }),
        parent: Identity::from_bytes([2; 16]),
        kind: SnapshotKind::Vm,
        name: "web@7".to_owned(),
        memory_bytes: 5 * CHUNK_SIZE_BYTES + 3 * BLOCK_SIZE_BYTES,
        disks: Vec::new(),
        created_unix_ns: 12,
        frames_mapped: 9,
        frames_new: 4,
        state_bytes: 5,
        spec: "{\"vcpus\": 2}".to_owned(),
    }
}

fn chunk(index: u32, written: &[u32], emptied: &[u32]) -> ChunkRecord {
    let set = |frames: &[u32]| {
        let mut set = FrameSet::EMPTY;
        frames.iter().for_each(|frame| {
            set.insert(*frame);
        });
        set
    };
    let written = set(written);
    let content = written.iter().flat_map(|frame| {
        let byte = (frame + index) as u8;
        (0..BLOCK_SIZE_BYTES).map(move |at| byte.wrapping_mul(at as u8 | 1))
    });
    ChunkRecord {
        map: 0,
        index: ChunkIndex::new(index),
        written,
        emptied: set(emptied),
        content: content.collect(),
    }
}

fn written(header: &StreamHeader, state: &[u8], chunks: &[ChunkRecord]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut writer = StreamWriter::begin(&mut bytes, header, 3).unwrap();
    writer.state(state).unwrap();
    for chunk in chunks {
        writer
            .chunk(
                chunk.map,
                chunk.index,
                &chunk.written,
                &chunk.emptied,
                &chunk.content,
            )
            .unwrap();
    }
    let (_, said) = writer.finish().unwrap();
    assert_eq!(said, bytes.len() as u64);
    bytes
}

/// All that a stream holds, if it is whole.
fn read(mut bytes: &[u8]) -> Result<(StreamHeader, Vec<u8>, Vec<ChunkRecord>)> {
    let mut reader = StreamReader::begin(&mut bytes)?;
    let header = reader.header().clone();
    let (mut state, mut chunks) = (None, Vec::new());
    loop {
        match reader.next()? {
            Item::State(bytes) => state = Some(bytes),
            Item::Chunk(chunk) => chunks.push(chunk.clone()),
            Item::End(totals) => {
                assert_eq!(totals.chunks, chunks.len() as u64);
                return Ok((header, state.expect("a state comes first"), chunks));
            }
        }
    }
}

fn small() -> Vec<u8> {
    let chunks = [
        chunk(0, &[3], &[9]),
        chunk(2, &[], &[0]),
        chunk(5, &[0, 2], &[1]),
    ];
    written(&header(true), b"state", &chunks)
}

/// Offsets of its records, and of the end.
fn bounds(bytes: &[u8]) -> Vec<usize> {
    let mut bounds = vec![PRELUDE_BYTES];
    while let Some(at) = bounds.last().copied().filter(|at| *at < bytes.len()) {
        let length = u32::from_le_bytes(bytes[at + 4..at + 8].try_into().unwrap());
        bounds.push(at + RECORD_BYTES + length as usize);
    }
    bounds
}

#[test]
fn a_stream_with_any_byte_changed_is_refused() {
    let bytes = small();
    assert!(bytes.len() < 3000, "each byte is tried: {}", bytes.len());
    assert!(read(&bytes).is_ok());
    for at in 0..bytes.len() {
        for change in [1, 0x80, 0xff] {
            let mut changed = bytes.clone();
            changed[at] ^= change;
            assert!(read(&changed).is_err(), "byte {at} ^ {change:#x}");
        }
    }
}

#[test]
fn a_stream_that_ends_anywhere_before_its_end_is_one_that_was_cut_off() {
    let bytes = small();
    for len in 0..bytes.len() {
        let cut = read(&bytes[..len]);
        assert!(matches!(cut, Err(Error::StreamCut)), "{len} bytes: {cut:?}");
    }
    let mut longer = bytes.clone();
    longer.push(0);
    assert!(matches!(read(&longer), Err(Error::StreamDamaged { .. })));
    longer.pop();
    longer.extend_from_slice(&bytes);
    assert!(matches!(read(&longer), Err(Error::StreamDamaged { .. })));
}

#[test]
fn records_left_out_repeated_exchanged_or_of_another_stream_are_refused() {
    let bytes = small();
    let other = {
        let chunks = [
            chunk(0, &[3], &[9]),
            chunk(2, &[], &[0]),
            chunk(5, &[0, 2], &[1]),
        ];
        written(&header(true), b"STATE", &chunks)
    };
    let bounds = bounds(&bytes);
    let record = |number: usize| &bytes[bounds[number]..bounds[number + 1]];
    let records: Vec<&[u8]> = (0..bounds.len() - 1).map(record).collect();
    assert_eq!(records.len(), 6);
    let refused = |records: &[&[u8]], what: &str| {
        let stream = [&bytes[..PRELUDE_BYTES], &records.concat()].concat();
        assert!(read(&stream).is_err(), "{what}");
    };
    for number in 0..records.len() {
        let mut changed = records.clone();
        changed.remove(number);
        refused(&changed, &format!("without record {number}"));
        let mut changed = records.clone();
        changed.insert(number, records[number]);
        refused(&changed, &format!("record {number} twice"));
        for with in number + 1..records.len() {
            let mut changed = records.clone();
            changed.swap(number, with);
            refused(&changed, &format!("records {number} and {with} exchanged"));
        }
        let mut changed = records.clone();
        changed[number] = &other[bounds[number]..bounds[number + 1]];
        if changed[number] != records[number] {
            refused(&changed, &format!("record {number} of another stream"));
        }
    }
}

#[test]
fn what_is_no_stream_and_what_another_version_wrote_is_told_by_name() {
    assert!(matches!(read(&[7; 4096]), Err(Error::NotAStream)));
    assert!(matches!(read(&[0; 4096]), Err(Error::NotAStream)));
    let mut newer = small();
    newer[8] = 4;
    assert!(matches!(
        read(&newer),
        Err(Error::StreamVersion {
            found: 4,
            expected: 3
        })
    ));
}

/// With digests that fit: what a writer must not write.
#[test]
fn streams_that_make_no_sense_are_refused_with_good_digests() {
    let based = header(true);
    let refused = |header: &StreamHeader, state: &[u8], chunks: &[ChunkRecord], what: &str| {
        let refusal = read(&written(header, state, chunks))
            .unwrap_err()
            .to_string();
        assert!(refusal.contains(what), "{refusal}");
    };
    refused(&based, b"four", &[], "bytes, 5 are expected");
    refused(&based, b"sixsix", &[], "cannot be decompressed");
    refused(&based, b"state", &[chunk(6, &[0], &[])], "behind the end");
    refused(&based, b"state", &[chunk(5, &[3], &[])], "behind the end");
    refused(&based, b"state", &[chunk(5, &[], &[3])], "behind the end");
    refused(
        &based,
        b"state",
        &[chunk(u32::MAX, &[], &[3])],
        "behind the end",
    );
    refused(&based, b"state", &[chunk(1, &[], &[])], "makes no sense");
    refused(&based, b"state", &[chunk(1, &[1], &[1])], "makes no sense");
    let backwards = [chunk(2, &[1], &[]), chunk(1, &[1], &[])];
    refused(&based, b"state", &backwards, "indices must rise");
    let twice = [chunk(2, &[1], &[]), chunk(2, &[2], &[])];
    refused(&based, b"state", &twice, "indices must rise");
    let emptied = [chunk(1, &[], &[1])];
    refused(&header(false), b"state", &emptied, "the stream has no base");
    let short = ChunkRecord {
        content: vec![1; 4095],
        ..chunk(1, &[1], &[])
    };
    refused(&based, b"state", &[short], "bytes, 4096 are expected");
    let mut odd = header(false);
    odd.memory_bytes += 1;
    refused(&odd, b"state", &[], "impossible memory size");
    let mut large = header(false);
    large.state_bytes = 3 << 20;
    refused(
        &large,
        b"state",
        &[],
        "impossible length of the saved state",
    );
    let few = StreamHeader {
        frames_written: Some(2),
        ..header(true)
    };
    let chunks = [chunk(0, &[3, 4], &[9]), chunk(2, &[1], &[])];
    refused(&few, b"state", &chunks, "more than the 2 frames");
    assert!(read(&written(&few, b"state", &chunks[..1])).is_ok());
    let mut many = header(false);
    many.frames_written = Some(u64::MAX);
    refused(&many, b"state", &[], "more frames than the memory");
    let mut many = header(false);
    many.frames_mapped = u64::MAX;
    refused(&many, b"state", &[], "more frames than the memory");
}

#[test]
fn a_stream_of_version_1_is_read_as_it_was_written() {
    for base in [false, true] {
        let header = header_of_version_1(base);
        let chunks = [chunk(0, &[3], &[9][..usize::from(base)])];
        let bytes = written(&header, b"state", &chunks);
        assert_eq!(bytes[8..12], 1u32.to_le_bytes());
        let (found, state, found_chunks) = read(&bytes).unwrap();
        assert_eq!((found, &state[..]), (header, &b"state"[..]));
        assert_eq!(found_chunks, chunks);
    }
    let odd = StreamHeader {
        base: header(true).base,
        ..header_of_version_1(true)
    };
    let mut nowhere = Vec::new();
    let refused = StreamWriter::begin(&mut nowhere, &odd, 1);
    assert!(matches!(refused, Err(Error::InvalidSnapshot { .. })));
}

#[test]
fn a_record_that_says_it_is_huge_is_refused_before_it_is_read() {
    let bytes = small();
    for (number, at) in bounds(&bytes)[..6].iter().enumerate() {
        let mut changed = bytes[..at + RECORD_BYTES].to_vec();
        changed[at + 4..at + 8].copy_from_slice(&0xfff0_0000u32.to_le_bytes());
        let refusal = read(&changed).unwrap_err().to_string();
        assert!(
            refusal.contains(&format!(
                "record {number} says that it has 4293918720 bytes"
            )),
            "{refusal}"
        );
    }
}

fn any_chunk() -> impl Strategy<Value = ChunkRecord> {
    let words = || proptest::array::uniform8(any::<u64>());
    (0u32..64, words(), words(), 0u8..3).prop_map(|(index, first, second, density)| {
        let thin = |words: [u64; 8]| match density {
            0 => words.map(|word| word & 0x1000_0001),
            1 => words.map(|word| word & word.rotate_left(7)),
            _ => words,
        };
        let written = FrameSet::from_words(thin(first));
        let emptied = FrameSet::from_words(thin(second)).minus(&written);
        let frames: Vec<u32> = written.iter().collect();
        let emptied: Vec<u32> = emptied.iter().collect();
        chunk(index, &frames, &emptied)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn what_was_written_is_read(
        chunks in proptest::collection::vec(any_chunk(), 0..4),
        state in proptest::collection::vec(any::<u8>(), 0..9000),
    ) {
        let mut chunks = chunks;
        chunks.sort_by_key(|chunk| chunk.index);
        chunks.dedup_by_key(|chunk| chunk.index);
        chunks.retain(|chunk| !chunk.written.is_empty() || !chunk.emptied.is_empty());
        let header = StreamHeader {
            memory_bytes: 64 * CHUNK_SIZE_BYTES,
            frames_written: Some(64 * u64::from(CHUNK_BLOCKS)),
            frames_mapped: 64 * u64::from(CHUNK_BLOCKS),
            state_bytes: state.len() as u32,
            ..header(true)
        };
        let (found, found_state, found_chunks) = read(&written(&header, &state, &chunks)).unwrap();
        prop_assert_eq!(found, header);
        prop_assert_eq!(found_state, state);
        prop_assert!(found_chunks == chunks);
    }

    #[test]
    fn no_bytes_are_too_strange(
        bytes in proptest::collection::vec(any::<u8>(), 0..400),
        keep in 0usize..400,
    ) {
        let good = small();
        let stream = [&good[..keep.min(good.len())], &bytes[..]].concat();
        prop_assert!(read(&stream).is_err());
    }
}
