//! A disk in a pool on a file that is read is in memory once: in the page cache of the pool.

use std::path::Path;
use std::process::Command;

use nvvmm_snapshot::*;

use crate::place::PoolPlace;

const SIZE: u64 = 64 << 20;
const DISK: u64 = 24 << 20;
/// Memory of this process for anything but the disk, and pages that the kernel reads ahead.
const SLACK: u64 = 4 << 20;

fn run(command: &mut Command) -> String {
    let done = command.output().unwrap();
    assert!(done.status.success(), "{done:?}");
    String::from_utf8(done.stdout).unwrap()
}

/// Bytes of a file that are in the page cache.
fn cached(path: &Path) -> u64 {
    let shown = ["--bytes", "--noheadings", "--output", "RES"];
    let said = run(Command::new("fincore").args(shown).arg(path));
    said.trim().parse().unwrap()
}

/// Has the page cache forget a file that nobody has mapped.
fn forget(path: &Path) {
    let to = format!("of={}", path.display());
    let options = ["oflag=nocache", "conv=notrunc,fdatasync", "count=0"];
    run(Command::new("dd").arg(to).args(options));
}

/// Memory of this process that is no file's.
fn anonymous() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"));
    let text = line.unwrap().trim().trim_end_matches(" kB");
    text.parse::<u64>().unwrap() << 10
}

#[test]
fn a_disk_that_is_read_is_in_memory_once() {
    let place = PoolPlace::new();
    if place.medium() != Medium::File {
        println!("SKIPPED: a pool on {} is in memory itself", place.medium());
        return;
    }
    let pool = place.create(SIZE);
    let holder = pool.hold("maker").unwrap();
    let mut import = holder.import_disk("data", DISK, DISK).unwrap();
    let bytes: Vec<u8> = (0..DISK as u32).map(|at| (at / 5) as u8 | 1).collect();
    import.write(0, &bytes).unwrap();
    import.finish().unwrap();
    drop((holder, pool, bytes));
    forget(place.path());

    let pool = Pool::open(place.path()).unwrap();
    let holder = pool.hold("reader").unwrap();
    let disk = holder.attach_disk_read_only("data").unwrap();
    let (before, own) = (cached(place.path()), anonymous());
    let mut piece = vec![0; 64 << 10];
    for _ in 0..2 {
        for at in (0..DISK).step_by(piece.len()) {
            disk.read(at, &mut piece).unwrap();
        }
    }
    let (grown, own) = (
        cached(place.path()) - before,
        anonymous().saturating_sub(own),
    );
    println!("read {DISK} bytes: {grown} more in the page cache, {own} more of the process");
    assert!(
        grown + SLACK >= DISK,
        "it is in the page cache: {grown} more"
    );
    assert!(grown <= DISK + SLACK, "of the pool, once: {grown} more");
    assert!(own < SLACK, "and nowhere else: {own} more");
}
