use std::{path::Path, sync::Arc};

use super::super::{
    FaultThread,
    test_guest::{FRAME, MIB, Playable, PoolFile, Vm, assert_clean, pool_of},
};
use super::*;
use crate::{
    cow::{PrivateEngine, RedirectEngine},
    memory::HIGH_RAM_START,
};

const CHUNK: u64 = CHUNK_SIZE_BYTES as u64;
const CHUNK_FRAMES: u64 = CHUNK / FRAME;

fn range(gpa: u64, len_bytes: u64) -> FreeRange {
    FreeRange { gpa, len_bytes }
}

fn chunks(memory_bytes: u64, ranges: &[FreeRange]) -> Vec<u32> {
    let chunks = Releases::new(memory_bytes).unwrap().chunks_in(ranges);
    chunks.into_iter().map(ChunkIndex::get).collect()
}

#[test]
fn only_whole_chunks_of_ram_are_taken_from_what_a_guest_names() {
    let ram = 3072 * MIB + 4 * CHUNK;
    let none: [u32; 0] = [];
    assert_eq!(chunks(ram, &[range(0, CHUNK)]), [0]);
    assert_eq!(chunks(ram, &[range(1, 3 * CHUNK)]), [1, 2]);
    assert_eq!(chunks(ram, &[range(CHUNK, 2 * CHUNK - 1)]), [1]);
    assert_eq!(chunks(ram, &[range(1, CHUNK), range(7, 9)]), none);
    // Overlapping ranges name a chunk twice: it is empty the second time.
    let twice = [range(0, 2 * CHUNK), range(CHUNK, CHUNK)];
    assert_eq!(chunks(ram, &twice), [0, 1, 1]);
    // Behind the room for devices RAM goes on; windows are behind RAM.
    let hole = 3072 * MIB;
    assert_eq!(chunks(ram, &[range(hole - CHUNK, 4 * CHUNK)]), [1535]);
    let high = range(HIGH_RAM_START - CHUNK, 9 * CHUNK);
    assert_eq!(chunks(ram, &[high]), [1536, 1537, 1538, 1539]);
    let wild = [(u64::MAX - 5, 256 << 20), (u64::MAX, 1), (1 << 40, CHUNK)];
    assert_eq!(chunks(ram, &wild.map(|(gpa, len)| range(gpa, len))), none);
    assert_eq!(chunks(CHUNK, &[range(CHUNK, CHUNK)]), none);
}

fn what_is_named_is_empty_at_once<E: Playable>(place: &PoolFile) {
    let pool = pool_of(place, 128 * MIB);
    let mut vm = Vm::<E>::start(&pool, 16 * MIB, None);
    let frames = 16 * MIB / FRAME;
    vm.fill(0..frames, 5);
    vm.snapshot("before").unwrap();
    let releases = Arc::clone(vm.faults.releases());
    // More than one turn of the thread.
    let named = [
        range(CHUNK + 1, 6 * CHUNK),
        range(u64::MAX, 9),
        range(15 * MIB, CHUNK),
    ];
    assert_eq!(releases.release(&named), 5 * CHUNK);
    let released = 2 * CHUNK_FRAMES..7 * CHUNK_FRAMES;
    assert!(released.clone().all(|frame| vm.read(frame) == 0));
    vm.assert_filled(0..released.start, 5);
    vm.assert_filled(released.end..frames, 5);
    assert!((2..7).all(|chunk| releases.has_released(ChunkIndex::new(chunk))));
    assert!(!releases.has_released(ChunkIndex::new(1)));
    assert!(!releases.has_released(ChunkIndex::new(u32::MAX)));
    assert_eq!(releases.release(&[range(1, CHUNK)]), 0);

    vm.fill(released.clone(), 6);
    vm.snapshot("after").unwrap();
    assert!(releases.release(&[range(0, 16 * MIB)]) > 0);
    assert!((0..frames).all(|frame| vm.read(frame) == 0));
    let copy = Vm::<E>::start(&pool, 16 * MIB, Some("after"));
    copy.assert_filled(0..released.start, 5);
    copy.assert_filled(released, 6);
    vm.rewind("after").unwrap();
    vm.assert_filled(0..2 * CHUNK_FRAMES, 5);
    assert_clean(&pool);
}

#[test]
fn named_blocks_that_are_the_ram() {
    let place = PoolFile::new("releases");
    what_is_named_is_empty_at_once::<RedirectEngine>(&place);
}

#[test]
fn named_private_memory() {
    let place = PoolFile::on(Path::new("/var/tmp"), "releases-private");
    what_is_named_is_empty_at_once::<PrivateEngine>(&place);
}

/// Accesses of the guest that are held are answered while chunks are emptied.
#[test]
fn the_guest_goes_on_while_memory_is_given_back() {
    let place = PoolFile::new("releases-busy");
    let pool = pool_of(&place, 128 * MIB);
    let vm = Vm::<RedirectEngine>::start(&pool, 32 * MIB, None);
    let (low, high) = (0..8 * CHUNK_FRAMES, 8 * CHUNK_FRAMES..16 * CHUNK_FRAMES);
    let releases = Arc::clone(vm.faults.releases());
    vm.fill(low, 1);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..20 {
                releases.release(&[range(0, 8 * CHUNK)]);
            }
        });
        vm.fill(high.clone(), 2);
    });
    vm.assert_filled(high, 2);
}

#[test]
fn nobody_waits_for_a_thread_that_has_ended() {
    let place = PoolFile::new("releases-ended");
    let pool = pool_of(&place, 64 * MIB);
    let vm = Vm::<RedirectEngine>::start(&pool, 16 * MIB, None);
    vm.fill(0..8, 1);
    let engine = Arc::clone(&vm.engine) as Arc<dyn CowEngine>;
    let second = FaultThread::start(engine, |error| panic!("{error}")).unwrap();
    let releases = Arc::clone(second.releases());
    drop(second);
    assert_eq!(releases.release(&[range(0, CHUNK)]), 0);
    vm.assert_filled(0..8, 1);
}
