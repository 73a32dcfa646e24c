//! Freed blocks are cleaned outside of the catalog lock, by whoever comes to it.

use std::sync::Arc;

use super::*;
use crate::layout::inode::SnapshotKind;
use crate::number::{BLOCK_SIZE_BYTES, CHUNK_SIZE_BYTES};
use crate::{ChunkIndex, ChunkMap, CreateOptions, Holder, LeafBlocks, NewMap, NewSnapshot};
use crate::{Error, SnapshotId};

const CHUNKS: u32 = 12;

struct Bench {
    pool: Arc<Pool>,
    _directory: tempfile::TempDir,
}

fn bench(size_bytes: u64) -> Bench {
    let directory = tempfile::tempdir_in("/dev/shm").unwrap();
    let path = directory.path().join("pool");
    Bench {
        pool: Pool::create(&path, &CreateOptions::of_size(size_bytes)).unwrap(),
        _directory: directory,
    }
}

impl Bench {
    /// The same pool, opened once more, as by another process.
    fn another(&self) -> Arc<Pool> {
        Pool::open(self.pool.path()).unwrap()
    }

    fn waiting(&self) -> u32 {
        let chunks = self.pool.store.layout.data_chunks();
        chunks
            .map(|chunk| self.pool.store.fill(chunk).unwrap().waiting)
            .sum()
    }

    fn is_zero(&self, chunk: ChunkNo) -> bool {
        let mut blocks = chunk.blocks();
        blocks.all(|block| self.pool.store.is_zero(block).unwrap())
    }

    fn assert_in_order(&self) {
        let report = self.pool.check().unwrap();
        assert!(report.is_clean(), "{:#?}", report.findings);
    }
}

fn fill(holder: &Holder, chunk: ChunkNo) {
    for block in chunk.blocks() {
        let bytes = [block.get() as u8 | 1; BLOCK_SIZE_BYTES as usize];
        holder.write_block(block, &bytes).unwrap();
    }
}

fn commit(
    vm: &Holder,
    name: &str,
    base: Option<SnapshotId>,
    changes: &[(ChunkIndex, ChunkMap)],
    replaced: &[SnapshotId],
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
    let reservation = vm.reserve(0).unwrap();
    vm.commit_replacing(new, replaced, reservation).unwrap().id
}

/// Whole chunks, all written, in a snapshot.
fn take(vm: &Holder, name: &str, base: Option<SnapshotId>) -> (SnapshotId, Vec<ChunkNo>) {
    let chunks: Vec<ChunkNo> = (0..CHUNKS).map(|_| vm.alloc_chunk().unwrap()).collect();
    chunks.iter().for_each(|chunk| fill(vm, *chunk));
    let indices = (0..CHUNKS).map(ChunkIndex::new);
    let maps = chunks.iter().map(|chunk| ChunkMap::Whole(*chunk));
    let changes: Vec<(ChunkIndex, ChunkMap)> = indices.zip(maps).collect();
    (commit(vm, name, base, &changes, &[]), chunks)
}

#[test]
fn nothing_is_cleaned_under_the_catalog_lock() {
    let bench = bench(96 << 20);
    let pool = &bench.pool;
    let all = u64::from(CHUNKS) * CHUNK_SIZE_BYTES;
    let vm = pool.hold("vm").unwrap();

    // A removal by a command.
    let (first, chunks) = take(&vm, "first", None);
    vm.unpin(first).unwrap();
    let removed = pool.remove("first").unwrap();
    assert!(removed.blocks_freed * BLOCK_SIZE_BYTES >= all);
    assert!(chunks.iter().all(|chunk| bench.is_zero(*chunk)));
    assert_eq!(bench.waiting(), 0);
    assert!(pool.lock_use().bytes_cleaned >= all);

    // A removal that waits for a pin, and a commit that replaces.
    let (second, _) = take(&vm, "second", None);
    assert!(pool.remove("second").unwrap().deferred);
    vm.unpin(second).unwrap();
    assert!(bench.waiting() >= CHUNKS * CHUNK_BLOCKS);
    pool.clean().unwrap();
    let (third, chunks) = take(&vm, "third", None);
    let fourth = commit(&vm, "fourth", None, &[], &[third]);
    vm.unpin_others(fourth).unwrap();
    assert!(bench.waiting() >= CHUNKS * CHUNK_BLOCKS);
    pool.clean().unwrap();
    assert!(chunks.iter().all(|chunk| bench.is_zero(*chunk)));

    // The end of a holder with blocks that are in no snapshot.
    let other = pool.hold("other").unwrap();
    let chunk = other.alloc_chunk().unwrap();
    fill(&other, chunk);
    drop(other);
    assert!(bench.is_zero(chunk));

    let lock_use = pool.lock_use();
    assert_eq!(lock_use.bytes_cleaned_locked, 0, "{lock_use:?}");
    assert_eq!(bench.waiting(), 0);
    bench.assert_in_order();
}

/// A process dies with leases: whoever takes them back cleans nothing under the lock.
#[test]
fn blocks_of_a_dead_holder_wait() {
    let bench = bench(64 << 20);
    let pool = &bench.pool;
    let store = &pool.store;
    // A holder whose lock is gone, as if its process were dead.
    let (slot, chunks) = {
        let other = bench.another();
        let vm = other.hold("vm").unwrap();
        let chunks: Vec<ChunkNo> = (0..CHUNKS).map(|_| vm.alloc_chunk().unwrap()).collect();
        chunks.iter().for_each(|chunk| fill(&vm, *chunk));
        let slot = vm.slot();
        let content = store.holder_slot(slot).unwrap();
        let bytes: Vec<Vec<u8>> = chunks.iter().map(|chunk| read(pool, *chunk)).collect();
        drop(vm);
        for (chunk, bytes) in chunks.iter().zip(bytes) {
            store.region.write(chunk.byte_offset(), &bytes).unwrap();
            store.set_lease_owner(*chunk, Some(slot)).unwrap();
        }
        store.set_holder_slot(slot, &content).unwrap();
        (slot, chunks)
    };
    let before = pool.lock_use();
    let status = pool.status().unwrap();
    assert!(!store.holder_slot_is_used(slot).unwrap());
    assert_eq!(bench.waiting(), CHUNKS * CHUNK_BLOCKS);
    assert_eq!(status.leased_blocks, 0);
    assert_eq!(status.snapshot_blocks, 0);
    let now = pool.lock_use();
    assert_eq!(now.bytes_cleaned, before.bytes_cleaned);
    bench.assert_in_order();
    pool.clean().unwrap();
    assert!(chunks.iter().all(|chunk| bench.is_zero(*chunk)));
    assert_eq!(pool.lock_use().bytes_cleaned_locked, 0);
    bench.assert_in_order();
}

fn read(pool: &Pool, chunk: ChunkNo) -> Vec<u8> {
    let mut bytes = vec![0; CHUNK_SIZE_BYTES as usize];
    pool.store
        .region
        .read(chunk.byte_offset(), &mut bytes)
        .unwrap();
    bytes
}

/// Guests get blocks while a command has the catalog lock, and while freed blocks are cleaned.
#[test]
fn blocks_are_had_while_others_have_the_locks() {
    let bench = bench(64 << 20);
    let other = bench.another();
    let vm = other.hold("vm").unwrap();
    let taken = other.lock_use().times_taken;
    let catalog = CatalogLock::take(&bench.pool).unwrap();
    let cleaner = CleanerLock::take(&bench.pool).unwrap();
    let chunk = vm.alloc_chunk().unwrap();
    let blocks = vm.alloc_blocks(700).unwrap();
    let aside = vm.lease_chunk().unwrap();
    assert!(vm.alloc_at(aside, 5u32));
    vm.free_blocks(&blocks);
    vm.free_blocks(&chunk.blocks().collect::<Vec<_>>());
    let reservation = vm.reserve(20).unwrap();
    drop(reservation);
    assert_eq!(other.lock_use().times_taken, taken);
    drop((catalog, cleaner));
    bench.assert_in_order();
}

/// Frees all of a full pool, and cleans nothing.
fn full_of_waiting(bench: &Bench) -> Holder {
    let pool = &bench.pool;
    let vm = pool.hold("vm").unwrap();
    let (first, _) = take(&vm, "first", None);
    while vm.alloc_blocks(1).is_ok() {}
    vm.unpin(first).unwrap();
    pool.remove_only("first").unwrap();
    assert!(bench.waiting() >= CHUNKS * CHUNK_BLOCKS);
    vm
}

#[test]
fn a_full_pool_with_blocks_that_wait_is_not_full() {
    let bench = bench(32 << 20);
    let vm = full_of_waiting(&bench);
    let others = bench.another();
    let other = others.hold("other").unwrap();
    // Another process lets them be, and this one cleans what it needs.
    for _ in 0..CHUNKS / 2 {
        let chunk = other.alloc_chunk().unwrap();
        assert!(bench.is_zero(chunk));
        fill(&other, chunk);
    }
    let half = CHUNKS / 2 * CHUNK_BLOCKS;
    let blocks = vm.alloc_blocks(half).unwrap();
    let store = &bench.pool.store;
    assert!(blocks.iter().all(|block| store.is_zero(*block).unwrap()));
    assert!(matches!(other.alloc_chunk(), Err(Error::PoolFull { .. })));
    assert_eq!(others.lock_use().bytes_cleaned_locked, 0);
    bench.assert_in_order();
}

#[test]
fn a_removal_from_a_pool_full_of_waiting_blocks_succeeds() {
    let bench = bench(32 << 20);
    let vm = full_of_waiting(&bench);
    let mut leaf = LeafBlocks::new();
    leaf.set(0u32, Some(vm.alloc_blocks(1).unwrap()[0]));
    let map = ChunkMap::Frames(Arc::new(leaf));
    let id = commit(&vm, "small", None, &[(ChunkIndex::new(0), map)], &[]);
    vm.consume(id).unwrap();
    drop(vm);
    bench.pool.clean_all().unwrap();
    assert_eq!(bench.waiting(), 0);
    let status = bench.pool.status().unwrap();
    assert_eq!(
        status.free_blocks + status.metadata_blocks + status.snapshot_blocks,
        status.total_blocks
    );
    bench.assert_in_order();
}

/// The remains of a cleaner that died: blocks that wait, a number of them that is too high, a chunk
/// that is leased to nobody.
#[test]
fn the_next_cleaner_does_what_a_dead_one_left() {
    let bench = bench(64 << 20);
    let pool = &bench.pool;
    let vm = pool.hold("vm").unwrap();
    let (first, chunks) = take(&vm, "first", None);
    vm.unpin(first).unwrap();
    pool.remove_only("first").unwrap();
    let store = &pool.store;
    let half: Vec<BlockNo> = store.waiting(chunks[0]).unwrap();
    let half = &half[..100];
    store.punch_sorted(half).unwrap();
    let before = store.refcounts(chunks[0]).unwrap();
    let mut after = before;
    for block in half {
        after[block.index_in_chunk().as_usize()] = 0;
    }
    store.change_refcounts(chunks[0], &before, &after).unwrap();
    // Dead, before it said how many are left. And another one, that was done but for this:
    let free = vm.alloc_chunk().unwrap();
    vm.free_blocks(&free.blocks().collect::<Vec<_>>());
    assert!(store.try_lease(free, OWNER_LOCKED).unwrap());
    let region = &store.region;
    region.store_u32(RELEASING_OFFSET, free.get() + 1).unwrap();

    let next = bench.another();
    assert_eq!(store.lease_owner(free).unwrap(), None);
    assert_eq!(region.load_u32(RELEASING_OFFSET).unwrap(), 0);
    next.clean_all().unwrap();
    assert_eq!(bench.waiting(), 0);
    assert_eq!(store.fill(chunks[0]).unwrap(), Fill::default());
    assert!(chunks.iter().all(|chunk| bench.is_zero(*chunk)));
    assert_eq!(next.lock_use().bytes_cleaned_locked, 0);
    bench.assert_in_order();
}

#[test]
fn a_check_counts_what_a_dead_cleaner_left() {
    let bench = bench(64 << 20);
    let vm = bench.pool.hold("vm").unwrap();
    let chunk = vm.alloc_chunk().unwrap();
    vm.free_blocks(&chunk.blocks().collect::<Vec<_>>());
    let store = &bench.pool.store;
    store.change_fill(chunk, 0, 7).unwrap();
    bench.assert_in_order();
    assert_eq!(store.fill(chunk).unwrap(), Fill::default());
}

/// Two processes clean the same blocks, and a third one takes them meanwhile.
#[test]
fn cleaners_and_holders_do_not_disturb_each_other() {
    let bench = bench(64 << 20);
    let pools: Vec<Arc<Pool>> = (0..3).map(|_| bench.another()).collect();
    let vm = bench.pool.hold("vm").unwrap();
    for round in 0..4 {
        let name = format!("s{round}");
        let (id, _) = take(&vm, &name, None);
        vm.unpin(id).unwrap();
        bench.pool.remove_only(&name).unwrap();
        std::thread::scope(|scope| {
            for pool in &pools[..2] {
                scope.spawn(|| pool.clean_all().unwrap());
            }
            scope.spawn(|| {
                let user = pools[2].hold("user").unwrap();
                for _ in 0..30 {
                    let chunk = user.alloc_chunk().unwrap();
                    assert!(bench.is_zero(chunk), "{chunk}");
                    fill(&user, chunk);
                    let bytes = read(&bench.pool, chunk);
                    std::thread::yield_now();
                    assert_eq!(bytes, read(&bench.pool, chunk), "{chunk}");
                    user.free_blocks(&chunk.blocks().collect::<Vec<_>>());
                }
            });
        });
        assert_eq!(bench.waiting(), 0);
        bench.assert_in_order();
    }
}
