//! Bytes that one holder wrote are never read by another: not in blocks that it gets, nor anywhere
//! else in the pool.

use std::sync::Arc;

use nvvmm_snapshot::*;

use crate::fixture::*;
use crate::place::PoolPlace;

const SECRET: [u8; 16] = *b"for nobody else!";
const SIZE: u64 = 24 << 20;

fn hide(holder: &Holder, blocks: &[BlockNo]) {
    let page: Vec<u8> = SECRET
        .iter()
        .copied()
        .cycle()
        .take(BLOCK_SIZE_BYTES as usize)
        .collect();
    blocks
        .iter()
        .for_each(|block| holder.write_block(*block, &page).unwrap());
}

/// Reads every block of the pool, whoever's it is.
fn assert_no_trace(pool: &Pool, after: &str) {
    let mut bytes = [0; BLOCK_SIZE_BYTES as usize];
    for block in
        (0..pool.status().unwrap().total_blocks).filter_map(|number| u32::try_from(number).ok())
    {
        pool.read_block(BlockNo::new(block), &mut bytes).unwrap();
        let found = bytes != [0; BLOCK_SIZE_BYTES as usize]
            && bytes
                .chunks_exact(SECRET.len())
                .any(|piece| piece == SECRET);
        assert!(
            !found,
            "after {after}: block {block} shows what was written to it"
        );
    }
}

/// Takes every block that can be had, in each of the ways: they read as zero.
fn assert_all_zero(pool: &Arc<Pool>, after: &str) {
    let thief = pool.hold("thief").unwrap();
    let mut got: Vec<BlockNo> = Vec::new();
    let aside = thief.lease_chunk().unwrap();
    got.extend(
        aside
            .blocks()
            .filter(|block| thief.alloc_at(aside, block.index_in_chunk())),
    );
    while let Ok(chunk) = thief.alloc_chunk() {
        got.extend(chunk.blocks());
    }
    while let Ok(blocks) = thief.alloc_blocks(1) {
        got.extend(blocks);
    }
    let status = pool.status().unwrap();
    assert_eq!(status.free_blocks, 0, "after {after}");
    for block in got {
        assert_eq!(content(pool, block), 0, "after {after}: {block}");
    }
}

fn hand_over(overcommit: bool) {
    let place = PoolPlace::new();
    let pool = place.create_with(SIZE, overcommit);
    let assert_gone = |after: &str| {
        assert_no_trace(&pool, after);
        assert_all_zero(&pool, after);
        assert_clean(&pool);
    };
    let vm = pool.hold("vm").unwrap();
    let blocks = vm.alloc_blocks(700).unwrap();
    hide(&vm, &blocks);
    // Scattered over the pages of a medium whose pages are larger than blocks.
    let (freed, kept): (Vec<BlockNo>, Vec<BlockNo>) =
        blocks.iter().partition(|block| block.get() % 3 != 0);
    vm.free_blocks(&freed);
    for block in &freed {
        assert_eq!(content(&pool, *block), 0, "{block} was freed");
    }
    vm.free_blocks(&kept);
    drop(vm);
    assert_gone("blocks were freed");

    let vm = pool.hold("vm").unwrap();
    let chunk: Vec<BlockNo> = vm.alloc_chunk().unwrap().blocks().collect();
    hide(&vm, &chunk);
    hide(&vm, &vm.alloc_blocks(33).unwrap());
    drop(vm);
    assert_gone("a holder ended");

    let vm = pool.hold("vm").unwrap();
    let blocks = vm.alloc_blocks(40).unwrap();
    hide(&vm, &blocks);
    let maps: Vec<(ChunkIndex, ChunkMap)> = (0..2)
        .map(|half| {
            let entries: Vec<(u32, BlockNo)> = (0..)
                .zip(blocks[half * 20..][..20].iter().copied())
                .collect();
            (ChunkIndex::new(half as u32), leaf(&entries))
        })
        .collect();
    let state = [&SECRET[..]; 1000].concat();
    let first = NewSnapshot {
        state: &state,
        ..new("first", 4, &maps[..1])
    };
    let first = vm
        .commit_snapshot(first, vm.reserve(0).unwrap())
        .unwrap()
        .id;
    let second = NewSnapshot {
        base: Some(first),
        ..new("second", 4, &maps[1..])
    };
    let second = vm
        .commit_snapshot(second, vm.reserve(0).unwrap())
        .unwrap()
        .id;
    vm.unpin(first).unwrap();
    pool.remove("first").unwrap();
    vm.consume(second).unwrap();
    drop(vm);
    assert_gone("snapshots were removed and consumed");

    let vm = pool.hold("vm").unwrap();
    let blocks = vm.alloc_blocks(10).unwrap();
    hide(&vm, &blocks);
    let unwritten = [(ChunkIndex::new(0), leaf(&[(0, blocks[0])]))];
    let refused = NewSnapshot {
        state: &state,
        maps: vec![NewMap::memory(0, &unwritten)],
        ..new("never", 1, &unwritten)
    };
    assert!(vm.commit_snapshot(refused, vm.reserve(9).unwrap()).is_err());
    drop(vm);
    assert_gone("a commit failed");
}

#[test]
fn no_block_shows_what_another_holder_wrote_to_it() {
    hand_over(false);
}

#[test]
fn nor_does_one_that_the_medium_took_back_meanwhile() {
    hand_over(true);
}
