//! Snapshots with given memory, streams of them, and streams that nvvmm does not write.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use nvvmm_snapshot::stream::{
    BaseOf, ChunkDigest, ChunkRecord, Item, RootHasher, StreamHeader, StreamReader, StreamWriter,
};
use nvvmm_snapshot::*;

use crate::fixture::*;

/// Contents of a snapshot, by frame: a byte that fills the frame. A frame that is not there is a
/// hole.
pub(crate) type Memory = BTreeMap<u64, u8>;

pub(crate) const STATE: &[u8] = b"the machine's state";

/// Another pool, on the same medium where that has room for two.
pub(crate) fn other_pool_of(size_bytes: u64) -> Bench {
    if !crate::place::is_device() {
        return pool_of(size_bytes);
    }
    let place = crate::place::PoolPlace::in_memory();
    let pool = place.create(size_bytes);
    Bench { pool, place }
}

/// Takes a snapshot with this memory, of which frames that the one before has with the same content
/// are shared with it.
pub(crate) fn take(
    pool: &Arc<Pool>,
    name: &str,
    kind: SnapshotKind,
    chunks: u64,
    memory: &Memory,
    before: Option<&str>,
) {
    let holder = pool.hold("vm").unwrap();
    let (parent, shared) = match before {
        Some(before) => {
            let (entry, map) = holder.pin(before).unwrap();
            (Some(entry.id), Some((map, contents(pool, before))))
        }
        None => (None, None),
    };
    let mut changes = Vec::new();
    for index in 0..chunks as u32 {
        let mut blocks = LeafBlocks::new();
        for frame in 0..CHUNK_BLOCKS {
            let number = u64::from(index * CHUNK_BLOCKS + frame);
            let Some(byte) = memory.get(&number) else {
                continue;
            };
            let old = shared.as_ref().and_then(|(map, contents)| {
                let same = contents.get(&number) == Some(byte);
                map.chunk(index).unwrap().block(frame).filter(|_| same)
            });
            let block = old.unwrap_or_else(|| {
                let block = holder.alloc_blocks(1).unwrap()[0];
                fill(&holder, block, *byte);
                block
            });
            blocks.set(frame, Some(block));
        }
        changes.push((ChunkIndex::new(index), ChunkMap::Frames(Arc::new(blocks))));
    }
    let snapshot = NewSnapshot {
        kind,
        parent,
        base: parent,
        frames_new: 3,
        ..new(name, chunks, &changes)
    };
    holder
        .commit_snapshot(snapshot, holder.reserve(0).unwrap())
        .unwrap();
}

/// Contents of a snapshot, holes left out.
pub(crate) fn contents(pool: &Arc<Pool>, name: &str) -> Memory {
    let reader = pool.hold("reader").unwrap();
    let (_, map) = reader.pin(name).unwrap();
    let mut memory = Memory::new();
    for chunk in map.iter_present() {
        let (index, chunk) = chunk.unwrap();
        for (frame, block) in chunk.iter_present() {
            memory.insert(index.frame_number(frame), content(pool, block));
        }
    }
    memory
}

/// To a guest a frame of zeros is a hole.
pub(crate) fn seen(memory: &Memory) -> Memory {
    memory
        .iter()
        .filter(|(_, byte)| **byte != 0)
        .map(|(frame, byte)| (*frame, *byte))
        .collect()
}

pub(crate) fn go_on(_: MoveProgress) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

pub(crate) fn sent(pool: &Arc<Pool>, name: &str, since: Option<&str>) -> (Vec<u8>, SendReport) {
    let mut bytes = Vec::new();
    let options = SendOptions {
        since,
        ..SendOptions::default()
    };
    let report = pool.send(name, &options, &mut bytes, &mut go_on).unwrap();
    assert_eq!(report.bytes_stream, bytes.len() as u64);
    (bytes, report)
}

pub(crate) fn received(pool: &Arc<Pool>, mut bytes: &[u8]) -> Result<ReceiveReport> {
    pool.receive(&ReceiveOptions::default(), &mut bytes, &mut go_on)
}

pub(crate) fn received_as(pool: &Arc<Pool>, name: &str, mut bytes: &[u8]) -> Result<ReceiveReport> {
    let options = ReceiveOptions {
        name: Some(name),
        ..ReceiveOptions::default()
    };
    pool.receive(&options, &mut bytes, &mut go_on)
}

/// Offsets of the records of a stream, and of the end.
pub(crate) fn bounds(bytes: &[u8]) -> Vec<usize> {
    let mut bounds = vec![16];
    while let Some(at) = bounds.last().copied().filter(|at| *at < bytes.len()) {
        let length = u32::from_le_bytes(bytes[at + 4..at + 8].try_into().unwrap());
        bounds.push(at + 48 + length as usize);
    }
    bounds
}

/// Some frames here and there, a whole chunk, and frames of zeros.
pub(crate) fn sparse() -> Memory {
    let mut memory: Memory = (512..1024)
        .map(|frame| (frame, (frame % 200) as u8 + 1))
        .collect();
    memory.extend([(0, 7), (3, 0), (511, 9), (1024, 0), (2047, 8)]);
    memory
}

pub(crate) fn changed(mut memory: Memory) -> Memory {
    memory.extend([(0, 8), (700, 1), (2000, 3), (5, 0)]);
    memory.remove(&511);
    memory.insert(2047, 0);
    memory
}

/// True when the pool stores single frames, without their neighbours.
pub(crate) fn shares_blocks(pool: &Pool) -> bool {
    pool.medium() != Medium::Hugetlbfs
}

/// All that a stream has.
#[derive(Clone)]
pub(crate) struct Stream {
    pub(crate) header: StreamHeader,
    pub(crate) state: Vec<u8>,
    pub(crate) chunks: Vec<ChunkRecord>,
}

impl Stream {
    pub(crate) fn read(mut bytes: &[u8]) -> Stream {
        let mut reader = StreamReader::begin(&mut bytes).unwrap();
        let mut stream = Stream {
            header: reader.header().clone(),
            state: Vec::new(),
            chunks: Vec::new(),
        };
        loop {
            match reader.next().unwrap() {
                Item::State(state) => stream.state = state,
                Item::Chunk(chunk) => stream.chunks.push(chunk.clone()),
                Item::End(_) => return stream,
            }
        }
    }

    pub(crate) fn written(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut writer = StreamWriter::begin(&mut bytes, &self.header, 1).unwrap();
        writer.state(&self.state).unwrap();
        for chunk in &self.chunks {
            let ChunkRecord {
                map,
                index,
                written,
                emptied,
                content,
            } = chunk;
            writer
                .chunk(*map, *index, written, emptied, content)
                .unwrap();
        }
        writer.finish().unwrap();
        bytes
    }

    /// The same in format version 1. `base` is the identity of the snapshot that it builds on.
    pub(crate) fn as_version_1(&self, base: Option<Identity>) -> Stream {
        let mut stream = self.clone();
        stream.header.root = None;
        stream.header.frames_written = None;
        stream.header.base = base.map(|identity| BaseOf {
            id: BaseId::Identity(identity),
            name: "base".to_owned(),
        });
        stream
    }
}

/// The root of the content of a snapshot of a VM with this memory.
pub(crate) fn root_of(chunks: u64, state: &[u8], memory: &Memory) -> ContentRoot {
    let mut hasher = RootHasher::begin(SnapshotKind::Vm, chunks * CHUNK, state);
    for index in 0..chunks as u32 {
        let (mut there, mut content) = (FrameSet::EMPTY, vec![0; CHUNK as usize]);
        for frame in 0..CHUNK_BLOCKS {
            if let Some(byte) = memory.get(&u64::from(index * CHUNK_BLOCKS + frame)) {
                there.insert(frame);
                let size = BLOCK_SIZE_BYTES as usize;
                content[frame as usize * size..][..size].fill(*byte);
            }
        }
        let digest = ChunkDigest::of(SnapshotKind::Vm, &there, &content);
        hasher.add(ChunkIndex::new(index), digest);
    }
    hasher.finish()
}
