//! Measures the time for which operations on a pool hold up another user of it, who takes blocks,
//! writes to them and frees them all the time. And the longest time for which the catalog lock
//! was held so far.
//!
//! `cargo run --release -p nvvmm-snapshot --example held_up -- GIB [DIR]`

#![allow(clippy::unwrap_used)]

use std::ops::ControlFlow;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use nvvmm_snapshot::{
    BLOCK_SIZE_BYTES, CHUNK_SIZE_BYTES, ChunkIndex, ChunkMap, CreateOptions, GrowOptions, Holder,
    NewMap, NewSnapshot, Pool, SnapshotId, SnapshotKind,
};

/// Set in the process that is to die with blocks of the pool.
const DIES_IN: &str = "NVVMM_EXAMPLE_DIES_IN";

fn main() {
    let gib = std::env::args()
        .nth(1)
        .map_or(1, |text| text.parse().unwrap());
    let chunks = gib * 512;
    if let Some(path) = std::env::var_os(DIES_IN) {
        let pool = Pool::open(Path::new(&path)).unwrap();
        let vm = pool.hold("dies").unwrap();
        write_all(&vm, chunks);
        kill(Pid::this(), Signal::SIGKILL).unwrap();
    }
    let place = std::env::args().nth(2).unwrap_or("/dev/shm".to_owned());
    let path = Path::new(&place).join(format!("held-up-{}.pool", std::process::id()));
    let size_bytes = (u64::from(chunks) + 256) * CHUNK_SIZE_BYTES;
    let options = CreateOptions {
        size_bytes,
        overcommit: true,
    };
    let pool = Pool::create(&path, &options).unwrap();
    println!("{gib} GiB on {place}; times in ms");
    println!(
        "{:<28} {:>9} {:>13} {:>9} {:>9}",
        "operation", "took", "other waits", "usual", "lock held"
    );
    measure_all(&pool, chunks, size_bytes);
    drop(pool);
    std::fs::remove_file(path).unwrap();
}

fn measure_all(pool: &Arc<Pool>, chunks: u32, size_bytes: u64) {
    let vm = pool.hold("vm").unwrap();
    let take = |name: &str| {
        let changes = write_all(&vm, chunks);
        let id = commit(&vm, name, chunks, &changes, &[]);
        vm.unpin_others(id).unwrap();
        id
    };
    let first = take("first");
    measure(pool, "ls", || drop(pool.snapshots().unwrap()));
    measure(pool, "pool status", || drop(pool.status().unwrap()));
    measure(pool, "pool map", || drop(pool.map().unwrap()));
    measure(pool, "scrub", || {
        drop(pool.scrub(&mut |_| ControlFlow::Continue(())).unwrap());
    });
    measure(pool, "check", || drop(pool.check().unwrap()));
    vm.unpin(first).unwrap();
    measure(pool, "rm", || _ = pool.remove("first").unwrap());
    let second = take("second");
    measure(pool, "commit that replaces", || {
        commit(&vm, "third", chunks, &[], &[second]);
    });
    measure(pool, "unpin after it", || vm.unpin(second).unwrap());
    drop(vm);
    measure(pool, "a holder that dies, status", || {
        let died = Command::new(std::env::current_exe().unwrap())
            .arg((chunks / 512).to_string())
            .env(DIES_IN, pool.path())
            .status()
            .unwrap();
        assert!(!died.success());
        drop(pool.status().unwrap());
    });
    measure(pool, "grow", || {
        let size_bytes = size_bytes + (1 << 30);
        let overcommit = true;
        pool.grow(&GrowOptions {
            size_bytes,
            overcommit,
        })
        .unwrap();
    });
}

/// Does something while another user, as of another process, takes and frees blocks.
fn measure(pool: &Arc<Pool>, what: &str, act: impl FnOnce()) {
    let other = Pool::open(pool.path()).unwrap();
    let user = other.hold("other").unwrap();
    let ends = AtomicBool::new(false);
    let (took, usual, longest) = std::thread::scope(|scope| {
        let using = scope.spawn(|| {
            let mut times = Vec::new();
            while !ends.load(Ordering::Relaxed) {
                let began = Instant::now();
                use_blocks(&user);
                times.push((began, began.elapsed()));
                std::thread::sleep(Duration::from_micros(100));
            }
            times
        });
        std::thread::sleep(Duration::from_millis(300));
        let began = Instant::now();
        act();
        let took = began.elapsed();
        // What this process leaves to be cleaned later.
        std::thread::sleep(Duration::from_millis(20));
        ends.store(true, Ordering::Relaxed);
        let times = using.join().unwrap();
        let longest = |of: &dyn Fn(&Instant) -> bool| {
            let of = times.iter().filter(|(at, _)| of(at));
            of.map(|(_, time)| *time).max().unwrap_or_default()
        };
        (
            took,
            longest(&|at| *at < began),
            longest(&|at| *at >= began),
        )
    });
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    println!(
        "{what:<28} {:>9.2} {:>13.2} {:>9.2} {:>9.2}",
        ms(took),
        ms(longest),
        ms(usual),
        ms(pool.lock_use().longest_held),
    );
}

fn use_blocks(user: &Holder) {
    let blocks = user.alloc_blocks(16).unwrap();
    for block in &blocks {
        user.write_block(*block, &[1; BLOCK_SIZE_BYTES as usize])
            .unwrap();
    }
    user.free_blocks(&blocks);
}

fn write_all(vm: &Holder, chunks: u32) -> Vec<(ChunkIndex, ChunkMap)> {
    let write = |index: u32| {
        let chunk = vm.alloc_chunk().unwrap();
        for block in chunk.blocks() {
            vm.write_block(block, &[0xa5; 64]).unwrap();
        }
        (ChunkIndex::new(index), ChunkMap::Whole(chunk))
    };
    (0..chunks).map(write).collect()
}

fn commit(
    vm: &Holder,
    name: &str,
    chunks: u32,
    changes: &[(ChunkIndex, ChunkMap)],
    replaced: &[SnapshotId],
) -> SnapshotId {
    let new = NewSnapshot {
        name,
        kind: SnapshotKind::Vm,
        parent: None,
        base: None,
        maps: vec![NewMap::memory(
            u64::from(chunks) * CHUNK_SIZE_BYTES,
            changes,
        )],
        state: b"state",
        frames_new: 0,
    };
    let reservation = vm.reserve(0).unwrap();
    vm.commit_replacing(new, replaced, reservation).unwrap().id
}
