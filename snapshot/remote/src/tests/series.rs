//! Snapshots of one VM pushed one after the other, by one process.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nvvmm_snapshot::{
    ChunkIndex, ChunkMap, Holder, LeafBlocks, NewMap, NewSnapshot, Pool, SnapshotKind,
};

use super::pools::*;
use super::stores::*;
use crate::{Error, GcOptions, PushOptions, PushReport, Pusher, Store, Use};

/// Bytes of a chunk.
const CHUNK: u64 = 2 << 20;

/// Takes a snapshot that differs from another one in a frame.
pub(super) fn take_after(holder: &Holder, base: &str, name: &str, frame: u64, byte: u8) {
    let (base, map) = holder.pin(base).unwrap();
    let index = ChunkIndex::new((frame / 512) as u32);
    let mut blocks = LeafBlocks::default();
    for (place, block) in map.chunk(index).unwrap().iter_present() {
        blocks.set(place.get(), Some(block));
    }
    let block = holder.alloc_blocks(1).unwrap()[0];
    holder.write_block(block, &[byte; 4096]).unwrap();
    blocks.set((frame % 512) as u32, Some(block));
    let changes = [(index, ChunkMap::Frames(Arc::new(blocks)))];
    let new = NewSnapshot {
        kind: SnapshotKind::Vm,
        name,
        parent: Some(base.id),
        base: Some(base.id),
        maps: vec![NewMap::memory(CHUNKS << 21, &changes)],
        state: STATE,
        frames_new: 1,
    };
    let reservation = holder.reserve(0).unwrap();
    holder
        .commit_with_disks(new, Vec::new(), &[], reservation)
        .unwrap();
    holder.unpin(base.id).unwrap();
}

fn push(pusher: &mut Pusher, pool: &Arc<Pool>, name: &str) -> Result<PushReport, Error> {
    pusher.push(pool, name, &PushOptions::default(), &mut go_on)
}

fn pulled(store: &Store, name: &str) -> Memory {
    let to = pool_of(32 << 20);
    super::moving::pull(store, &to.pool, name).unwrap();
    assert_clean(&to.pool);
    contents(&to.pool, name)
}

/// Memory in three chunks.
fn spread() -> Memory {
    Memory::from([(0, 1), (600, 2), (1100, 3), (1300, 4)])
}

#[test]
fn only_chunks_that_differ_from_the_snapshot_before_are_read() {
    let (_, store) = in_memory(None);
    let from = pool_of(32 << 20);
    let holder = from.pool.hold("vm").unwrap();
    take(&from.pool, "a", &spread());
    take_after(&holder, "a", "b", 601, 9);
    take_after(&holder, "b", "c", 602, 0);
    let mut pusher = Pusher::of_series(store.clone(), "web");
    assert_eq!(
        push(&mut pusher, &from.pool, "a").unwrap().read_bytes,
        3 * CHUNK
    );
    let requests = store.traffic().requests;
    let second = push(&mut pusher, &from.pool, "b").unwrap();
    assert_eq!((second.read_bytes, second.new_pieces_count), (CHUNK, 1));
    assert_eq!(second.pieces_count, 4);
    // The one before is gone from the pool's list meanwhile.
    from.pool.remove("a").unwrap();
    from.pool.remove("b").unwrap();
    let third = push(&mut pusher, &from.pool, "c").unwrap();
    assert_eq!((third.read_bytes, third.new_pieces_count), (CHUNK, 0));
    assert!(store.traffic().requests - requests < 30);
    // What another process computes is the same.
    let (_, other) = in_memory(None);
    let whole = other.push(&from.pool, "c", &PushOptions::default(), &mut go_on);
    assert_eq!(whole.unwrap().content_root, third.content_root);
    let mut expected = spread();
    expected.insert(601, 9);
    assert_eq!(pulled(&store, "b"), expected);
    assert_eq!(pulled(&store, "c"), expected);
    drop((pusher, holder));
    assert_clean(&from.pool);
}

#[test]
fn what_the_store_has_lost_meanwhile_is_read_and_sent_again() {
    let (_, store) = in_memory(None);
    let from = pool_of(32 << 20);
    let holder = from.pool.hold("vm").unwrap();
    take(&from.pool, "a", &spread());
    take_after(&holder, "a", "b", 601, 9);
    let mut pusher = Pusher::of_series(store.clone(), "web");
    push(&mut pusher, &from.pool, "a").unwrap();
    store.remove("a").unwrap();
    for _ in 0..2 {
        store.gc(&GcOptions::default()).unwrap();
    }
    let second = push(&mut pusher, &from.pool, "b").unwrap();
    assert_eq!((second.read_bytes, second.new_pieces_count), (3 * CHUNK, 4));
    let mut expected = spread();
    expected.insert(601, 9);
    assert_eq!(pulled(&store, "b"), expected);
}

#[test]
fn the_next_push_of_a_series_ends_those_that_have_died() {
    let (memory, store) = in_memory(None);
    let from = pool_of(32 << 20);
    take(&from.pool, "a", &spread());
    // The manifest is not written, and neither is the marker removed.
    let is_dead = Arc::new(AtomicBool::new(false));
    let dies = Arc::clone(&is_dead);
    let hooked = Hooked::new(&memory, move |request, path| {
        let is_last = request == Request::PutIfAbsent && path.starts_with("snapshots");
        if is_last {
            dies.store(true, Ordering::Relaxed);
        }
        match dies.load(Ordering::Relaxed) {
            true => Fate::Lost,
            false => Fate::Done,
        }
    });
    let path = object_store::path::Path::default();
    let dying = Store::on(hooked, path, "dying", None, Use::Existing).unwrap();
    for series in ["web", "db"] {
        is_dead.store(false, Ordering::Relaxed);
        let mut pusher = Pusher::of_series(dying.clone(), series);
        assert!(push(&mut pusher, &from.pool, "a").is_err());
    }
    assert_eq!(store.pushes().unwrap().len(), 2);
    let mut pusher = Pusher::of_series(store.clone(), "web");
    push(&mut pusher, &from.pool, "a").unwrap();
    // That of another series may live.
    assert_eq!(store.pushes().unwrap().len(), 1);
    let mut pusher = Pusher::of_series(store.clone(), "db");
    take(&from.pool, "b", &sparse());
    push(&mut pusher, &from.pool, "b").unwrap();
    assert!(store.pushes().unwrap().is_empty());
    assert_eq!(pulled(&store, "a"), spread());
}
