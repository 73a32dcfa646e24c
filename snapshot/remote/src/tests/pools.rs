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

/// Size of a disk, which ends in the middle of a block.
pub(crate) const DISK_BYTES: u64 = (1 << 40) + 512;

/// Takes a snapshot of a VM with this memory.
pub(crate) fn take(pool: &Arc<Pool>, name: &str, memory: &Memory) {
    let holder = pool.hold("vm").unwrap();
    commit(&holder, name, memory, Vec::new());
}

/// Takes a snapshot of a VM with this memory, and a disk that has these bytes at its end.
pub(crate) fn take_with_disk(pool: &Arc<Pool>, name: &str, memory: &Memory, end: &[u8]) {
    pool.create_disk("data", DISK_BYTES).unwrap();
    let holder = pool.hold("vm").unwrap();
    let head = holder.attach_disk("data").unwrap();
    head.write(DISK_BYTES - end.len() as u64, end).unwrap();
    let cut = head.cut().unwrap();
    commit(&holder, name, memory, vec![cut]);
}

fn commit(holder: &Holder, name: &str, memory: &Memory, cuts: Vec<DiskCut>) {
    let mut chunks: BTreeMap<u64, LeafBlocks> = BTreeMap::new();
    for (frame, byte) in memory {
        let block = holder.alloc_blocks(1).unwrap()[0];
        holder.write_block(block, &[*byte; 4096]).unwrap();
        let chunk = chunks.entry(frame / 512).or_default();
        chunk.set((frame % 512) as u32, Some(block));
    }
    let changes = chunks.into_iter().map(|(index, blocks)| {
        let index = ChunkIndex::new(index as u32);
        (index, ChunkMap::Frames(Arc::new(blocks)))
    });
    let changes: Vec<(ChunkIndex, ChunkMap)> = changes.collect();
    let new = NewSnapshot {
        kind: SnapshotKind::Vm,
        name,
        parent: None,
        base: None,
        maps: vec![NewMap::memory(CHUNKS << 21, &changes)],
        state: STATE,
        frames_new: 3,
    };
    let reservation = holder.reserve(cuts.len() as u32).unwrap();
    holder
        .commit_with_disks(new, cuts, &[], reservation)
        .unwrap();
}

/// The last bytes of the disk of a snapshot.
pub(crate) fn end_of_disk(pool: &Arc<Pool>, name: &str, len: usize) -> Vec<u8> {
    let holder = pool.hold("reader").unwrap();
    let (entry, _) = holder.pin(name).unwrap();
    let mut bytes = vec![0xee; len];
    let reader = holder.disk_of(entry.id, "data").unwrap();
    reader.read(DISK_BYTES - len as u64, &mut bytes).unwrap();
    bytes
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
