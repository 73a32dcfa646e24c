//! Taking blocks.

use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput};
use nvvmm_snapshot::{BlockNo, CHUNK_BLOCKS, Holder};

use crate::fixture::small_pool;

/// Taken and given back in one go: 512 MiB.
const AT_ONCE: u64 = 256;

pub fn measure(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("allocate");
    group
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2));
    let (pool, _place) = small_pool();
    let vm = pool.hold("vm").unwrap();
    group.bench_function("a block", |bencher| {
        bencher.iter_custom(|times| {
            in_rounds(&vm, times, AT_ONCE * u64::from(CHUNK_BLOCKS), |count| {
                (0..count)
                    .flat_map(|_| vm.alloc_blocks(1).unwrap())
                    .collect()
            })
        });
    });
    group.throughput(Throughput::Elements(16));
    group.bench_function("a cluster of 16 blocks", |bencher| {
        bencher.iter_custom(|times| {
            in_rounds(
                &vm,
                times,
                AT_ONCE * u64::from(CHUNK_BLOCKS) / 16,
                |count| {
                    (0..count)
                        .flat_map(|_| vm.alloc_blocks(16).unwrap())
                        .collect()
                },
            )
        });
    });
    group.throughput(Throughput::Elements(u64::from(CHUNK_BLOCKS)));
    group.bench_function("a chunk", |bencher| {
        bencher.iter_custom(|times| {
            in_rounds(&vm, times, AT_ONCE, |count| {
                let chunks: Vec<_> = (0..count).map(|_| vm.alloc_chunk().unwrap()).collect();
                chunks
                    .into_iter()
                    .flat_map(|chunk| chunk.blocks())
                    .collect()
            })
        });
    });
    group.finish();
    drop(vm);
    let status = pool.status().unwrap();
    assert_eq!(
        status.free_blocks,
        status.total_blocks - status.metadata_blocks
    );
}

/// Measures taking something `times` times. All is given back after each round.
fn in_rounds(
    vm: &Holder,
    times: u64,
    at_once: u64,
    take: impl Fn(u64) -> Vec<BlockNo>,
) -> Duration {
    let mut took = Duration::ZERO;
    let mut left = times;
    while left > 0 {
        let count = left.min(at_once);
        let began = Instant::now();
        let blocks = take(count);
        took += began.elapsed();
        vm.free_blocks(&blocks);
        left -= count;
    }
    took
}
