//! Adding memory to snapshots by reference, and taking it away.

use std::time::{Duration, Instant};

use criterion::{BenchmarkGroup, Criterion, SamplingMode, Throughput, measurement::WallTime};
use nvvmm_snapshot::{ChunkIndex, ChunkMap, ChunkNo, Pool};

use crate::fixture::{
    Guest, LargePool, SNAPSHOTS, assert_snapshots, commit, in_pieces, small_pool,
};

/// Chunks that a snapshot shares: 512 MiB.
const CHUNKS: u64 = 256;

pub fn measure(criterion: &mut Criterion, large: &LargePool) {
    share(&mut group(criterion, "share 256 chunks"));
    one_of_many(&mut group(criterion, "64 GiB with 1,000 snapshots"), large);
}

fn group<'c>(criterion: &'c mut Criterion, name: &str) -> BenchmarkGroup<'c, WallTime> {
    let mut group = criterion.benchmark_group(name);
    group
        .sampling_mode(SamplingMode::Flat)
        .sample_size(20)
        .warm_up_time(Duration::from_millis(100))
        .measurement_time(Duration::from_secs(1));
    group
}

/// The first snapshot of a guest's memory, and its removal.
fn share(group: &mut BenchmarkGroup<'_, WallTime>) {
    let (pool, _place) = small_pool();
    let vm = pool.hold("vm").unwrap();
    let shared = |map: fn(ChunkNo) -> ChunkMap| {
        let changes: Vec<(ChunkIndex, ChunkMap)> = (0..CHUNKS as u32)
            .map(|index| (ChunkIndex::new(index), map(vm.alloc_chunk().unwrap())))
            .collect();
        let began = Instant::now();
        let id = commit(&vm, "shared", None, &changes);
        let committed = began.elapsed();
        vm.unpin(id).unwrap();
        let began = Instant::now();
        pool.remove("shared").unwrap();
        (committed, began.elapsed())
    };
    group.throughput(Throughput::Elements(CHUNKS));
    for (name, map) in [
        ("whole", ChunkMap::Whole as fn(_) -> _),
        ("in pieces", in_pieces),
    ] {
        group.bench_function(format!("commit, {name}"), |bencher| {
            bencher.iter_custom(|times| (0..times).map(|_| shared(map).0).sum());
        });
        group.bench_function(format!("delete, {name}"), |bencher| {
            bencher.iter_custom(|times| (0..times).map(|_| shared(map).1).sum());
        });
    }
    assert_snapshots(&pool, 0);
}

/// One more snapshot, and its removal, where there are many.
fn one_of_many(group: &mut BenchmarkGroup<'_, WallTime>, large: &LargePool) {
    group.bench_function("commit", |bencher| {
        let pool = Pool::open(large.place().path()).unwrap();
        bencher.iter_custom(|times| (0..times).map(|_| one_more(&pool).0).sum());
        assert_snapshots(&pool, SNAPSHOTS);
    });
    group.bench_function("delete", |bencher| {
        let pool = Pool::open(large.place().path()).unwrap();
        bencher.iter_custom(|times| (0..times).map(|_| one_more(&pool).1).sum());
        assert_snapshots(&pool, SNAPSHOTS);
    });
}

fn one_more(pool: &std::sync::Arc<Pool>) -> (Duration, Duration) {
    let mut guest = Guest::restore(pool);
    guest.write();
    let began = Instant::now();
    guest.snapshot("one-more");
    let committed = began.elapsed();
    drop(guest);
    let began = Instant::now();
    pool.remove("one-more").unwrap();
    (committed, began.elapsed())
}
