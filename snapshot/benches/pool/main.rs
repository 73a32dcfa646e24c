//! Durations of the pool's operations: `cargo bench -p nvvmm-snapshot`.
//!
//! Pools are made where the tests make theirs (`NVVMM_TEST_PLACES`, else /dev/shm) and take about
//! 4 GiB there.

#![allow(clippy::unwrap_used)]

mod blocks;
mod commits;
mod disks;
mod fixture;
mod killed;
mod opening;
#[path = "../../tests/place/mod.rs"]
mod place;

use criterion::Criterion;

fn main() {
    if killed::is_this_process() {
        killed::run();
    }
    let mut criterion = Criterion::default().configure_from_args();
    let large = fixture::LargePool::default();
    blocks::measure(&mut criterion);
    disks::measure(&mut criterion);
    commits::measure(&mut criterion, &large);
    opening::measure(&mut criterion, &large);
    criterion.final_summary();
}
