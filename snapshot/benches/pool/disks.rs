//! Requests to a disk, beside those to a file on the same medium.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use criterion::{Criterion, Throughput};
use nvvmm_snapshot::DiskHead;

use crate::fixture::small_pool;

const BLOCK: u64 = 4096;
/// Size of the disk and of the file, which are written once before.
const SIZE: u64 = 256 << 20;

/// Offsets of blocks in an order without neighbours.
fn offsets() -> impl Iterator<Item = u64> {
    let blocks = SIZE / BLOCK;
    (0u64..).map(move |at| at.wrapping_mul(0x9e37_79b9) % blocks * BLOCK)
}

pub fn measure(criterion: &mut Criterion) {
    let (pool, place) = small_pool();
    let vm = pool.hold("vm").unwrap();
    pool.create_disk("data", SIZE).unwrap();
    let head = vm.attach_disk("data").unwrap();
    if !place.takes_writes() {
        // There is no file to compare with.
        return;
    }
    let path = place.path().with_extension("raw");
    let mut options = File::options();
    options.read(true).write(true).create_new(true);
    let file = options.open(&path).unwrap();
    let mut bytes = vec![0x5a; 1 << 20];
    for offset in (0..SIZE).step_by(bytes.len()) {
        head.write(offset, &bytes).unwrap();
        file.write_all_at(&bytes, offset).unwrap();
    }
    bytes.truncate(BLOCK as usize);
    let mut group = criterion.benchmark_group("disk, 4 KiB at random");
    group.throughput(Throughput::Bytes(BLOCK));
    let mut at = offsets();
    group.bench_function("write", |bencher| {
        bencher.iter(|| head.write(at.next().unwrap_or(0), &bytes).unwrap());
    });
    group.bench_function("pwrite to a file", |bencher| {
        bencher.iter(|| file.write_all_at(&bytes, at.next().unwrap_or(0)).unwrap());
    });
    group.bench_function("read", |bencher| {
        bencher.iter(|| head.read(at.next().unwrap_or(0), &mut bytes).unwrap());
    });
    group.bench_function("pread of a file", |bencher| {
        bencher.iter(|| {
            file.read_exact_at(&mut bytes, at.next().unwrap_or(0))
                .unwrap()
        });
    });
    group.finish();
    flushes(criterion, &head);
    cuts(criterion, &head);
    drop((head, vm));
    let mut copies = 0;
    criterion.bench_function("disk/copy", |bencher| {
        bencher.iter(|| {
            copies += 1;
            pool.copy_disk("data", &format!("copy{copies}")).unwrap()
        });
    });
}

/// The part of a snapshot's pause that disks have.
fn cuts(criterion: &mut Criterion, head: &Arc<DiskHead>) {
    let mut group = criterion.benchmark_group("disk, cut");
    for changes in [1, 4096] {
        group.bench_function(format!("of {changes} changed blocks"), |bencher| {
            bencher.iter_batched(
                || {
                    head.flush().unwrap();
                    for block in 0..changes {
                        head.write(block * 2 * BLOCK, &[3; BLOCK as usize]).unwrap();
                    }
                },
                |()| head.cut().unwrap(),
                criterion::BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

fn flushes(criterion: &mut Criterion, head: &DiskHead) {
    let mut group = criterion.benchmark_group("disk, flush");
    head.flush().unwrap();
    group.bench_function("of nothing", |bencher| {
        bencher.iter(|| head.flush().unwrap())
    });
    group.bench_function("of 64 map changes", |bencher| {
        bencher.iter_batched(
            || {
                head.discard(0, 128 * BLOCK).unwrap();
                head.flush().unwrap();
                // Holes between them: a record for each.
                for block in 0..64 {
                    head.write(block * 2 * BLOCK, &[1; BLOCK as usize]).unwrap();
                }
            },
            |()| head.flush().unwrap(),
            criterion::BatchSize::PerIteration,
        );
    });
    group.finish();
}
