//! Pools as programs of older versions left them: whatever they hold is there afterwards.
//!
//! Each `tests/fixtures/version-N.pool.zst` was written by the last nvvmm whose format was version
//! N, in a process that ended without a word while a VM had a snapshot and a block of its own.

use std::{fs::File, io::Read, os::unix::fs::FileExt, sync::Arc};

use nvvmm_snapshot::{NewSnapshot, Pool, SnapshotKind};

use crate::{
    fixture::{assert_clean, fill, leaf, new},
    place::PoolPlace,
};

const BLOCK_BYTES: usize = 4096;
/// Place of the format's version in a superblock (docs/formats/pool.md).
const VERSION_OFFSET: usize = 8;
/// The version that a pool has once this program has used it alone.
const NEWEST: u32 = 8;

/// Chunk, frame, and the byte that fills it.
type Frames = Vec<(u32, u32, u8)>;

/// A pool of that version in a place of its own.
fn unpack(version: u32) -> PoolPlace {
    let packed = format!(
        "{}/tests/fixtures/version-{version}.pool.zst",
        env!("CARGO_MANIFEST_DIR")
    );
    let mut bytes = Vec::new();
    let mut unpacked = zstd::Decoder::new(File::open(packed).unwrap()).unwrap();
    unpacked.read_to_end(&mut bytes).unwrap();
    assert_eq!(version_of(&bytes), version);
    let place = PoolPlace::in_memory();
    let file = File::create(place.path()).unwrap();
    file.set_len(bytes.len() as u64).unwrap();
    for (number, block) in bytes.chunks(BLOCK_BYTES).enumerate() {
        if block.iter().any(|byte| *byte != 0) {
            file.write_all_at(block, (number * BLOCK_BYTES) as u64)
                .unwrap();
        }
    }
    place
}

fn version_of(bytes: &[u8]) -> u32 {
    u32::from_le_bytes(*bytes[VERSION_OFFSET..].first_chunk().unwrap())
}

/// Reads the whole memory of a snapshot.
fn frames_of(pool: &Arc<Pool>, name: &str) -> Frames {
    let holder = pool.hold("reader").unwrap();
    let (entry, map) = holder.pin(name).unwrap();
    assert_eq!(entry.memory_bytes, 3 * (2 << 20));
    let mut found = Frames::new();
    for chunk in map.iter_present() {
        let (index, chunk) = chunk.unwrap();
        for (frame, block) in chunk.iter_present() {
            let mut bytes = [0; BLOCK_BYTES];
            pool.read_block(block, &mut bytes).unwrap();
            assert!(bytes == [bytes[0]; BLOCK_BYTES], "{block} is torn");
            found.push((index.get(), frame.get(), bytes[0]));
        }
    }
    found
}

fn state_of(pool: &Arc<Pool>, name: &str) -> Vec<u8> {
    pool.reader(name).unwrap().state().unwrap()
}

/// Compares all snapshots with what the fixtures' maker wrote.
fn assert_all_there(pool: &Arc<Pool>, version: u32) {
    let entries = pool.snapshots().unwrap();
    let mut names: Vec<_> = entries.iter().map(|entry| entry.name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["arrived", "first", "image", "second"]);
    let entry = |name: &str| entries.iter().find(|entry| entry.name == name).unwrap();
    assert_eq!(entry("second").parent, Some(entry("first").id));
    assert_eq!(entry("image").kind, SnapshotKind::Process);
    assert!(entries.iter().all(|entry| !entry.incomplete));
    // Version 5 did not know where a snapshot came from.
    assert_eq!(entry("arrived").foreign, version > 5);
    assert_eq!(entry("arrived").identity, entry("second").identity);

    let second = vec![(0, 0, 1), (0, 1, 4), (1, 7, 5), (2, 511, 3)];
    assert_eq!(
        frames_of(pool, "first"),
        [(0, 0, 1), (0, 1, 2), (2, 511, 3)]
    );
    assert_eq!(frames_of(pool, "second"), second);
    assert_eq!(frames_of(pool, "arrived"), second);
    assert_eq!(frames_of(pool, "image"), [(0, 3, 7)]);
    let state: Vec<u8> = (0..9000_u32).map(|number| (number % 251) as u8).collect();
    assert_eq!(state_of(pool, "first"), b"the state of first");
    assert_eq!(state_of(pool, "second"), state);
    assert_eq!(state_of(pool, "arrived"), state);
    assert_eq!(state_of(pool, "image"), b"the state of processes");
}

/// Does with the pool what only this version can, and what every version could.
fn use_it(pool: &Arc<Pool>) {
    let vm = pool.hold("vm").unwrap();
    let base = vm.pin("second").unwrap().0.id;
    let block = vm.alloc_blocks(1).unwrap()[0];
    fill(&vm, block, 9);
    let changes = [(nvvmm_snapshot::ChunkIndex::new(1), leaf(&[(7, block)]))];
    let third = NewSnapshot {
        base: Some(base),
        ..new("third", 3, &changes)
    };
    vm.commit_snapshot(third, vm.reserve(0).unwrap()).unwrap();
    pool.create_disk("data", 1 << 20).unwrap();
    drop(vm);
    assert_eq!(
        frames_of(pool, "third"),
        [(0, 0, 1), (0, 1, 4), (1, 7, 9), (2, 511, 3)]
    );
    pool.remove("third").unwrap();
    pool.remove_disk("data").unwrap();
}

fn an_old_pool_has_all_that_it_had(version: u32) {
    let place = unpack(version);
    let pool = Pool::open(place.path()).unwrap();
    assert_eq!(pool.newest_version().unwrap(), NEWEST);
    assert_all_there(&pool, version);
    assert_clean(&pool);
    use_it(&pool);
    assert_all_there(&pool, version);
    let free = pool.status().unwrap().free_blocks;
    drop(pool);
    assert_eq!(version_of(&std::fs::read(place.path()).unwrap()), NEWEST);

    let pool = Pool::open(place.path()).unwrap();
    assert_all_there(&pool, version);
    assert_clean(&pool);
    assert_eq!(pool.status().unwrap().free_blocks, free);
    for name in ["first", "second", "arrived", "image"] {
        pool.remove(name).unwrap();
    }
    pool.clean_all().unwrap();
    assert_clean(&pool);
    let status = pool.status().unwrap();
    assert_eq!(status.snapshots, 0);
}

#[test]
fn a_pool_of_version_5_has_all_that_it_had() {
    an_old_pool_has_all_that_it_had(5);
}

#[test]
fn a_pool_of_version_6_has_all_that_it_had() {
    an_old_pool_has_all_that_it_had(6);
}

#[test]
fn a_pool_of_version_7_has_all_that_it_had() {
    an_old_pool_has_all_that_it_had(7);
}
