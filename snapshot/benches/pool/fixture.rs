//! The pools that are measured.

use std::cell::OnceCell;
use std::sync::Arc;

use nvvmm_snapshot::{
    BLOCK_SIZE_BYTES, BlockNo, CHUNK_BLOCKS, CHUNK_SIZE_BYTES, ChunkIndex, ChunkMap, Holder,
    LeafBlocks, NewMap, NewSnapshot, Pool, SnapshotId, SnapshotKind,
};

use crate::place::PoolPlace;

/// Snapshots of the large pool.
pub const SNAPSHOTS: u32 = 1_000;
const LARGE_POOL_BYTES: u64 = 64 << 30;
const SMALL_POOL_BYTES: u64 = 4 << 30;

/// The guest of the large pool: all of its memory is touched.
pub const GUEST_CHUNKS: u32 = 1024;
/// Every eighth chunk is written again and again; the others stay as they are.
const HOT_EVERY: u32 = 8;
/// Writes between two snapshots: so many clusters of so many frames, as copy-on-write makes
/// them.
const CLUSTERS: u32 = 16;
const CLUSTER_FRAMES: u32 = 16;
/// Size of a machine's state.
static STATE: [u8; 22 << 10] = [0x5a; 22 << 10];

/// A pool with nothing in it, whose blocks have no memory behind them before they are written.
pub fn small_pool() -> (Arc<Pool>, PoolPlace) {
    let place = PoolPlace::new();
    (place.create(SMALL_POOL_BYTES), place)
}

/// A sparse pool of 64 GiB with 1,000 snapshots of a guest of 2 GiB: each shares most of its memory
/// with the one before, and 1 MiB is its own. Made when it is first used.
#[derive(Default)]
pub struct LargePool(OnceCell<PoolPlace>);

impl LargePool {
    /// The path of the pool. Nobody has it open.
    pub fn place(&self) -> &PoolPlace {
        self.0.get_or_init(|| {
            let place = PoolPlace::new();
            let pool = place.create_with(LARGE_POOL_BYTES, true);
            let mut guest = Guest::boot(pool.hold("guest").unwrap());
            for number in 1..SNAPSHOTS {
                guest.write();
                guest.snapshot(&number.to_string());
            }
            drop(guest);
            assert_snapshots(&pool, SNAPSHOTS);
            place
        })
    }
}

/// Nothing is wrong with a pool, and so many snapshots are in it.
pub fn assert_snapshots(pool: &Pool, count: u32) {
    let report = pool.check().unwrap();
    assert!(report.is_clean(), "{:#?}", report.findings);
    assert_eq!(report.snapshots_checked, u64::from(count));
}

/// A VM as the pool sees it.
pub struct Guest {
    holder: Holder,
    last: SnapshotId,
    memory: Vec<ChunkMap>,
    changed: std::collections::BTreeSet<u32>,
    random: u64,
}

impl Guest {
    /// Fills its memory with whole chunks, and takes the first snapshot.
    fn boot(holder: Holder) -> Guest {
        let memory: Vec<ChunkMap> = (0..GUEST_CHUNKS)
            .map(|_| {
                let chunk = holder.alloc_chunk().unwrap();
                chunk.blocks().for_each(|block| touch(&holder, block));
                ChunkMap::Whole(chunk)
            })
            .collect();
        let changes: Vec<(ChunkIndex, ChunkMap)> = (0..)
            .map(ChunkIndex::new)
            .zip(memory.iter().cloned())
            .collect();
        let last = commit(&holder, "0", None, &changes);
        Guest {
            holder,
            last,
            memory,
            changed: Default::default(),
            random: 1,
        }
    }

    /// Goes on from the newest snapshot.
    pub fn restore(pool: &Arc<Pool>) -> Guest {
        let holder = pool.hold("guest").unwrap();
        let newest = pool.entries().unwrap().pop().unwrap();
        let (_, map) = holder.pin(&newest.name).unwrap();
        Guest {
            last: newest.id,
            memory: (0..GUEST_CHUNKS)
                .map(|index| map.chunk(index).unwrap())
                .collect(),
            holder,
            changed: Default::default(),
            random: 1,
        }
    }

    /// Writes to a few clusters of its hot chunks: they get fresh blocks.
    pub fn write(&mut self) {
        for _ in 0..CLUSTERS {
            // Knuth's MMIX generator; the high bits are the random ones.
            self.random = self
                .random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let clusters = GUEST_CHUNKS / HOT_EVERY * (CHUNK_BLOCKS / CLUSTER_FRAMES);
            let cluster = ((self.random >> 33) % u64::from(clusters)) as u32;
            let chunk = cluster % (GUEST_CHUNKS / HOT_EVERY) * HOT_EVERY;
            let first_frame = cluster / (GUEST_CHUNKS / HOT_EVERY) * CLUSTER_FRAMES;
            let mut leaf = self.memory[chunk as usize].to_leaf();
            let blocks = self.holder.alloc_blocks(CLUSTER_FRAMES).unwrap();
            for (frame, block) in (first_frame..).zip(blocks) {
                touch(&self.holder, block);
                leaf.set(frame, Some(block));
            }
            self.memory[chunk as usize] = ChunkMap::Frames(leaf.into());
            self.changed.insert(chunk);
        }
    }

    /// Takes a snapshot of what was written since the last one.
    pub fn snapshot(&mut self, name: &str) -> SnapshotId {
        let changes: Vec<(ChunkIndex, ChunkMap)> = std::mem::take(&mut self.changed)
            .into_iter()
            .map(|index| (ChunkIndex::new(index), self.memory[index as usize].clone()))
            .collect();
        self.last = commit(&self.holder, name, Some(self.last), &changes);
        self.holder.unpin_others(self.last).unwrap();
        self.last
    }
}

fn touch(holder: &Holder, block: BlockNo) {
    holder
        .write_block(block, &[0xa5; BLOCK_SIZE_BYTES as usize])
        .unwrap();
}

/// Commits a snapshot of a guest of 2 GiB.
pub fn commit(
    holder: &Holder,
    name: &str,
    base: Option<SnapshotId>,
    changes: &[(ChunkIndex, ChunkMap)],
) -> SnapshotId {
    let snapshot = NewSnapshot {
        name,
        kind: SnapshotKind::Vm,
        parent: base,
        base,
        maps: vec![NewMap::memory(
            u64::from(GUEST_CHUNKS) * CHUNK_SIZE_BYTES,
            changes,
        )],
        state: &STATE,
        frames_new: 0,
    };
    holder
        .commit_snapshot(snapshot, holder.reserve(0).unwrap())
        .unwrap()
        .id
}

/// The blocks of a chunk in another order than the pool has them: they are named one by one.
pub fn in_pieces(chunk: nvvmm_snapshot::ChunkNo) -> ChunkMap {
    let mut leaf = LeafBlocks::new();
    for (frame, block) in chunk.blocks().enumerate() {
        leaf.set(CHUNK_BLOCKS - 1 - frame as u32, Some(block));
    }
    ChunkMap::Frames(leaf.into())
}
