//! Space that a pool promises is there, or the pool is not made.

use nvvmm_snapshot::*;

use crate::fixture::*;
use crate::place::PoolPlace;

const SIZE: u64 = 24 << 20;

/// Bytes that another pool could have, from what a pool that is too large is told.
fn left_for_others() -> u64 {
    // A device has one pool only.
    let place = PoolPlace::new();
    let options = CreateOptions {
        size_bytes: 8 << 40,
        overcommit: false,
    };
    match Pool::create(place.path(), &options) {
        Err(Error::NoSpaceOnMedium {
            needed_bytes,
            available_bytes,
            ..
        }) => {
            assert!(needed_bytes > available_bytes);
            assert!(place.path().exists() == (place.medium() == Medium::Devdax));
            available_bytes
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_pool_larger_than_its_medium_is_refused() {
    assert!(left_for_others() >= SIZE);
}

/// Uses every block, and frees it again.
fn use_all(pool: &std::sync::Arc<Pool>) {
    let vm = pool.hold("vm").unwrap();
    while let Ok(chunk) = vm.alloc_chunk() {
        chunk.blocks().for_each(|block| fill(&vm, block, 0x31));
    }
    drop(vm);
    assert_clean(pool);
}

#[test]
fn what_was_set_aside_stays_so_however_the_pool_is_used() {
    let place = PoolPlace::new();
    let grow = |pool: &Pool| {
        let options = GrowOptions {
            size_bytes: 2 * SIZE,
            overcommit: false,
        };
        pool.grow(&options).unwrap();
    };
    match place.medium() {
        Medium::Hugetlbfs => {
            let before = left_for_others();
            let pool = place.create(SIZE);
            assert_eq!(left_for_others(), before - SIZE);
            use_all(&pool);
            assert_eq!(left_for_others(), before - SIZE);
            grow(&pool);
            use_all(&pool);
            assert_eq!(left_for_others(), before - 2 * SIZE);
            drop(pool);
            Pool::delete(place.path()).unwrap();
            assert_eq!(left_for_others(), before);
        }
        Medium::File | Medium::Fsdax => {
            let pool = place.create(SIZE);
            let held = || pool.status().unwrap().medium_bytes;
            assert!(held() >= SIZE);
            use_all(&pool);
            assert!(held() >= SIZE);
            grow(&pool);
            use_all(&pool);
            assert!(held() >= 2 * SIZE);
        }
        Medium::Tmpfs | Medium::Devdax => {
            println!("SKIPPED: {} sets nothing aside", place.medium());
        }
    }
}

#[test]
fn what_is_not_set_aside_goes_back() {
    let place = PoolPlace::new();
    if place.medium() == Medium::Devdax {
        println!("SKIPPED: a device takes nothing back");
        return;
    }
    let pool = place.create_with(SIZE, true);
    let held = || pool.status().unwrap().medium_bytes;
    let empty = held();
    let vm = pool.hold("vm").unwrap();
    let chunk = vm.alloc_chunk().unwrap();
    chunk.blocks().for_each(|block| fill(&vm, block, 0x61));
    let whole = [(ChunkIndex::new(0), ChunkMap::Whole(chunk))];
    vm.commit_snapshot(new("whole", 1, &whole), vm.reserve(0).unwrap())
        .unwrap();
    let blocks = vm.alloc_blocks(600).unwrap();
    blocks.iter().for_each(|block| fill(&vm, *block, 0x62));
    vm.free_blocks(&blocks[..10]);
    assert!(held() >= empty + 1100 * BLOCK_SIZE_BYTES);
    drop(vm);
    assert_eq!(content(&pool, chunk.block(511)), 0x61);
    pool.remove("whole").unwrap();
    assert_clean(&pool);
    // Tables of the chunks that were used, and what a file system needs to know its holes.
    let tables = 16 * BLOCK_SIZE_BYTES;
    assert!(held() <= empty + tables, "{} of {empty} are held", held());
}

#[test]
fn a_mapped_pool_is_left_out_of_core_dumps() {
    let bench = pool_of(SIZE);
    let path = bench.place.path().canonicalize().unwrap();
    let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    // The line of a mapping ends with its file; others, down to its flags, follow.
    let mut is_pool = false;
    let mut found = 0;
    for line in maps.lines() {
        let is_head = line
            .split(' ')
            .next()
            .is_some_and(|range| range.contains('-'));
        if is_head {
            is_pool = line.ends_with(path.to_str().unwrap());
        } else if is_pool && let Some(flags) = line.strip_prefix("VmFlags:") {
            assert!(flags.split(' ').any(|flag| flag == "dd"), "{flags}");
            found += 1;
        }
    }
    assert!(found > 0);
}
