//! Opening a pool of 64 GiB with 1,000 snapshots.

use std::time::{Duration, Instant};

use criterion::{Criterion, SamplingMode};
use nvvmm_snapshot::Pool;

use crate::fixture::{LargePool, SNAPSHOTS, assert_snapshots};
use crate::killed;

pub fn measure(criterion: &mut Criterion, large: &LargePool) {
    let mut group = criterion.benchmark_group("open 64 GiB with 1,000 snapshots");
    // Once per sample: what happens in between takes longer than what is measured.
    group
        .sampling_mode(SamplingMode::Flat)
        .sample_size(10)
        .warm_up_time(Duration::from_millis(1))
        .measurement_time(Duration::from_millis(10));
    group.bench_function("closed in order", |bencher| {
        let path = large.place().path();
        bencher.iter_custom(|times| (0..times).map(|_| open(path)).sum());
        assert_snapshots(&Pool::open(path).unwrap(), SNAPSHOTS);
    });
    group.bench_function("its VMs were killed", |bencher| {
        let path = large.place().path();
        bencher.iter_custom(|times| {
            let died_and_open = |_| {
                killed::die_in(path);
                open(path)
            };
            (0..times).map(died_and_open).sum()
        });
        killed::die_in(path);
        assert_snapshots(&Pool::open(path).unwrap(), SNAPSHOTS);
    });
    group.finish();
}

/// Opens and closes a pool; how long opening took.
fn open(path: &std::path::Path) -> Duration {
    let began = Instant::now();
    let pool = Pool::open(path).unwrap();
    let took = began.elapsed();
    let status = pool.status().unwrap();
    assert_eq!((status.snapshots, status.orphans), (SNAPSHOTS, 0));
    assert_eq!((status.leased_blocks, status.holders), (0, vec![]));
    took
}
