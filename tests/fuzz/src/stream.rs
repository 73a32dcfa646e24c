//! Streams that `nvvmm receive` reads, and the pool that receives them.
//!
//! The first byte chooses how the rest becomes a stream: unchanged; with the digests of its records
//! made right; of records that the rest describes; or as a sealed stream. It also chooses whether
//! the stream is received in a pool.
//!
//! A stream that a reader accepts can be written, and is then read unchanged. After any stream, the
//! pool is in order. It has either the snapshot or an incomplete one that can be removed.

use std::io::Read;
use std::ops::ControlFlow;

use nvvmm_snapshot::stream::sealed::{Key, Opening};
use nvvmm_snapshot::stream::{BaseOf, ChunkRecord, Item, StreamHeader, StreamReader, StreamWriter};
use nvvmm_snapshot::{CHUNK_BLOCKS, ChunkIndex, Error, FrameSet, Identity, Pool, SnapshotKind};

use crate::pool::image::{Image, MEMORY_BYTES};
use crate::script::Script;

const BLOCK_BYTES: usize = 4096;
const PRELUDE_BYTES: usize = 16;
const RECORD_BYTES: usize = 48;
/// Most records that a script describes.
const RECORDS_MAX: usize = 12;

/// Runs one input.
pub fn run(input: &[u8]) {
    let mut script = Script::new(input);
    let choice = script.u8();
    let is_received = choice & 4 != 0;
    // Opening a pool takes longer than everything else.
    let fixture = (is_received || choice % 4 == 2).then(|| {
        let (file, path) = Image::example(false).file();
        (Pool::open(&path).expect("the example opens"), file)
    });
    let pool = fixture.as_ref().map(|(pool, _)| pool);
    let stream = match (choice % 4, pool) {
        (0, _) => script.bytes(usize::MAX).to_vec(),
        (1, _) => mended(script.bytes(usize::MAX)),
        (2, Some(pool)) => described(&mut script, pool),
        _ => return sealed(script.bytes(usize::MAX)),
    };
    let whole = read(&mut &stream[..]);
    if let Ok(content) = &whole {
        let again = content.write();
        assert_eq!(&read(&mut &again[..]).expect("what was written"), content);
    }
    if let Some(pool) = pool.filter(|_| is_received) {
        check_reception(pool, &stream, whole.is_ok());
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
                .chunk(chunk.index, &chunk.written, &chunk.emptied, &chunk.content)
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
fn described(script: &mut Script, pool: &Pool) -> Vec<u8> {
    let choice = script.u8();
    let second = pool.find("second").expect("the example has it");
    let strange = Identity::from_bytes([0x5a; 16]).expect("not zero");
    let state = script.bytes(usize::from(choice >> 4));
    let header = StreamHeader {
        identity: if choice & 1 == 0 {
            strange
        } else {
            second.identity
        },
        base: (choice & 2 != 0).then(|| BaseOf {
            identity: second.identity,
            name: "second".to_owned(),
        }),
        parent: (choice & 4 != 0).then_some(second.identity),
        kind: SnapshotKind::Vm,
        name: if choice & 8 == 0 { "third" } else { "second" }.to_owned(),
        memory_bytes: MEMORY_BYTES,
        created_unix_ns: 1,
        frames_mapped: 0,
        frames_new: 0,
        state_bytes: state.len() as u32,
        spec: String::new(),
    };
    let mut bytes = Vec::new();
    let mut writer = StreamWriter::begin(&mut bytes, &header, 1).expect("a good header");
    writer.state(state).expect("memory takes it");
    for _ in 0..RECORDS_MAX {
        if script.is_over() {
            break;
        }
        let (index, count) = (script.u16() % 302, script.u8());
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
        writer
            .chunk(
                ChunkIndex::new(u32::from(index)),
                &written,
                &emptied,
                &content,
            )
            .expect("memory takes it");
    }
    writer.finish().expect("memory takes it");
    bytes
}

fn check_reception(pool: &std::sync::Arc<Pool>, stream: &[u8], is_whole: bool) {
    let names = |pool: &Pool| pool.entries().expect("a good pool can be listed");
    let before = names(pool);
    let mut input = stream;
    let received = pool.receive(None, &mut input, &mut |_| ControlFlow::Continue(()));
    let report = pool.check().expect("a good pool can be checked");
    assert!(report.is_clean(), "{:?}", report.findings);
    let after = names(pool);
    match received {
        Ok(received) => {
            assert!(is_whole, "a stream that is not whole was received");
            assert_eq!(after.len(), before.len() + 1);
            let entry = after.iter().find(|entry| entry.id == received.id);
            assert!(entry.is_some_and(|entry| !entry.incomplete && entry.name == received.name));
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
