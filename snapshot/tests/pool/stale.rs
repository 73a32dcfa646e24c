//! Chunks that a ring's commits make free are kept for the next copies, and for nobody else.

use nvvmm_snapshot::*;

use crate::fixture::*;

const KEEP: usize = 2;

/// A ring whose guest writes all of chunk 0 before each checkpoint, by a copy of what was there.
struct Ring<'h> {
    vm: &'h Holder,
    current: ChunkNo,
    members: Vec<SnapshotId>,
    number: u8,
}

impl<'h> Ring<'h> {
    fn of(vm: &'h Holder) -> Self {
        let current = vm.alloc_chunk().unwrap();
        let ring = Self {
            vm,
            current,
            members: Vec::new(),
            number: 0,
        };
        ring.write();
        ring
    }

    fn write(&self) {
        fill(self.vm, self.current.block(3), self.number);
    }

    fn checkpoint(&mut self) {
        let changes = [(ChunkIndex::new(0), ChunkMap::Whole(self.current))];
        let name = format!("vm@{}", self.number);
        let base = self.members.last().copied();
        let snapshot = NewSnapshot {
            base,
            parent: base,
            ..new(&name, 2, &changes)
        };
        let oldest = (self.members.len() + 1).saturating_sub(KEEP);
        let replaced: Vec<SnapshotId> = self.members.drain(..oldest).collect();
        let reservation = self.vm.reserve(0).unwrap();
        let committed = self
            .vm
            .commit_replacing(snapshot, &replaced, reservation)
            .unwrap();
        self.members.push(committed.id);
        self.vm.unpin_others(committed.id).unwrap();
    }

    /// The next epoch; the chunk that the copy went to.
    fn go_on(&mut self) -> ChunkNo {
        self.number += 1;
        let copy = self.vm.alloc_chunk_for_copy().unwrap().chunk;
        self.vm.copy_chunk(self.current, copy).unwrap();
        self.current = copy;
        self.write();
        self.checkpoint();
        copy
    }
}

fn is_kept(pool: &Pool) -> bool {
    let holder = pool.status().unwrap().holders[0].clone();
    holder.blocks_in_use >= CHUNK_BLOCKS
}

#[test]
fn a_ring_goes_round_in_the_chunks_that_it_has() {
    let bench = pool_of(64 << 20);
    let pool = &bench.pool;
    let vm = pool.hold("vm").unwrap();
    let mut ring = Ring::of(&vm);
    ring.checkpoint();
    let mut used: Vec<ChunkNo> = Vec::new();
    for _ in 0..20 {
        let chunk = ring.go_on();
        if !used.contains(&chunk) {
            used.push(chunk);
        }
        assert_clean(pool);
    }
    assert!(used.len() <= KEEP + 2, "20 copies went to {used:?}");
    assert!(is_kept(pool));
    for entry in pool.entries().unwrap() {
        let (_, map) = pool.hold("reader").unwrap().pin(&entry.name).unwrap();
        let number = content(pool, map.chunk(0).unwrap().block(3).unwrap());
        assert_eq!(entry.name, format!("vm@{number}"));
    }
}

#[test]
fn what_is_kept_is_given_back_zeroed() {
    let bench = pool_of(64 << 20);
    let pool = &bench.pool;
    let vm = pool.hold("vm").unwrap();
    let mut ring = Ring::of(&vm);
    ring.checkpoint();
    for _ in 0..5 {
        ring.go_on();
    }
    assert!(is_kept(pool));
    assert!(!vm.give_back_stale().unwrap(), "some were used just now");
    assert!(vm.give_back_stale().unwrap());
    assert!(!is_kept(pool));
    assert_clean(pool);
    let fresh = vm.alloc_chunk().unwrap();
    assert!(fresh.blocks().all(|block| content(pool, block) == 0));
}

#[test]
fn what_is_kept_is_nobody_elses_and_zeroed_at_the_end() {
    let bench = pool_of(16 << 20);
    let pool = &bench.pool;
    let vm = pool.hold("vm").unwrap();
    let mut ring = Ring::of(&vm);
    ring.checkpoint();
    for _ in 0..5 {
        ring.go_on();
    }
    let other = pool.hold("other").unwrap();
    let mut got = Vec::new();
    while let Ok(chunk) = other.alloc_chunk() {
        got.extend(chunk.blocks());
    }
    assert!(got.iter().all(|block| content(pool, *block) == 0));
    // Others want it: that it was used is no reason to keep it any more.
    ring.go_on();
    assert!(vm.give_back_stale().unwrap());
    assert!(other.alloc_chunk().is_ok());
    drop(vm);
    assert_clean(pool);
    drop(other);
    assert_clean(pool);
}

#[test]
fn what_is_not_copied_for_is_not_kept() {
    let bench = pool_of(64 << 20);
    let pool = &bench.pool;
    let vm = pool.hold("vm").unwrap();
    let mut ring = Ring::of(&vm);
    ring.checkpoint();
    for _ in 0..5 {
        ring.number += 1;
        ring.current = vm.alloc_chunk().unwrap();
        ring.write();
        ring.checkpoint();
        assert!(!is_kept(pool));
    }
    assert_clean(pool);
}

/// Makes chunks ready, if the kernel can make huge pages of a tmpfs here.
fn make_ready(pool: &Pool, vm: &Holder, count: usize) -> bool {
    vm.make_ready(count).unwrap();
    let made = pool.huge_pages_made();
    if made == 0 {
        eprintln!("SKIPPED: no huge pages of a tmpfs here");
    }
    made > 0
}

#[test]
fn chunks_that_are_ready_are_one_page_and_the_holders_own() {
    let bench = pool_of(64 << 20);
    let pool = &bench.pool;
    let vm = pool.hold("vm").unwrap();
    let source = vm.alloc_chunk().unwrap();
    fill(&vm, source.block(7), 7);
    if !make_ready(pool, &vm, 3) {
        return;
    }
    assert_eq!(pool.huge_pages_made(), 3);
    vm.make_ready(3).unwrap();
    assert_eq!(pool.huge_pages_made(), 3, "some are there");
    assert_clean(pool);
    for _ in 0..3 {
        let target = vm.alloc_chunk_for_copy().unwrap();
        assert!(target.one_page);
        assert!(target.chunk.blocks().all(|block| content(pool, block) == 0));
        vm.copy_chunk(source, target.chunk).unwrap();
        assert_eq!(content(pool, target.chunk.block(7)), 7);
        // A part of a page can be given back alone.
        vm.free_blocks(&target.chunk.blocks().take(8).collect::<Vec<_>>());
        assert_eq!(content(pool, target.chunk.block(7)), 0);
    }
    assert!(!vm.alloc_chunk_for_copy().unwrap().one_page);
    assert_clean(pool);
}

#[test]
fn chunks_that_are_ready_and_not_used_are_given_back_zeroed() {
    let bench = pool_of(64 << 20);
    let pool = &bench.pool;
    let vm = pool.hold("vm").unwrap();
    let free = pool.status().unwrap().free_blocks;
    if !make_ready(pool, &vm, 4) {
        return;
    }
    assert!(is_kept(pool));
    assert!(!vm.give_back_stale().unwrap(), "they were made just now");
    assert!(vm.give_back_stale().unwrap());
    assert_eq!(pool.status().unwrap().free_blocks, free);
    assert!(make_ready(pool, &vm, 4));
    drop(vm);
    assert_eq!(pool.status().unwrap().free_blocks, free);
    assert_clean(pool);
}

#[test]
fn no_more_is_made_ready_than_the_pool_has() {
    let bench = pool_of(16 << 20);
    let pool = &bench.pool;
    let vm = pool.hold("vm").unwrap();
    vm.make_ready(64).unwrap();
    let mut chunks = Vec::new();
    while let Ok(target) = vm.alloc_chunk_for_copy() {
        chunks.push(target.chunk);
    }
    chunks
        .iter()
        .for_each(|chunk| assert!(chunk.blocks().all(|block| content(pool, block) == 0)));
    drop(vm);
    assert_clean(pool);
}

#[test]
fn who_wants_no_huge_pages_gets_ordinary_chunks() {
    let bench = pool_of(64 << 20);
    let pool = &bench.pool;
    pool.want_huge_pages(false);
    let vm = pool.hold("vm").unwrap();
    vm.make_ready(3).unwrap();
    assert_eq!(pool.huge_pages_made(), 0);
    // Some media have no other pages.
    let one_page = vm.alloc_chunk_for_copy().unwrap().one_page;
    assert_eq!(one_page, pool.medium().page_bytes() > BLOCK_SIZE_BYTES);
    assert_clean(pool);
}
