//! Digests that are not made before the end are left to a scrub.

use nvvmm_snapshot::{
    CHUNK_SIZE_BYTES, ChunkIndex, ChunkMap, CreateOptions, Holder, LeafBlocks, NewMap, NewSnapshot,
    SnapshotKind,
};

use super::*;

/// More chunks of memory than are read between two looks at whether to go on.
const CHUNKS: u32 = 40;

struct Fixture {
    _directory: tempfile::TempDir,
    _vm: Holder,
    pool: Arc<Pool>,
    snapshot: SnapshotId,
}

/// A snapshot with a frame in each of its chunks.
fn fixture() -> Fixture {
    let directory = tempfile::tempdir_in("/dev/shm").unwrap();
    let options = CreateOptions {
        size_bytes: 16 << 20,
        overcommit: false,
    };
    let pool = Pool::create(&directory.path().join("pool"), &options).unwrap();
    let vm = pool.hold("vm").unwrap();
    let blocks = vm.alloc_blocks(CHUNKS).unwrap();
    let changes: Vec<(ChunkIndex, ChunkMap)> = (0..)
        .zip(blocks)
        .map(|(chunk, block)| {
            vm.write_block(block, b"frame").unwrap();
            let mut leaf = LeafBlocks::new();
            leaf.set(0, Some(block));
            (ChunkIndex::new(chunk), ChunkMap::Frames(Arc::new(leaf)))
        })
        .collect();
    let new = NewSnapshot {
        kind: SnapshotKind::Vm,
        name: "s",
        parent: None,
        base: None,
        maps: vec![NewMap::memory(
            u64::from(CHUNKS) * CHUNK_SIZE_BYTES,
            &changes,
        )],
        state: b"",
        frames_new: u64::from(CHUNKS),
    };
    let snapshot = vm.commit_snapshot(new, vm.reserve(60).unwrap()).unwrap().id;
    Fixture {
        _directory: directory,
        _vm: vm,
        pool,
        snapshot,
    }
}

fn scrub(pool: &Arc<Pool>) -> ScrubReport {
    pool.scrub(&mut |_| ControlFlow::Continue(())).unwrap()
}

#[test]
fn what_is_made_at_once_is_all_unless_the_end_comes_first() {
    let fixture = fixture();
    let digests = Digests::new(Arc::clone(&fixture.pool));
    digests.end();
    let cut_off = digests.make_now(fixture.snapshot).unwrap();
    assert!(cut_off.interrupted);
    assert!(
        (1..u64::from(CHUNKS)).contains(&cut_off.digests_made),
        "{cut_off:?}"
    );
    let rest = Digests::new(Arc::clone(&fixture.pool))
        .make_now(fixture.snapshot)
        .unwrap();
    assert!(!rest.interrupted);
    assert_eq!(cut_off.digests_made + rest.digests_made, u64::from(CHUNKS));
    assert_eq!(scrub(&fixture.pool).blocks_verified, u64::from(CHUNKS));
}

#[test]
fn the_thread_ends_with_its_owner() {
    let fixture = fixture();
    let digests = Digests::new(Arc::clone(&fixture.pool));
    digests.make_later(fixture.snapshot);
    drop(digests);
    let rest = scrub(&fixture.pool);
    assert_eq!(
        rest.blocks_verified + rest.digests_made,
        u64::from(CHUNKS),
        "{rest:?}"
    );
    assert!(rest.is_clean());
}
