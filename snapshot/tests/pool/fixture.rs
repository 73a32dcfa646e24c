//! A pool in a place of its own, and short ways to fill and read it.

use std::sync::Arc;

use nvvmm_snapshot::{
    BLOCK_SIZE_BYTES, BlockNo, ChunkIndex, ChunkMap, Holder, LeafBlocks, NewMap, NewSnapshot, Pool,
    SnapshotKind,
};

use crate::place::PoolPlace;

pub(crate) const CHUNK: u64 = 2 << 20;

/// A pool and the place that it is in.
pub(crate) struct Bench {
    pub(crate) pool: Arc<Pool>,
    pub(crate) place: PoolPlace,
}

pub(crate) fn pool_of(size_bytes: u64) -> Bench {
    let place = PoolPlace::new();
    let pool = place.create(size_bytes);
    Bench { pool, place }
}

pub(crate) fn fill(holder: &Holder, block: BlockNo, with: u8) {
    holder
        .write_block(block, &[with; BLOCK_SIZE_BYTES as usize])
        .unwrap();
}

pub(crate) fn content(pool: &Pool, block: BlockNo) -> u8 {
    let mut bytes = [0; BLOCK_SIZE_BYTES as usize];
    pool.read_block(block, &mut bytes).unwrap();
    assert!(
        bytes == [bytes[0]; BLOCK_SIZE_BYTES as usize],
        "{block} is torn"
    );
    bytes[0]
}

pub(crate) fn assert_clean(pool: &Pool) {
    let report = pool.check().unwrap();
    assert!(report.is_clean(), "{:#?}", report.findings);
}

pub(crate) fn new<'a>(
    name: &'a str,
    chunks: u64,
    changes: &'a [(ChunkIndex, ChunkMap)],
) -> NewSnapshot<'a> {
    NewSnapshot {
        kind: SnapshotKind::Vm,
        name,
        parent: None,
        base: None,
        maps: vec![NewMap::memory(chunks * CHUNK, changes)],
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
