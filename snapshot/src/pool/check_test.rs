//! Findings of a check in a pool that says of itself that it is whole.

use std::sync::Arc;

use crate::catalog_lock::{BlockSource, CatalogEdit, CatalogLock, Commit};
use crate::chunk_map::ChunkMap;
use crate::handle::Pool;
use crate::holder::{NewMap, NewSnapshot};
use crate::layout::inode::{FileMap, Inode, SnapshotKind};
use crate::number::{CHUNK_SIZE_BYTES, ChunkIndex};
use crate::pool::CreateOptions;

const CHUNKS: u64 = 4;

/// A pool with the snapshot `s` of [`CHUNKS`] chunks, the last of which has frames.
fn with_snapshot(directory: &tempfile::TempDir) -> Arc<Pool> {
    let options = CreateOptions {
        size_bytes: 16 << 20,
        overcommit: false,
    };
    let pool = Pool::create(&directory.path().join("pool"), &options).unwrap();
    let vm = pool.hold("vm").unwrap();
    let last = ChunkMap::Whole(vm.alloc_chunk().unwrap());
    let changes = [(ChunkIndex::new(CHUNKS as u32 - 1), last)];
    let new = NewSnapshot {
        kind: SnapshotKind::Vm,
        name: "s",
        parent: None,
        base: None,
        maps: vec![NewMap::memory(CHUNKS * CHUNK_SIZE_BYTES, &changes)],
        state: b"state",
        frames_new: 512,
    };
    vm.commit_snapshot(new, vm.reserve(8).unwrap()).unwrap();
    pool
}

/// Puts another inode in the place of that of `s`, in order.
fn replace_inode(pool: &Pool, change: impl FnOnce(&mut Inode)) {
    let mut lock = CatalogLock::take(pool).unwrap();
    let listing = lock.listing().unwrap();
    let listed = listing.by_name("s").unwrap();
    let (slot, mut inode) = (listed.slot, Inode::clone(&listed.inode));
    change(&mut inode);
    let mut commit = Commit::begin(&mut lock, BlockSource::unleased()).unwrap();
    let block = commit.put_inode(slot, &inode).unwrap();
    let edit = CatalogEdit {
        slots: vec![(slot, Some(block))],
        ..CatalogEdit::default()
    };
    let superblock = commit.prepare(&edit).unwrap();
    commit.switch(superblock).unwrap();
    commit.settle(|_| false);
}

#[test]
fn frames_behind_the_memorys_end_are_found() {
    let directory = tempfile::tempdir_in("/dev/shm").unwrap();
    let pool = with_snapshot(&directory);
    replace_inode(&pool, |_| {});
    let report = pool.check().unwrap();
    assert!(report.is_clean(), "{:?}", report.findings);
    replace_inode(&pool, |inode| {
        let map = &mut inode.maps[0];
        *map = FileMap::new(map.kind, (CHUNKS - 1) * CHUNK_SIZE_BYTES, map.root).unwrap();
    });
    let findings = pool.check().unwrap().findings;
    assert!(
        findings
            .iter()
            .any(|finding| finding.contains("behind its memory's end")),
        "{findings:?}"
    );
}
