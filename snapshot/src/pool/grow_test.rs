//! A growth is whole or nothing, wherever it is cut off.

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use super::*;
use crate::layout::Layout;
use crate::region::Medium;
use crate::region::sim::{Fate, Fuse, Image, SimControl, SimRegion, Survivors, Unit, region_with};

const BEFORE: u64 = 8 << 20;
const AFTER: u64 = 14 << 20;

fn open(region: SimRegion, locks: &tempfile::NamedTempFile) -> Arc<Pool> {
    let file = File::options()
        .read(true)
        .write(true)
        .open(locks.path())
        .unwrap();
    Pool::open_on(Box::new(region), file, Path::new("simulated"), Medium::File).unwrap()
}

fn bench() -> (tempfile::NamedTempFile, SimControl, Arc<Pool>, Fuse) {
    let control = region_with(Image::zeros(BEFORE));
    let (region, fuse) = control.handle();
    crate::pool::format(&region, &Layout::for_size(BEFORE).unwrap(), [7; 16], false).unwrap();
    let locks = tempfile::NamedTempFile::new().unwrap();
    let pool = open(region, &locks);
    (locks, control, pool, fuse)
}

fn grow(pool: &Pool) {
    let options = GrowOptions {
        size_bytes: AFTER,
        overcommit: false,
    };
    assert_eq!(pool.grow(&options).unwrap().blocks_added, 1024);
}

/// The pool is of one size or the other, in order, and all of it can be used and be grown further.
fn assert_whole(pool: &Arc<Pool>, what: &str) -> u64 {
    let report = pool.check().unwrap();
    assert!(report.is_clean(), "{what}: {:#?}", report.findings);
    let status = pool.status().unwrap();
    let chunks_free = match status.size_bytes {
        BEFORE => 3,
        AFTER => 5,
        other => panic!("{what}: {other} bytes"),
    };
    let user = pool.hold("user").unwrap();
    for _ in 0..chunks_free {
        let chunk = user.alloc_chunk().unwrap();
        user.write_block(chunk.block(7), &[7; 4096]).unwrap();
    }
    assert!(
        matches!(user.alloc_chunk(), Err(Error::PoolFull { .. })),
        "{what}"
    );
    let size_bytes = AFTER + (4 << 20);
    let overcommit = false;
    pool.grow(&GrowOptions {
        size_bytes,
        overcommit,
    })
    .unwrap();
    user.alloc_chunk().unwrap();
    drop(user);
    assert!(pool.check().unwrap().is_clean(), "{what}");
    status.size_bytes
}

#[test]
fn a_growth_is_whole_or_nothing_wherever_the_power_fails() {
    let (_locks, control, pool, _) = bench();
    control.record();
    grow(&pool);
    let points = control.recorded();
    let mut seen = [0, 0];
    for (at, point) in points.iter().enumerate() {
        let random =
            (1..4).map(|seed| Survivors::of_all(Fate::Scattered(Unit::Line, at as u64 * 4 + seed)));
        for survivors in [Survivors::NONE, Survivors::ALL].into_iter().chain(random) {
            let what = format!("point {at} of {}, {survivors:?}", points.len());
            let locks = tempfile::NamedTempFile::new().unwrap();
            let pool = open(region_with(point.image(survivors)).handle().0, &locks);
            seen[usize::from(assert_whole(&pool, &what) == AFTER)] += 1;
        }
    }
    assert!(
        seen[0] > 0 && seen[1] > 0,
        "old and new were seen {seen:?} times"
    );
}

#[test]
fn a_growth_that_is_killed_anywhere_leaves_the_pool_in_order() {
    let mut seen = [0, 0];
    for store in 1.. {
        let (locks, control, pool, fuse) = bench();
        let survivor = open(control.handle().0, &locks);
        fuse.kill_at(store);
        let run = catch_unwind(AssertUnwindSafe(|| grow(&pool)));
        if !fuse.is_killed() {
            fuse.spare();
            run.unwrap();
            break;
        }
        drop(pool);
        seen[usize::from(assert_whole(&survivor, &format!("killed at store {store}")) == AFTER)] +=
            1;
    }
    assert!(
        seen[0] > 0 && seen[1] > 0,
        "old and new were seen {seen:?} times"
    );
}

#[test]
fn a_file_that_is_too_long_is_cut_off_and_one_that_is_too_short_refused() {
    let directory = tempfile::tempdir_in("/dev/shm").unwrap();
    let path = directory.path().join("pool");
    let options = crate::CreateOptions {
        size_bytes: BEFORE,
        overcommit: false,
    };
    drop(Pool::create(&path, &options).unwrap());
    let file = File::options().write(true).open(&path).unwrap();
    file.set_len(AFTER).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &[0xaa; 8192], BEFORE).unwrap();
    let pool = Pool::open(&path).unwrap();
    assert_eq!(file.metadata().unwrap().len(), BEFORE);
    grow(&pool);
    assert_eq!(assert_whole(&pool, "after a cut"), AFTER);
    drop(pool);
    file.set_len(AFTER).unwrap();
    let error = Pool::open(&path).unwrap_err();
    assert!(error.to_string().contains("cut off"), "{error}");
}

#[test]
fn what_the_medium_cannot_keep_is_refused_and_changes_nothing() {
    let directory = tempfile::tempdir_in("/dev/shm").unwrap();
    let path = directory.path().join("pool");
    let options = crate::CreateOptions {
        size_bytes: BEFORE,
        overcommit: false,
    };
    let pool = Pool::create(&path, &options).unwrap();
    let size_bytes = 12 << 40;
    let mut options = GrowOptions {
        size_bytes,
        overcommit: false,
    };
    assert!(matches!(
        pool.grow(&options),
        Err(Error::NoSpaceOnMedium { .. })
    ));
    assert_eq!(pool.size_bytes(), BEFORE);
    assert_eq!(path.metadata().unwrap().len(), BEFORE);
    // Tables of chunks that nobody uses take no memory.
    options.overcommit = true;
    options.size_bytes = 64 << 30;
    pool.grow(&options).unwrap();
    assert!(pool.overcommit() && pool.status().unwrap().overcommit);
    let report = pool.check().unwrap();
    assert!(report.is_clean(), "{:#?}", report.findings);
    assert!(pool.status().unwrap().medium_bytes < 4 << 20);
}
