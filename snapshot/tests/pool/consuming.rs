//! Consuming a snapshot.

use std::sync::Arc;

use nvvmm_snapshot::*;

use crate::fixture::*;

/// Four filled blocks, and the map of a chunk that begins with them.
fn four_frames(vm: &Holder) -> (Vec<BlockNo>, ChunkMap) {
    let blocks = vm.alloc_blocks(4).unwrap();
    blocks.iter().for_each(|block| fill(vm, *block, 0x10));
    let map = leaf(&[
        (0, blocks[0]),
        (1, blocks[1]),
        (2, blocks[2]),
        (3, blocks[3]),
    ]);
    (blocks, map)
}

#[test]
fn consuming_leaves_what_is_shared_or_leased_to_others() {
    let bench = pool_of(32 << 20);
    let pool = &bench.pool;
    let vm = pool.hold("vm").unwrap();
    let (blocks, map) = four_frames(&vm);
    let old = vm
        .commit_snapshot(
            new("old", 4, &[(ChunkIndex::new(1), map)]),
            vm.reserve(0).unwrap(),
        )
        .unwrap()
        .id;
    // Frame 0 stays shared; the others are written again.
    let fresh = vm.alloc_blocks(3).unwrap();
    let map = leaf(&[(0, blocks[0]), (1, fresh[0]), (2, fresh[1]), (3, fresh[2])]);
    let changes = [(ChunkIndex::new(1), map)];
    let next = NewSnapshot {
        base: Some(old),
        ..new("next", 4, &changes)
    };
    vm.commit_snapshot(next, vm.reserve(0).unwrap()).unwrap();

    let clone = pool.hold("clone").unwrap();
    clone.pin("old").unwrap();
    assert!(
        matches!(clone.consume(old), Err(Error::Busy { holder, .. }) if holder.contains("'vm'"))
    );
    vm.unpin(old).unwrap();
    // The VM goes on in the same chunk: its lease keeps the clone from taking blocks there.
    let going_on = vm.alloc_blocks(5).unwrap();
    assert_eq!(going_on[0].chunk(), blocks[1].chunk());
    going_on.iter().for_each(|block| fill(&vm, *block, 0x20));
    let consumed = clone.consume(old).unwrap();
    assert_eq!((consumed.memory().len(), consumed.rest), (1, Some(old)));
    assert_eq!(consumed.memory()[0].map.count(), 4);
    assert!(
        consumed.memory()[0].taken.is_empty(),
        "{:?}",
        consumed.memory()[0].taken
    );
    assert!(
        pool.snapshots()
            .unwrap()
            .iter()
            .all(|entry| entry.name != "old")
    );
    assert_clean(pool);
    assert_eq!(
        content(pool, consumed.memory()[0].map.block(1).unwrap()),
        0x10,
        "the rest stays readable"
    );
    drop(clone);
    assert_clean(pool);
    assert_eq!(content(pool, going_on[4]), 0x20);
    assert!(
        vm.write_block(going_on[4], &[1]).is_ok(),
        "the lease is still the VM's"
    );
}

#[test]
fn what_is_left_of_a_consumed_snapshot_is_the_base_of_the_next() {
    let bench = pool_of(32 << 20);
    let pool = &bench.pool;
    let vm = pool.hold("vm").unwrap();
    let (blocks, map) = four_frames(&vm);
    vm.commit_snapshot(
        new("next", 4, &[(ChunkIndex::new(1), map)]),
        vm.reserve(0).unwrap(),
    )
    .unwrap();
    let (entry, _) = vm.pin("next").unwrap();
    let mut map = vm.frame_map(entry.id).unwrap().chunk(1).unwrap().to_leaf();
    let only = vm.alloc_blocks(1).unwrap()[0];
    fill(&vm, only, 0x30);
    map.set(2, Some(only));
    let changes = [(ChunkIndex::new(1), ChunkMap::Frames(Arc::new(map)))];
    let last = NewSnapshot {
        base: Some(entry.id),
        ..new("last", 4, &changes)
    };
    let last = vm.commit_snapshot(last, vm.reserve(0).unwrap()).unwrap().id;
    vm.unpin(entry.id).unwrap();
    let consumed = vm.consume(last).unwrap();
    assert_eq!(consumed.memory()[0].taken.iter().collect::<Vec<_>>(), [2]);
    fill(&vm, only, 0x31);
    assert!(matches!(
        vm.write_block(blocks[0], &[1]),
        Err(Error::InvalidSnapshot { .. })
    ));
    // What was left becomes the base of the next snapshot.
    assert_eq!(consumed.rest, Some(last));
    let rest = vm.frame_map(last).unwrap().chunk(1).unwrap();
    assert_eq!(rest.present().iter().collect::<Vec<_>>(), [0, 1, 3]);
    let after = NewSnapshot {
        base: consumed.rest,
        ..new("after", 4, &changes)
    };
    vm.commit_snapshot(after, vm.reserve(0).unwrap()).unwrap();
    vm.unpin(last).unwrap();
    assert_eq!(pool.find("after").unwrap().frames_mapped, 4);
    assert_clean(pool);
}
