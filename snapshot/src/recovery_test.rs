//! Amount of work to derive the reference counts.

use std::sync::Arc;

use super::*;
use crate::layout::inode::{Inode, SnapshotKind};
use crate::{ChunkIndex, ChunkMap, CreateOptions, Holder, NewMap, NewSnapshot, Pool, SnapshotId};

/// Chunks of the guest's memory, all of them whole in the first snapshot.
const CHUNKS: u32 = 20;

/// References that the counting walk visits.
#[derive(Default)]
struct Looks {
    derived: BlockNumbers,
    inodes: u32,
    nodes: u32,
    frames: u32,
}

impl Visitor for Looks {
    fn frames(&mut self, frames: Frames<'_>) -> Result<()> {
        self.frames += 1;
        self.derived.add_frames(frames);
        Ok(())
    }

    fn reference(&mut self, block: BlockNo) -> Result<bool> {
        Ok(self.derived.add(block, 1) == 0)
    }

    fn inode(&mut self, _slot: u32, _inode: &Inode) -> Result<()> {
        self.inodes += 1;
        Ok(())
    }

    fn node(&mut self) {
        self.nodes += 1;
    }
}

fn looks(pool: &Pool) -> Looks {
    let lock = CatalogLock::take(pool).unwrap();
    let root = lock
        .current()
        .unwrap()
        .superblock
        .catalog_root(&pool.store.layout);
    let place = NodePlace::root(NodeKind::Catalog, CATALOG_HEIGHT);
    let mut looks = Looks::default();
    walk(&pool.store, root.unwrap(), place, &mut looks).unwrap();
    looks
}

fn take(
    vm: &Holder,
    name: &str,
    base: Option<SnapshotId>,
    changes: &[(ChunkIndex, ChunkMap)],
) -> SnapshotId {
    let new = NewSnapshot {
        kind: SnapshotKind::Vm,
        name,
        parent: base,
        base,
        maps: vec![NewMap::memory(
            u64::from(CHUNKS) * CHUNK_SIZE_BYTES,
            changes,
        )],
        state: b"state",
        frames_new: 0,
    };
    vm.commit_snapshot(new, vm.reserve(0).unwrap()).unwrap().id
}

#[test]
fn a_further_snapshot_costs_what_it_does_not_share() {
    let directory = tempfile::tempdir_in("/dev/shm").unwrap();
    let options = CreateOptions {
        size_bytes: 128 << 20,
        overcommit: false,
    };
    let pool = Pool::create(&directory.path().join("pool"), &options).unwrap();
    let vm = pool.hold("vm").unwrap();
    let whole: Vec<(ChunkIndex, ChunkMap)> = (0..CHUNKS)
        .map(|index| {
            (
                ChunkIndex::new(index),
                ChunkMap::Whole(vm.alloc_chunk().unwrap()),
            )
        })
        .collect();
    let mut last = take(&vm, "first", None, &whole);
    let first = looks(&pool);
    // The catalog's root and leaf, the map's root; a look for each chunk, not for each of its
    // blocks.
    assert_eq!((first.inodes, first.nodes, first.frames), (1, 3, CHUNKS));

    // Nothing was written: the map is the same one.
    let same = take(&vm, "same", Some(last), &[]);
    let now = looks(&pool);
    assert_eq!((now.inodes, now.nodes, now.frames), (2, 3, CHUNKS));
    vm.unpin(same).unwrap();

    // One frame was written: a leaf, and a root with the other chunks.
    let mut leaf = whole[3].1.to_leaf();
    for number in 0..10u32 {
        let before = looks(&pool);
        leaf.set(number, Some(vm.alloc_blocks(1).unwrap()[0]));
        let changes = [(ChunkIndex::new(3), ChunkMap::Frames(Arc::new(leaf.clone())))];
        let next = take(&vm, &number.to_string(), Some(last), &changes);
        vm.unpin_others(next).unwrap();
        last = next;
        let now = looks(&pool);
        let more = (
            now.inodes - before.inodes,
            now.nodes - before.nodes,
            now.frames - before.frames,
        );
        assert_eq!(more, (1, 2, CHUNKS));
    }

    // And what is derived that way is what commits have made of the counts one by one.
    let derived = looks(&pool).derived;
    for block in pool.store.layout.data_chunks().flat_map(ChunkNo::blocks) {
        assert_eq!(
            derived.get(block),
            references(pool.store.refcount(block).unwrap()) as i32,
            "{block}"
        );
    }
    assert!(pool.check().unwrap().is_clean());
}

/// Blocks that a dead process has written are taken back without looking for the end of what is
/// written after it.
#[test]
fn what_is_written_is_found_once_for_each_stretch() {
    let directory = tempfile::tempdir_in("/dev/shm").unwrap();
    let options = CreateOptions {
        size_bytes: 64 << 20,
        overcommit: false,
    };
    let pool = Pool::create(&directory.path().join("pool"), &options).unwrap();
    let vm = pool.hold("vm").unwrap();
    let chunks: Vec<ChunkNo> = (0..4).map(|_| vm.alloc_chunk().unwrap()).collect();
    let written: Vec<BlockNo> = chunks
        .iter()
        .flat_map(|chunk| chunk.blocks())
        .filter(|block| block.get() % 7 != 3)
        .collect();
    for block in &written {
        vm.write_block(*block, &[1; BLOCK_SIZE_BYTES as usize])
            .unwrap();
    }
    let store = &pool.store;
    let end = chunks[3].byte_offset() + CHUNK_SIZE_BYTES;
    let mut cursor = WrittenCursor::until(end);
    let mut found = Vec::new();
    for chunk in &chunks {
        let bytes = chunk.byte_offset()..chunk.byte_offset() + CHUNK_SIZE_BYTES;
        assert!(cursor.overlaps(&*store.region, bytes.clone()).unwrap());
        found.extend(cursor.blocks_in(&*store.region, bytes).unwrap());
    }
    assert_eq!(found, written);

    // Of a chunk that is in a snapshot in part, what is not in it goes.
    let mut leaf = crate::LeafBlocks::new();
    leaf.set(0, Some(chunks[1].block(0)));
    take(
        &vm,
        "kept",
        None,
        &[(ChunkIndex::new(0), ChunkMap::Frames(Arc::new(leaf)))],
    );
    let mut cursor = WrittenCursor::until(end);
    for chunk in &chunks {
        store.punch_unreferenced(*chunk, &mut cursor).unwrap();
    }
    for block in written {
        assert_eq!(
            store.is_zero(block).unwrap(),
            block != chunks[1].block(0),
            "{block}"
        );
    }
}
