//! Streams that `nvvmm receive` reads, and the pool that receives them.
//!
//! The first byte chooses how the rest becomes a stream: unchanged; with the digests of its records
//! made right; of records that the rest describes; or as a sealed stream. It also chooses whether
//! the stream is received in a pool, and for described records the format version, whether the
//! header tells the truth, and whether bytes are changed afterwards.
//!
//! A stream that a reader accepts can be written, and is then read unchanged. After any stream, the
//! pool is in order. It has either the snapshot, with the content that the header names, or an
//! incomplete one that can be removed.

use std::collections::BTreeMap;
use std::io::Read;
use std::ops::ControlFlow;
use std::sync::LazyLock;

use nvvmm_snapshot::stream::sealed::{Key, Opening};
use nvvmm_snapshot::stream::{
    BaseOf, ChunkDigest, ChunkRecord, Item, RootHasher, StreamDisk, StreamHeader, StreamReader,
    StreamWriter,
};
use nvvmm_snapshot::{
    BaseId, CHUNK_BLOCKS, CHUNK_SIZE_BYTES, ChunkIndex, ContentRoot, DiskName, Error, FrameSet,
    Identity, Pool, ReceiveOptions, SendOptions, SnapshotEntry, SnapshotKind,
};

use crate::pool::image::{DISK_BYTES, Image, MEMORY_BYTES};
use crate::script::Script;

const BLOCK_BYTES: usize = 4096;
const PRELUDE_BYTES: usize = 16;
const RECORD_BYTES: usize = 48;
/// Bit of the second byte: the described snapshot has a disk.
const WITH_DISK: u8 = 128;
/// Bit of a described record's index: the record is about the disk.
const OF_DISK: u16 = 1 << 15;
/// Most records that a script describes.
const RECORDS_MAX: usize = 12;

/// Bits of the first byte beside the two that choose the form.
const RECEIVED: u8 = 4;
const ALTERED: u8 = 8;
const VERSION_1: u8 = 16;
const FALSE_ROOT: u8 = 32;
const TOO_FEW_FRAMES: u8 = 64;
const ONTO: u8 = 128;

/// The snapshot that described streams build on: the root of its content, and what it has.
static SECOND: LazyLock<(ContentRoot, Content)> = LazyLock::new(|| {
    let (_file, path) = Image::example(false).file();
    let pool = Pool::open(&path).expect("the example opens");
    let mut stream = Vec::new();
    let mut go_on = |_| ControlFlow::Continue(());
    let report = pool
        .send("second", &SendOptions::default(), &mut stream, &mut go_on)
        .expect("memory takes it");
    let content = read(&mut &stream[..]).expect("what was sent");
    (report.content_root, content)
});

/// Runs one input.
pub fn run(input: &[u8]) {
    let mut script = Script::new(input);
    let choice = script.u8();
    let is_received = choice & RECEIVED != 0;
    // Opening a pool takes longer than everything else.
    let fixture = (is_received || choice % 4 == 2).then(|| {
        let (file, path) = Image::example(false).file();
        (Pool::open(&path).expect("the example opens"), file)
    });
    let pool = fixture.as_ref().map(|(pool, _)| pool);
    let stream = match (choice % 4, pool) {
        (0, _) => script.bytes(usize::MAX).to_vec(),
        (1, _) => mended(script.bytes(usize::MAX)),
        (2, Some(pool)) => described(choice, &mut script, pool),
        _ => return sealed(script.bytes(usize::MAX)),
    };
    let whole = read(&mut &stream[..]);
    if let Ok(content) = &whole {
        let again = content.write();
        assert_eq!(&read(&mut &again[..]).expect("what was written"), content);
    }
    if let Some(pool) = pool.filter(|_| is_received) {
        check_reception(pool, &stream, whole.as_ref().ok(), choice & ONTO != 0);
    }
}

/// Everything that a stream contains.
#[derive(Debug, PartialEq)]
struct Content {
    header: StreamHeader,
    state: Vec<u8>,
    chunks: Vec<ChunkRecord>,
}

impl Content {
    fn write(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut writer =
            StreamWriter::begin(&mut bytes, &self.header, 1).expect("a header that was read");
        writer.state(&self.state).expect("memory takes it");
        for chunk in &self.chunks {
            writer
                .chunk(
                    chunk.map,
                    chunk.index,
                    &chunk.written,
                    &chunk.emptied,
                    &chunk.content,
                )
                .expect("memory takes it");
        }
        writer.finish().expect("memory takes it");
        bytes
    }
}

fn read(input: &mut dyn Read) -> Result<Content, Error> {
    let mut reader = StreamReader::begin(input)?;
    let header = reader.header().clone();
    let (mut state, mut chunks) = (None, Vec::new());
    loop {
        match reader.next()? {
            Item::State(bytes) => {
                assert_eq!(bytes.len(), header.state_bytes as usize);
                state = Some(bytes);
            }
            Item::Chunk(chunk) => {
                assert_eq!(chunk.frames().count(), chunk.written.count() as usize);
                assert!(
                    u64::from(chunk.index.get()) * u64::from(CHUNK_BLOCKS) < header.frames_total()
                );
                chunks.push(chunk.clone());
            }
            Item::End(totals) => {
                assert_eq!(totals.chunks, chunks.len() as u64);
                return Ok(Content {
                    header,
                    state: state.expect("a state before the end"),
                    chunks,
                });
            }
        }
    }
}

/// The bytes as records with the right digests.
fn mended(bytes: &[u8]) -> Vec<u8> {
    let mut stream = bytes.to_vec();
    if stream.len() < PRELUDE_BYTES {
        return stream;
    }
    let mut digest = *blake3::hash(&stream[..PRELUDE_BYTES]).as_bytes();
    let mut at = PRELUDE_BYTES;
    while let Some(record) = stream
        .get_mut(at..)
        .filter(|rest| rest.len() >= RECORD_BYTES)
    {
        let length = u32::from_le_bytes([record[4], record[5], record[6], record[7]]) as usize;
        let Some(payload) = record.get(RECORD_BYTES..RECORD_BYTES.saturating_add(length)) else {
            break;
        };
        let mut hasher = blake3::Hasher::new();
        hasher.update(&digest).update(&record[..16]).update(payload);
        digest = *hasher.finalize().as_bytes();
        record[16..RECORD_BYTES].copy_from_slice(&digest);
        at += RECORD_BYTES + length;
    }
    stream
}

/// Records in any order, of any chunks, based on a snapshot in the pool or on none.
fn described(form: u8, script: &mut Script, pool: &Pool) -> Vec<u8> {
    let choice = script.u8();
    let second = pool.find("second").expect("the example has it");
    let strange = Identity::from_bytes([0x5a; 16]).expect("not zero");
    let state = script.bytes(usize::from(choice >> 4));
    let (second_root, _) = &*SECOND;
    // Streams of version 1 have no disks.
    let has_roots = form & VERSION_1 == 0 || choice & WITH_DISK != 0;
    let mut header = StreamHeader {
        root: None,
        frames_written: None,
        identity: if choice & 1 == 0 {
            strange
        } else {
            second.identity
        },
        base: (choice & 2 != 0).then(|| BaseOf {
            id: match has_roots {
                true => BaseId::Content(*second_root),
                false => BaseId::Identity(second.identity),
            },
            name: "second".to_owned(),
        }),
        parent: (choice & 4 != 0).then_some(second.identity),
        kind: SnapshotKind::Vm,
        name: if choice & 8 == 0 { "third" } else { "second" }.to_owned(),
        memory_bytes: MEMORY_BYTES,
        disks: match choice & WITH_DISK {
            0 => Vec::new(),
            _ => vec![disk()],
        },
        created_unix_ns: 1,
        frames_mapped: 0,
        frames_new: 0,
        state_bytes: state.len() as u32,
        spec: String::new(),
    };
    let chunks = described_chunks(script);
    if has_roots {
        let frames: u64 = chunks
            .iter()
            .map(|chunk| u64::from(chunk.written.count()))
            .sum();
        let told = frames - u64::from(form & TOO_FEW_FRAMES != 0 && frames > 0);
        header.frames_written = Some(told.min(MEMORY_BYTES / BLOCK_BYTES as u64));
        header.root = Some(match form & FALSE_ROOT {
            0 => root_of(&header, state, &chunks),
            _ => *second_root,
        });
    }
    let content = Content {
        header,
        state: state.to_vec(),
        chunks,
    };
    let mut bytes = content.write();
    if form & ALTERED != 0 {
        for _ in 0..4 {
            let at = usize::from(script.u16()) % bytes.len();
            bytes[at] ^= script.u8();
        }
        bytes = mended(&bytes);
    }
    bytes
}

fn disk() -> StreamDisk {
    StreamDisk {
        name: DiskName::new("data").expect("a name"),
        size_bytes: DISK_BYTES,
    }
}

/// The root of what a stream makes, as far as it makes sense.
fn root_of(header: &StreamHeader, state: &[u8], records: &[ChunkRecord]) -> ContentRoot {
    let (_, second) = &*SECOND;
    let mut maps: [BTreeMap<ChunkIndex, (FrameSet, Vec<u8>)>; 2] = Default::default();
    let base = second.chunks.iter().filter(|_| header.base.is_some());
    for record in base.chain(records) {
        let (there, content) = maps[usize::from(record.map != 0)]
            .entry(record.index)
            .or_insert_with(|| (FrameSet::EMPTY, vec![0; CHUNK_SIZE_BYTES as usize]));
        *there = there.union(&record.written).minus(&record.emptied);
        for (frame, bytes) in record.frames() {
            content[frame.as_usize() * BLOCK_BYTES..][..BLOCK_BYTES].copy_from_slice(bytes);
        }
    }
    let mut hasher = RootHasher::begin(header.kind, header.memory_bytes, state);
    for (map, chunks) in maps.iter().enumerate() {
        if map > 0 {
            let Some(disk) = header.disks.get(map - 1) else {
                break;
            };
            hasher.disk(disk);
        }
        for (index, (there, content)) in chunks {
            hasher.add(*index, ChunkDigest::of(header.kind, there, content));
        }
    }
    hasher.finish()
}

fn described_chunks(script: &mut Script) -> Vec<ChunkRecord> {
    let mut chunks = Vec::new();
    for _ in 0..RECORDS_MAX {
        if script.is_over() {
            break;
        }
        let (place, count) = (script.u16(), script.u8());
        let map = usize::from(place & OF_DISK != 0);
        let index = (place & !OF_DISK) % 302;
        let (mut written, mut emptied) = (FrameSet::EMPTY, FrameSet::EMPTY);
        for _ in 0..count % 8 {
            let frame = u32::from(script.u16());
            if frame & 1 << 15 == 0 {
                written.insert(frame);
            } else {
                emptied.insert(frame);
            }
        }
        if count & 0x80 != 0 {
            written = FrameSet::FULL;
        }
        // The example's own frames are filled with 0x66.
        let value = if count & 0x40 != 0 { 0x66 } else { script.u8() };
        let content = vec![value; written.count() as usize * BLOCK_BYTES];
        chunks.push(ChunkRecord {
            map,
            index: ChunkIndex::new(u32::from(index)),
            written,
            emptied,
            content,
        });
    }
    chunks
}

/// All snapshots, as they are but for roots, which a reception may compute.
fn names(pool: &Pool) -> Vec<SnapshotEntry> {
    let mut entries = pool.entries().expect("a good pool can be listed");
    for entry in &mut entries {
        entry.content_root = None;
    }
    entries
}

fn check_reception(
    pool: &std::sync::Arc<Pool>,
    stream: &[u8],
    whole: Option<&Content>,
    is_onto: bool,
) {
    let before = names(pool);
    let mut input = stream;
    let options = ReceiveOptions {
        onto: is_onto.then_some("second"),
        ..ReceiveOptions::default()
    };
    let received = pool.receive(&options, &mut input, &mut |_| ControlFlow::Continue(()));
    let report = pool.check().expect("a good pool can be checked");
    assert!(report.is_clean(), "{:?}", report.findings);
    let after = names(pool);
    match received {
        Ok(received) => {
            let whole = whole.expect("a stream that is not whole was received");
            let named = whole.header.root;
            assert!(named.is_none() || named == received.content_root);
            assert!(
                whole.header.base.is_none() || is_onto,
                "nothing here has a known content"
            );
            assert_eq!(after.len(), before.len() + 1);
            let entry = after.iter().find(|entry| entry.id == received.id);
            let entry = entry.expect("it is there");
            assert!(!entry.incomplete && entry.foreign && entry.name == received.name);
            pool.remove(&received.name).expect("it is there");
        }
        Err(error) => {
            assert!(!error.to_string().is_empty());
            for entry in after.iter().filter(|entry| !before.contains(entry)) {
                assert!(entry.incomplete, "{entry:?} of a stream that was refused");
                pool.remove(&entry.name).expect("it is there");
            }
        }
    }
    assert_eq!(names(pool), before);
    assert!(pool.check().expect("a good pool can be checked").is_clean());
}

/// Reads the bytes as a sealed stream. Only a stream that was sealed with the key can be opened.
fn sealed(bytes: &[u8]) {
    let key = Key::from_text(&"5a".repeat(32)).expect("64 digits");
    match Opening::begin(bytes, &key) {
        Ok(mut opening) => match read(&mut opening) {
            Ok(content) => assert!(!content.header.name.is_empty()),
            Err(error) => assert!(!error.to_string().is_empty()),
        },
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}
