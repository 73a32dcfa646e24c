//! A pool in a directory of its own, and short ways to fill and read it.

use std::sync::Arc;

use nvvmm_snapshot::{
    BLOCK_SIZE_BYTES, BlockNo, ChunkMap, CreateOptions, Holder, LeafBlocks, NewSnapshot, Pool,
};

pub(crate) const CHUNK: u64 = 2 << 20;

pub(crate) struct Place {
    _directory: tempfile::TempDir,
    pub(crate) pool: Arc<Pool>,
}

pub(crate) fn pool_of(size_bytes: u64) -> Place {
    let directory = tempfile::tempdir_in("/dev/shm").unwrap();
    let pool = Pool::create(
        &directory.path().join("pool"),
        &CreateOptions {
            size_bytes,
            overcommit: false,
        },
    )
    .unwrap();
    Place {
        _directory: directory,
        pool,
    }
}

pub(crate) fn fill(holder: &Holder, block: BlockNo, with: u8) {
    holder
        .write_block(block, &[with; BLOCK_SIZE_BYTES as usize])
        .unwrap();
}

pub(crate) fn content(pool: &Pool, block: BlockNo) -> u8 {
    let mut bytes = [0; BLOCK_SIZE_BYTES as usize];
    pool.read_block(block, &mut bytes).unwrap();
    assert!(bytes.iter().all(|byte| *byte == bytes[0]), "{block} is torn");
    bytes[0]
}

pub(crate) fn assert_clean(pool: &Pool) {
    let report = pool.check().unwrap();
    assert!(report.is_clean(), "{:#?}", report.findings);
}

pub(crate) fn new<'a>(name: &'a str, chunks: u64, changes: &'a [(u32, ChunkMap)]) -> NewSnapshot<'a> {
    NewSnapshot {
        name,
        parent: None,
        memory_bytes: chunks * CHUNK,
        base: None,
        changes,
        state: b"the machine's state",
        frames_new: 0,
    }
}

pub(crate) fn leaf(entries: &[(u32, BlockNo)]) -> ChunkMap {
    let mut blocks = LeafBlocks::new();
    for (index, block) in entries {
        blocks.set(*index, Some(*block));
    }
    ChunkMap::Frames(Arc::new(blocks))
}
