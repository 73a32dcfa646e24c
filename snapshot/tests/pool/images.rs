//! Process images beside snapshots of VMs: they share blocks, and each keeps what the other gives
//! up.

use std::sync::Arc;

use nvvmm_snapshot::*;

use crate::fixture::*;

fn image<'a>(name: &'a str, changes: &'a [(ChunkIndex, ChunkMap)]) -> NewSnapshot<'a> {
    NewSnapshot {
        kind: SnapshotKind::Process,
        maps: vec![NewMap::memory(8 * BLOCK_SIZE_BYTES, changes)],
        state: b"all else that the processes are",
        ..new(name, 1, changes)
    }
}

/// The content of each page of a process image; `None` for a hole.
fn pages(pool: &Arc<Pool>, name: &str) -> Vec<Option<u8>> {
    let reader = pool.hold("reader").unwrap();
    let (entry, map) = reader.pin(name).unwrap();
    assert_eq!((entry.kind, map.chunks_total()), (SnapshotKind::Process, 1));
    let map = map.chunk(0).unwrap();
    (0..8)
        .map(|page| map.block(page).map(|block| content(pool, block)))
        .collect()
}

fn filled(vm: &Holder, count: u32) -> Vec<BlockNo> {
    let blocks = vm.alloc_blocks(count).unwrap();
    for (number, block) in (1..).zip(&blocks) {
        fill(vm, *block, number);
    }
    blocks
}

#[test]
fn frames_of_a_vm_are_pages_of_an_image_and_frames_again() {
    let bench = pool_of(16 << 20);
    let pool = &bench.pool;
    let free = pool.status().unwrap().free_blocks;
    let vm = pool.hold("vm").unwrap();
    let blocks = filled(&vm, 4);

    // Two frames of the VM's own, before it has any snapshot.
    let captured = [(ChunkIndex::new(0), leaf(&[(0, blocks[2]), (5, blocks[0])]))];
    let first = vm
        .commit_snapshot(image("first", &captured), vm.reserve(0).unwrap())
        .unwrap();
    assert!(pool.snapshots().unwrap()[0].kind == SnapshotKind::Process);
    assert_eq!(
        pages(pool, "first")[..6],
        [Some(3), None, None, None, None, Some(1)]
    );

    // A snapshot of the VM has them, too, and two more; it needs the image's pin no longer.
    let memory: Vec<(u32, BlockNo)> = (0..).zip(blocks.iter().copied()).collect();
    let memory = [(ChunkIndex::new(0), leaf(&memory))];
    let base = vm
        .commit_snapshot(new("vm", 1, &memory), vm.reserve(0).unwrap())
        .unwrap()
        .id;
    vm.unpin_others(base).unwrap();
    assert_clean(pool);
    assert!(matches!(vm.unpin(first.id), Err(Error::NotPinned { .. })));

    // An image of frames that only the snapshot of the VM has now; a page may be in two places.
    let captured = [(
        ChunkIndex::new(0),
        leaf(&[(1, blocks[3]), (2, blocks[3]), (3, blocks[0])]),
    )];
    vm.commit_snapshot(image("second", &captured), vm.reserve(0).unwrap())
        .unwrap();
    assert_clean(pool);

    // Each keeps what the others had.
    pool.remove("vm").unwrap();
    pool.remove("first").unwrap();
    vm.unpin_others(pool.find("second").unwrap().id).unwrap();
    assert_clean(pool);
    assert_eq!(
        pages(pool, "second")[..4],
        [None, Some(4), Some(4), Some(1)]
    );
    let status = pool.status().unwrap();
    // Two pages, a leaf, the inode, the state, the catalog.
    assert_eq!(
        (status.snapshot_blocks, status.orphans),
        (2 + 1 + 1 + 1 + 2, 0)
    );
    pool.remove("second").unwrap();
    drop(vm);
    assert_clean(pool);
    assert_eq!(pool.status().unwrap().free_blocks, free);
}

#[test]
fn an_image_that_was_removed_stays_for_those_who_have_its_pages() {
    let bench = pool_of(16 << 20);
    let pool = &bench.pool;
    let taker = pool.hold("taker").unwrap();
    let blocks = filled(&taker, 1);
    let captured = [(ChunkIndex::new(0), leaf(&[(7, blocks[0])]))];
    taker
        .commit_snapshot(image("p", &captured), taker.reserve(0).unwrap())
        .unwrap();
    let adopter = pool.hold("adopter").unwrap();
    let (entry, map) = adopter.pin("p").unwrap();
    drop(taker);
    assert!(pool.remove("p").unwrap().deferred);
    assert_eq!(pool.status().unwrap().orphans, 1);
    assert_eq!(content(pool, map.chunk(0).unwrap().block(7).unwrap()), 1);
    // The adopter's own snapshot has the page in its memory.
    let memory = [(ChunkIndex::new(0), leaf(&[(100, blocks[0])]))];
    let base = adopter
        .commit_snapshot(new("vm", 1, &memory), adopter.reserve(0).unwrap())
        .unwrap()
        .id;
    adopter.unpin_others(base).unwrap();
    assert!(matches!(
        adopter.unpin(entry.id),
        Err(Error::NotPinned { .. })
    ));
    assert_eq!(pool.status().unwrap().orphans, 0);
    assert_clean(pool);
    assert_eq!(content(pool, blocks[0]), 1);
}

#[test]
fn blocks_of_what_is_not_pinned_and_bases_of_another_kind_are_refused() {
    let bench = pool_of(16 << 20);
    let pool = &bench.pool;
    let vm = pool.hold("vm").unwrap();
    let blocks = filled(&vm, 2);
    let memory = [(ChunkIndex::new(0), leaf(&[(0, blocks[0])]))];
    let base = vm
        .commit_snapshot(new("vm", 1, &memory), vm.reserve(0).unwrap())
        .unwrap()
        .id;
    let other = pool.hold("other").unwrap();
    let captured = [(ChunkIndex::new(0), leaf(&[(0, blocks[0])]))];
    let not_pinned = other.commit_snapshot(image("p", &captured), other.reserve(0).unwrap());
    assert!(
        matches!(not_pinned, Err(Error::InvalidSnapshot { .. })),
        "{not_pinned:?}"
    );
    let someones = other.commit_snapshot(
        image("p", &[(ChunkIndex::new(0), leaf(&[(0, blocks[1])]))]),
        other.reserve(0).unwrap(),
    );
    assert!(
        matches!(someones, Err(Error::InvalidSnapshot { .. })),
        "{someones:?}"
    );
    let based = NewSnapshot {
        base: Some(base),
        maps: vec![NewMap::memory(CHUNK, &captured)],
        ..image("p", &captured)
    };
    let error = vm
        .commit_snapshot(based, vm.reserve(0).unwrap())
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("process image") && error.contains("snapshot of a VM"),
        "{error}"
    );
    assert!(matches!(
        other.unpin_others(base),
        Err(Error::NotPinned { .. })
    ));
    assert_clean(pool);
    assert_eq!(pool.snapshots().unwrap().len(), 1);
}

#[test]
fn a_vm_that_pins_all_it_can_takes_the_snapshot_that_lets_it_let_go() {
    let bench = pool_of(16 << 20);
    let pool = &bench.pool;
    let vm = pool.hold("vm").unwrap();
    let mut frames = Vec::new();
    let refused = loop {
        let number = frames.len() as u32;
        let block = vm.alloc_blocks(1).unwrap()[0];
        fill(&vm, block, number as u8 + 1);
        let page = [(ChunkIndex::new(0), leaf(&[(0, block)]))];
        let name = format!("p{number}");
        match vm.commit_snapshot(image(&name, &page), vm.reserve(0).unwrap()) {
            Ok(_) => frames.push((number, block)),
            Err(error) => break error,
        }
    };
    assert!(
        matches!(refused, Error::TooManyPins { count: 11 }),
        "{refused:?}"
    );
    assert_eq!(frames.len(), 11);
    assert_clean(pool);
    let memory = [(ChunkIndex::new(0), leaf(&frames))];
    let base = vm
        .commit_snapshot(new("vm", 1, &memory), vm.reserve(0).unwrap())
        .unwrap()
        .id;
    vm.unpin_others(base).unwrap();
    vm.pin("p0").unwrap();
    assert_clean(pool);
    for (number, block) in frames {
        assert_eq!(content(pool, block), number as u8 + 1);
    }
}
