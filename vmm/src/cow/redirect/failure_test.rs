//! Failures half-way: no write is lost, and no block leaks.

use std::sync::Arc;

use nvvmm_snapshot::{
    ChunkIndex, ChunkMap, CreateOptions, FrameIndex, NewMap, NewSnapshot, Pool, SnapshotKind,
};
use vm_memory::GuestAddress;

use super::{chunk::LiveChunk, engine_test::Vm};
use crate::{
    cow::{
        counters::lock,
        mount_test::Mount,
        test_guest::{
            FRAME, MIB, PoolFile, assert_clean, ballast, consuming, pool_of,
            untouched_chunks_outlive_their_snapshot,
        },
        *,
    },
    stats::Phases,
    sys::address_range::Sharing,
};

fn wait_until_starved(vm: &Vm, writer: &std::thread::ScopedJoinHandle<'_, ()>) {
    while !vm.faults.is_starved() {
        assert!(
            !writer.is_finished(),
            "there is no block, so the access must wait"
        );
        std::thread::yield_now();
    }
}

#[test]
fn a_chunk_first_read_during_a_snapshot_that_fails_loses_no_later_write() {
    let place = PoolFile::new("late-read");
    let pool = pool_of(&place, 64 * MIB);
    let mut vm = Vm::start(&pool, 4 * MIB, None);
    vm.fill(0..1024, 1);
    vm.snapshot("s").unwrap();
    drop(vm);
    let mut vm: Vm = consuming(&pool, 4 * MIB, "s");
    let (_, room) = vm.prepare().unwrap();
    let set = vm.share_and_arm(room);
    // The guest goes on and reads what it has not touched yet, then the commit fails.
    vm.assert_filled(0..600, 1);
    vm.engine.roll_back(set);
    let own = vm.engine.counters().frames_own;
    vm.fill(0..1024, 2);
    vm.assert_filled(0..1024, 2);
    vm.snapshot("after").unwrap();
    let copy = Vm::start(&pool, 4 * MIB, Some("after"));
    copy.assert_filled(0..1024, 2);
    assert_eq!(own, 1024, "all that was the VM's own is so again");
    assert_clean(&pool);
}

/// Maps chunk 0 as the engine does for a restored snapshot, with a write that comes before the
/// arming.
fn map_with_an_unarmed_write(vm: &Vm, frame: u64, value: u64) {
    let engine = &vm.engine;
    let mut live = lock(engine.chunks.get(ChunkIndex::FIRST));
    let known = engine.chunks.know(ChunkIndex::FIRST, &mut live).unwrap();
    known.note_shared_are_private();
    let reservation = engine.ram().reservation();
    let runs = known.mapped_runs(&known.backed());
    for run in &runs {
        let (offset, size) = (
            run.frames.start as usize * FRAME_SIZE_BYTES,
            run.frames.len() * FRAME_SIZE_BYTES,
        );
        let fd = vm.holder.pool().fd();
        reservation
            .map_file(offset, size, fd, run.block.byte_offset(), Sharing::Private)
            .unwrap();
    }
    vm.write_word(value, GuestAddress(frame * FRAME + 8 * (frame % 500)));
    let start = reservation.start();
    engine
        .uffd()
        .register_write_protect(start, CHUNK_SIZE_BYTES)
        .unwrap();
    engine
        .uffd()
        .protect(start, CHUNK_SIZE_BYTES, true)
        .unwrap();
    known.note_mapped();
    engine.chunks.note_unreconciled(known);
}

#[test]
fn an_unarmed_write_that_finds_the_pool_full_is_in_the_next_snapshot() {
    let place = PoolFile::new("early");
    let pool = pool_of(&place, 32 * MIB);
    let mut vm = Vm::start(&pool, 2 * MIB, None);
    vm.fill(0..512, 1);
    vm.snapshot("s").unwrap();
    drop(vm);
    let mut vm = Vm::start(&pool, 2 * MIB, Some("s"));
    let reservation = vm.holder.reserve(16).unwrap();
    let _taken = vm.holder.take_blocks(496).unwrap();
    map_with_an_unarmed_write(&vm, 77, 4242);
    let ballast = ballast(&pool);
    while vm.holder.take_blocks(1).is_ok() {}
    assert!(
        matches!(vm.engine.stand_still().share(), Err(CowError::NoSpace(_))),
        "no map could tell of the write"
    );
    drop(ballast);
    let still = vm.engine.stand_still();
    let set = still.share().unwrap();
    assert_eq!(
        set.frames_new(),
        1,
        "the frame that was written, and no other"
    );
    still.arm(&set, &mut Phases::begin()).unwrap();
    drop(still);
    vm.commit("with", set, reservation).unwrap();
    let copy = Vm::start(&pool, 2 * MIB, Some("with"));
    assert_eq!(copy.read(77), 4242);
    copy.assert_filled((0..512).filter(|frame| *frame != 77), 1);
    let old = Vm::start(&pool, 2 * MIB, Some("s"));
    old.assert_filled(0..512, 1);
    assert_clean(&pool);
}

#[test]
fn an_access_to_a_chunk_reconciles_its_unarmed_writes() {
    let place = PoolFile::new("reconcile");
    let pool = pool_of(&place, 32 * MIB);
    let mut vm = Vm::start(&pool, 2 * MIB, None);
    vm.fill(0..512, 1);
    vm.snapshot("s").unwrap();
    drop(vm);
    let vm = Vm::start(&pool, 2 * MIB, Some("s"));
    map_with_an_unarmed_write(&vm, 300, 99);
    vm.write(5, 6);
    assert_eq!(vm.read(300), 99);
    assert!(
        vm.engine
            .own_block(ChunkIndex::FIRST, FrameIndex::new(300))
            .0
    );
    assert!(vm.engine.chunks.are_reconciled());
    vm.assert_filled((0..512).filter(|frame| ![5, 300].contains(frame)), 1);
}

#[test]
fn mappings_are_still_counted_after_a_consumed_snapshot_took_over_mapped_chunks() {
    let place = PoolFile::new("consume-count");
    let pool = pool_of(&place, 64 * MIB);
    let mut vm = Vm::start(&pool, 4 * MIB, None);
    vm.fill(0..1024, 1);
    vm.snapshot("base").unwrap();
    for frame in (0..512).step_by(32) {
        vm.write(frame, 7);
    }
    vm.snapshot("s").unwrap();
    drop(vm);
    let mut vm = Vm::start(&pool, 4 * MIB, Some("s"));
    // Restoring a device looks at memory before the snapshot is consumed.
    vm.read(0);
    let consumed = vm.holder.consume(vm.last.unwrap()).unwrap();
    vm.last = consumed.rest;
    vm.engine.take_over(consumed).unwrap();
    let (counted, real) = (vm.engine.counters().mappings, vm.mappings_of_the_kernel());
    assert!(real <= counted, "{real} mappings, {counted} counted");
    let live = lock(vm.engine.chunks.get(ChunkIndex::FIRST));
    let LiveChunk::Known(known) = &*live else {
        panic!("it was read")
    };
    assert_eq!(
        counted,
        known.mappings_now() as u64 + 1,
        "chunk 0 and the untouched rest"
    );
    drop(live);
    vm.fill(0..512, 3);
    vm.assert_filled(0..512, 3);
    vm.assert_filled(512..1024, 1);
    let base = Vm::start(&pool, 4 * MIB, Some("base"));
    base.assert_filled(0..1024, 1);
}

#[test]
fn chunks_untouched_since_a_restore_outlive_the_snapshot_it_was_made_from() {
    untouched_chunks_outlive_their_snapshot::<RedirectEngine>(&PoolFile::new("outlive"));
}

/// A file of others that takes all that a medium has. Dropping it removes it.
struct Filler(std::path::PathBuf);

impl Filler {
    fn fill(mount: &Mount) -> Self {
        let filler = Self(mount.path().join("filler"));
        filler.take_the_rest();
        filler
    }

    fn take_the_rest(&self) {
        let mut options = std::fs::OpenOptions::new();
        let file = options.create(true).append(true).open(&self.0).unwrap();
        let mut bytes = 64 << 20;
        while bytes >= 4096 {
            let end = file.metadata().unwrap().len() as i64;
            match nix::fcntl::fallocate(&file, nix::fcntl::FallocateFlags::empty(), end, bytes) {
                Ok(()) => {}
                Err(_) => bytes /= 2,
            }
        }
    }
}

impl Drop for Filler {
    fn drop(&mut self) {
        std::fs::remove_file(&self.0).unwrap();
    }
}

fn pool_on(mount: &Mount, place: &PoolFile, size_bytes: u64, overcommit: bool) -> Arc<Pool> {
    assert!(place.path.starts_with(mount.path()));
    let options = CreateOptions {
        size_bytes,
        overcommit,
    };
    Pool::create(&place.path, &options).unwrap()
}

fn writes_wait_for_a_full_medium(name: &str, budget: fn() -> Budget) {
    let Some(mount) = Mount::tmpfs(name, "size=32m") else {
        return;
    };
    let place = PoolFile::on(mount.path(), name);
    let pool = pool_on(&mount, &place, 256 * MIB, true);
    let mut vm = Vm::with_budget(&pool, 8 * MIB, None, budget());
    vm.fill(0..2048, 1);
    vm.snapshot("s").unwrap();
    let leases = pool.status().unwrap().free_blocks;
    let filler = Filler::fill(&mount);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| vm.fill(0..2048, 2));
        wait_until_starved(&vm, &writer);
        // Asked again and again, the pool loses nothing.
        std::thread::sleep(std::time::Duration::from_millis(300));
        let now = pool.status().unwrap().free_blocks;
        assert!(
            leases - now < 1024,
            "{} blocks are gone while nothing was written",
            leases - now
        );
        drop(filler);
        writer.join().unwrap();
    });
    vm.assert_filled(0..2048, 2);
    assert_clean(&pool);
}

/// The medium has all that the pool promises, and then others fill it.
fn others_fill_the_medium(name: &str, options: &str) {
    let Some(mount) = Mount::tmpfs(name, options) else {
        return;
    };
    let place = PoolFile::on(mount.path(), name);
    let pool = pool_on(&mount, &place, 48 * MIB, false);
    let vm = Vm::start(&pool, 16 * MIB, None);
    // One frame of every chunk is touched: nothing else of the chunk has memory.
    (0..8).for_each(|chunk| vm.write(chunk * 512, 1));
    let filler = Filler::fill(&mount);
    let frames = 16 * MIB / FRAME;
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| vm.fill(0..frames, 3));
        // A huge page behind each chunk that was touched may be all that it needs.
        while !vm.faults.is_starved() && !writer.is_finished() {
            std::thread::yield_now();
        }
        let starved_of = vm.faults.starved_of();
        assert!(starved_of == Some(Lack::Medium) || options.contains("huge="));
        drop(filler);
        writer.join().unwrap();
    });
    vm.assert_filled(0..frames, 3);
    assert_clean(&pool);
}

#[test]
fn a_medium_that_others_fill_holds_first_touches_and_kills_nobody() {
    others_fill_the_medium("strangers", "size=64m");
}

#[test]
fn a_medium_of_huge_pages_that_others_fill_kills_nobody() {
    others_fill_the_medium("strangers-huge", "size=64m,huge=always");
}

/// A snapshot of an older program, whose guest had a whole chunk and touched little of it.
#[test]
fn memory_that_a_snapshot_lacks_is_given_before_it_is_mapped() {
    let Some(mount) = Mount::tmpfs("older", "size=64m") else {
        return;
    };
    let place = PoolFile::on(mount.path(), "older");
    let pool = pool_on(&mount, &place, 48 * MIB, false);
    let older = pool.hold("older").unwrap();
    let chunk = older.lease_chunk().unwrap();
    assert!((0..512).all(|index| older.alloc_at(chunk, index)));
    older
        .write_block(chunk.block(FrameIndex::new(7)), &[5; 4096])
        .unwrap();
    let changes = [(ChunkIndex::FIRST, ChunkMap::Whole(chunk))];
    let new = NewSnapshot {
        kind: SnapshotKind::Vm,
        name: "s",
        parent: None,
        base: None,
        maps: vec![NewMap::memory(2 * MIB, &changes)],
        state: b"state",
        frames_new: 512,
    };
    older
        .commit_snapshot(new, older.reserve(16).unwrap())
        .unwrap();
    let filler = Filler::fill(&mount);
    let vm = Vm::start(&pool, 2 * MIB, Some("s"));
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            assert_eq!(vm.read(100), 0);
            assert_eq!(vm.read(7), u64::from_ne_bytes([5; 8]));
        });
        wait_until_starved(&vm, &reader);
        assert_eq!(vm.faults.starved_of(), Some(Lack::Medium));
        drop(filler);
        reader.join().unwrap();
    });
    vm.fill(0..512, 9);
    vm.assert_filled(0..512, 9);
    assert_clean(&pool);
}

fn removals_find_their_blocks(name: &str, size_mib: u64, overcommit: bool) {
    const SNAPSHOTS: u64 = 8;
    let Some(mount) = Mount::tmpfs(name, "size=32m") else {
        return;
    };
    let place = PoolFile::on(mount.path(), name);
    let pool = pool_on(&mount, &place, size_mib * MIB, overcommit);
    let mut vm = Vm::start(&pool, 8 * MIB, None);
    for number in 0..SNAPSHOTS {
        vm.fill((0..2048).step_by(512), number);
        vm.snapshot(&format!("s{number}")).unwrap();
    }
    let filler = Filler::fill(&mount);
    // What a removal gives back is gone at once, as if the guest had taken it.
    for number in 0..SNAPSHOTS - 1 {
        let removed = pool.remove(&format!("s{number}"));
        assert!(removed.is_ok(), "s{number}: {removed:?}");
        filler.take_the_rest();
    }
    // A pool that is opened anew has them, too.
    let again = Pool::open(&place.path).unwrap();
    again.remove(&format!("s{}", SNAPSHOTS - 1)).unwrap();
    drop(filler);
    assert_clean(&pool);
}

#[test]
fn removals_find_their_blocks_on_a_full_medium() {
    removals_find_their_blocks("rm-over", 100, true);
    removals_find_their_blocks("rm", 24, false);
}

#[test]
fn a_full_medium_under_an_overcommitted_pool_holds_writes_and_kills_nobody() {
    writes_wait_for_a_full_medium("medium", Budget::of_this_process);
}

#[test]
fn a_full_medium_and_a_spent_budget_lose_no_chunk() {
    writes_wait_for_a_full_medium("medium-spent", || Budget::with_limit(1));
}
