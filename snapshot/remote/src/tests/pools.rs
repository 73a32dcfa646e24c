//! Pools with snapshots whose frames are filled with one byte each.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use nvvmm_snapshot::*;

/// Chunks of the memory of each snapshot: 8 MiB, or 16 pieces.
pub(crate) const CHUNKS: u64 = 4;
pub(crate) const STATE: &[u8] = b"the machine's state";

/// Contents of a snapshot by frame, holes left out.
pub(crate) type Memory = BTreeMap<u64, u8>;

/// A pool and the directory that it is in.
pub(crate) struct Bench {
    pub(crate) pool: Arc<Pool>,
    _directory: tempfile::TempDir,
}

pub(crate) fn pool_of(size_bytes: u64) -> Bench {
    let directory = tempfile::tempdir_in("/dev/shm").unwrap();
    let options = CreateOptions {
        size_bytes,
        overcommit: false,
    };
    Bench {
        pool: Pool::create(&directory.path().join("pool"), &options).unwrap(),
        _directory: directory,
    }
}

/// Takes a snapshot of a VM with this memory.
pub(crate) fn take(pool: &Arc<Pool>, name: &str, memory: &Memory) {
    take_with_disk(pool, name, memory, &Memory::new());
}

/// Takes a snapshot of a VM with this memory, and a disk of as many bytes if it has any.
pub(crate) fn take_with_disk(pool: &Arc<Pool>, name: &str, memory: &Memory, disk: &Memory) {
    let holder = pool.hold("vm").unwrap();
    let changes = |memory: &Memory| -> Vec<(ChunkIndex, ChunkMap)> {
        let mut chunks: BTreeMap<u64, LeafBlocks> = BTreeMap::new();
        for (frame, byte) in memory {
            let block = holder.alloc_blocks(1).unwrap()[0];
            holder.write_block(block, &[*byte; 4096]).unwrap();
            let chunk = chunks.entry(frame / 512).or_default();
            chunk.set((frame % 512) as u32, Some(block));
        }
        let chunks = chunks.into_iter();
        chunks
            .map(|(index, blocks)| {
                let index = ChunkIndex::new(index as u32);
                (index, ChunkMap::Frames(Arc::new(blocks)))
            })
            .collect()
    };
    let (of_memory, of_disk) = (changes(memory), changes(disk));
    let mut maps = vec![NewMap::memory(CHUNKS << 21, &of_memory)];
    if !disk.is_empty() {
        maps.push(NewMap {
            kind: MapKind::Disk(DiskName::new("data").unwrap()),
            size_bytes: CHUNKS << 21,
            changes: &of_disk,
        });
    }
    let new = NewSnapshot {
        kind: SnapshotKind::Vm,
        name,
        parent: None,
        base: None,
        maps,
        state: STATE,
        frames_new: 3,
    };
    holder
        .commit_snapshot(new, holder.reserve(0).unwrap())
        .unwrap();
}

/// Contents of a snapshot as a guest sees them.
pub(crate) fn contents(pool: &Arc<Pool>, name: &str) -> Memory {
    let reader = pool.hold("reader").unwrap();
    let (_, map) = reader.pin(name).unwrap();
    let mut memory = Memory::new();
    for chunk in map.iter_present() {
        let (index, chunk) = chunk.unwrap();
        for (frame, block) in chunk.iter_present() {
            let mut bytes = [0; 4096];
            pool.read_block(block, &mut bytes).unwrap();
            assert_eq!(bytes, [bytes[0]; 4096], "{block} is torn");
            if bytes[0] != 0 {
                memory.insert(index.frame_number(frame), bytes[0]);
            }
        }
    }
    memory
}

/// Frames of some pieces: one in the first, a full one, one with holes, two that are the same.
pub(crate) fn sparse() -> Memory {
    let mut memory = Memory::from([(3, 1), (700, 7), (703, 8)]);
    memory.extend((256..384).map(|frame| (frame, (frame % 250) as u8 + 1)));
    memory.extend((1024..1034).map(|frame| (frame, 9)));
    memory.extend((1152..1162).map(|frame| (frame, 9)));
    memory
}

pub(crate) fn assert_clean(pool: &Pool) {
    let report = pool.check().unwrap();
    assert!(report.is_clean(), "{:#?}", report.findings);
}

pub(crate) fn go_on(_: MoveProgress) -> ControlFlow<()> {
    ControlFlow::Continue(())
}
