//! A snapshot from elsewhere stays marked until its owner adopts it.

use std::ops::ControlFlow;
use std::sync::Arc;

use nvvmm_snapshot::*;

use crate::fixture::*;

/// A snapshot of four frames, or the next one of the same VM.
fn take(holder: &Holder, name: &str, base: Option<SnapshotId>) -> SnapshotId {
    let blocks = holder.alloc_blocks(4).unwrap();
    let mut frames = Vec::new();
    for (frame, block) in (0..).zip(&blocks) {
        fill(holder, *block, 7);
        frames.push((frame, *block));
    }
    let changes = [(ChunkIndex::new(0), leaf(&frames))];
    let snapshot = NewSnapshot {
        base,
        parent: base,
        ..new(name, 1, &changes)
    };
    let reservation = holder.reserve(0).unwrap();
    holder.commit_snapshot(snapshot, reservation).unwrap().id
}

/// Sends a snapshot from a pool of its own, and receives it.
fn receive(to: &Arc<Pool>, name: &str) {
    let place = crate::place::PoolPlace::in_memory();
    let from = place.create(16 << 20);
    take(&from.hold("vm").unwrap(), name, None);
    let mut stream = Vec::new();
    let mut go_on = |_: MoveProgress| ControlFlow::Continue(());
    from.send(name, &SendOptions::default(), &mut stream, &mut go_on)
        .unwrap();
    to.receive(&ReceiveOptions::default(), &mut &stream[..], &mut go_on)
        .unwrap();
}

fn is_foreign(pool: &Pool, name: &str) -> bool {
    pool.find(name).unwrap().foreign
}

#[test]
fn what_was_received_is_foreign_until_it_is_adopted() {
    let bench = pool_of(16 << 20);
    let pool = &bench.pool;
    receive(pool, "guest");
    assert!(is_foreign(pool, "guest"));
    let before = pool.find("guest").unwrap();
    assert!(pool.adopt("guest").unwrap());
    assert!(!pool.adopt("guest").unwrap(), "it is its owner's now");
    let after = pool.find("guest").unwrap();
    assert_eq!(
        after,
        SnapshotEntry {
            foreign: false,
            ..before
        },
        "nothing else has changed"
    );
    assert!(matches!(pool.adopt("none"), Err(Error::NotFound { .. })));
    assert_clean(pool);
}

#[test]
fn what_is_taken_of_a_foreign_vm_is_foreign() {
    let bench = pool_of(16 << 20);
    let pool = &bench.pool;
    receive(pool, "guest");
    let vm = pool.hold("vm").unwrap();
    let (entry, _) = vm.pin("guest").unwrap();
    let next = take(&vm, "next", Some(entry.id));
    take(&vm, "after", Some(next));
    // All of its memory is its own by now, and it began as what came from elsewhere.
    take(&vm, "whole", None);
    for name in ["next", "after", "whole"] {
        assert!(is_foreign(pool, name), "{name}");
    }
    let neighbour = pool.hold("neighbour").unwrap();
    take(&neighbour, "own", None);
    assert!(!is_foreign(pool, "own"));
    neighbour.mark_foreign();
    take(&neighbour, "marked", None);
    assert!(is_foreign(pool, "marked"));
    // Who trusts the origin trusts what is taken from then on.
    pool.adopt("guest").unwrap();
    let other = pool.hold("other").unwrap();
    let (entry, _) = other.pin("guest").unwrap();
    take(&other, "trusted", Some(entry.id));
    assert!(!is_foreign(pool, "trusted") && is_foreign(pool, "next"));
    assert_clean(pool);
}

#[test]
fn a_vm_that_consumes_a_foreign_snapshot_is_foreign() {
    let bench = pool_of(16 << 20);
    let pool = &bench.pool;
    receive(pool, "guest");
    let vm = pool.hold("vm").unwrap();
    let (entry, _) = vm.pin("guest").unwrap();
    vm.consume(entry.id).unwrap();
    take(&vm, "next", None);
    assert!(is_foreign(pool, "next"));
}

#[test]
fn adopting_needs_no_free_block_and_no_end_of_a_vm() {
    let bench = pool_of(16 << 20);
    let pool = &bench.pool;
    receive(pool, "guest");
    let vm = pool.hold("vm").unwrap();
    let (_, map) = vm.pin("guest").unwrap();
    while vm.alloc_blocks(1).is_ok() {}
    assert!(pool.adopt("guest").unwrap());
    assert!(!is_foreign(pool, "guest"));
    assert_eq!(
        content(pool, map.chunk(0).unwrap().block(2).unwrap()),
        7,
        "the VM goes on with the same blocks"
    );
    assert_clean(pool);
}

/// Format versions in the two superblocks of a pool's file.
pub(crate) fn versions(bytes: &[u8]) -> Vec<u32> {
    let version = |slot: usize| u32::from_le_bytes(bytes[slot + 8..slot + 12].try_into().unwrap());
    vec![version(0), version(4096)]
}

/// Makes the file of a pool without foreign snapshots and disks one of an old format version.
pub(crate) fn as_version(bytes: &mut [u8], version: u32) {
    for slot in [0, 4096] {
        bytes[slot + 8..slot + 12].copy_from_slice(&version.to_le_bytes());
        bytes[slot + 12..slot + 16].fill(0);
        let checksum = crc32fast::hash(&bytes[slot..slot + 4096]);
        bytes[slot + 12..slot + 16].copy_from_slice(&checksum.to_le_bytes());
    }
}

#[test]
fn a_pool_of_version_5_becomes_one_of_version_6_when_something_foreign_arrives() {
    let directory = tempfile::tempdir_in("/dev/shm").unwrap();
    let path = directory.path().join("pool");
    let options = CreateOptions {
        size_bytes: 16 << 20,
        overcommit: false,
    };
    let pool = Pool::create(&path, &options).unwrap();
    take(&pool.hold("vm").unwrap(), "own", None);
    drop(pool);
    // As long as another process has it open, which may be of an old program.
    let other = Pool::open(&path).unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    as_version(&mut bytes, 5);
    std::fs::write(&path, &bytes).unwrap();

    let pool = Pool::open(&path).unwrap();
    drop(other);
    take(&pool.hold("vm").unwrap(), "second", None);
    assert!(!is_foreign(&pool, "own") && !is_foreign(&pool, "second"));
    assert_eq!(versions(&std::fs::read(&path).unwrap()), [5, 5]);
    receive(&pool, "guest");
    // A program that knows version 5 refuses a pool one of whose superblocks is of another.
    assert!(versions(&std::fs::read(&path).unwrap()).contains(&6));
    pool.adopt("guest").unwrap();
    pool.remove("own").unwrap();
    assert_eq!(versions(&std::fs::read(&path).unwrap()), [6, 6]);
    drop(pool);
    assert_clean(&Pool::open(&path).unwrap());
    assert!(versions(&std::fs::read(&path).unwrap()).contains(&8));
}

#[test]
fn a_pool_of_an_old_version_becomes_one_of_the_newest_for_who_opens_it_alone() {
    // A device has no read(2) and write(2).
    if crate::place::is_device() {
        return;
    }
    for version in [5, 6, 7] {
        let bench = pool_of(16 << 20);
        let path = bench.pool.path().to_owned();
        take(&bench.pool.hold("vm").unwrap(), "own", None);
        drop(bench.pool);
        let mut bytes = std::fs::read(&path).unwrap();
        as_version(&mut bytes, version);
        std::fs::write(&path, &bytes).unwrap();
        let pool = Pool::open(&path).unwrap();
        assert!(versions(&std::fs::read(&path).unwrap()).contains(&8));
        pool.create_disk("data", 1 << 20).unwrap();
        let own = pool.find("own").unwrap().own_bytes.unwrap();
        let freed = pool.remove("own").unwrap().blocks_freed * BLOCK_SIZE_BYTES;
        assert!(freed >= own);
        assert!(pool.lock_use().bytes_cleaned >= freed);
        assert_eq!(pool.lock_use().bytes_cleaned_locked, 0);
        assert_clean(&pool);
    }
}

#[test]
fn a_pool_of_an_old_version_that_is_in_use_stays_so_and_has_no_disks() {
    // A device has no read(2) and write(2).
    if crate::place::is_device() {
        return;
    }
    for version in [5, 6, 7] {
        let bench = pool_of(16 << 20);
        let path = bench.pool.path().to_owned();
        drop(bench.pool);
        let mut bytes = std::fs::read(&path).unwrap();
        let other = Pool::open(&path).unwrap();
        as_version(&mut bytes, version);
        std::fs::write(&path, &bytes).unwrap();
        let pool = Pool::open(&path).unwrap();
        let refused = pool.create_disk("data", 1 << 20);
        assert!(matches!(refused, Err(Error::NoDisksYet)), "{refused:?}");
        assert_eq!(versions(&std::fs::read(&path).unwrap()), [version; 2]);
        drop(other);
    }
}
