//! Disks in a pool whose process died, and logs that are damaged.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;
use std::sync::Arc;

use nvvmm_snapshot::{CreateOptions, Error, Pool};
use proptest::prelude::*;

const DISK: u64 = 4 << 20;

fn create(path: &Path) -> Arc<Pool> {
    let options = CreateOptions {
        size_bytes: 16 << 20,
        overcommit: false,
    };
    Pool::create(path, &options).unwrap()
}

/// A pool as a process leaves it that dies: blocks 0 to 9 of its disk have been flushed, and the
/// others have not.
fn left_by_a_dead_process() -> Vec<u8> {
    let directory = tempfile::tempdir_in("/dev/shm").unwrap();
    let path = directory.path().join("pool");
    let pool = create(&path);
    pool.create_disk("data", DISK).unwrap();
    let holder = pool.hold("vm").unwrap();
    let head = holder.attach_disk("data").unwrap();
    for at in 0..10 {
        head.write(at * 8192, &[1 + at as u8; 4096]).unwrap();
    }
    head.flush().unwrap();
    for at in 10..20 {
        head.write(at * 8192, &[1 + at as u8; 4096]).unwrap();
    }
    head.discard(0, 4096).unwrap();
    fs::read(&path).unwrap()
}

/// Opens a copy of a pool.
fn open(directory: &Path, bytes: &[u8]) -> Result<Arc<Pool>, Error> {
    let path = directory.join("pool");
    let _ = fs::remove_file(&path);
    fs::write(&path, bytes).unwrap();
    Pool::open(&path)
}

/// The first byte of every other block.
fn content(pool: &Arc<Pool>) -> Result<Vec<u8>, Error> {
    let holder = pool.hold("reader")?;
    let disk = holder.attach_disk_read_only("data")?;
    let mut bytes = vec![0; DISK as usize];
    disk.read(0, &mut bytes)?;
    Ok((0..20).map(|at| bytes[at * 8192 + 100]).collect())
}

fn written() -> Vec<u8> {
    // The first block was discarded.
    std::iter::once(0).chain(2..=20).collect()
}

#[test]
fn what_was_written_without_a_flush_survives_the_process() {
    let image = left_by_a_dead_process();
    let directory = tempfile::tempdir_in("/dev/shm").unwrap();
    let pool = open(directory.path(), &image).unwrap();
    assert!(pool.check().unwrap().is_clean());
    assert_eq!(pool.disk("data").unwrap().writer, None);
    assert_eq!(content(&pool).unwrap(), written());
    assert!(pool.check().unwrap().is_clean());
    let holder = pool.hold("next").unwrap();
    let head = holder.attach_disk("data").unwrap();
    head.write(0, &[9; 4096]).unwrap();
    drop(holder);
    drop(head);
    let mut expected = written();
    expected[0] = 9;
    assert_eq!(content(&pool).unwrap(), expected);
    assert!(pool.check().unwrap().is_clean());
    pool.remove_disk("data").unwrap();
    let status = pool.status().unwrap();
    assert_eq!((status.snapshot_blocks, status.leased_blocks), (0, 0));
}

#[test]
fn after_another_start_of_the_host_only_what_was_flushed_counts() {
    let mut image = left_by_a_dead_process();
    // The boot id of the runtime block.
    image[2 * 4096..2 * 4096 + 16].fill(0xa5);
    let directory = tempfile::tempdir_in("/dev/shm").unwrap();
    let pool = open(directory.path(), &image).unwrap();
    assert!(pool.check().unwrap().is_clean());
    let flushed: Vec<u8> = (1..=10).chain([0; 10]).collect();
    assert_eq!(content(&pool).unwrap(), flushed);
    assert!(pool.check().unwrap().is_clean());
}

#[test]
fn a_removed_disk_of_a_dead_process_leaves_nothing() {
    let image = left_by_a_dead_process();
    let directory = tempfile::tempdir_in("/dev/shm").unwrap();
    let pool = open(directory.path(), &image).unwrap();
    pool.remove_disk("data").unwrap();
    let status = pool.status().unwrap();
    assert_eq!((status.snapshot_blocks, status.leased_blocks), (0, 0));
    assert!(pool.check().unwrap().is_clean());
}

/// The block with the front of the log, and the one with its first records.
fn log_of(image: &[u8]) -> [usize; 2] {
    let blocks = || image.chunks(4096).enumerate();
    let front = blocks().find(|(_, block)| block.starts_with(b"NVHL"));
    let first_record = 1u64.to_le_bytes();
    let records = blocks().find(|(_, block)| {
        // The second place has record 1, and the third record 2.
        block[32..40] == first_record && block[64..72] == 2u64.to_le_bytes()
    });
    [front.unwrap().0 * 4096, records.unwrap().0 * 4096]
}

#[test]
fn a_damaged_log_is_an_error_or_an_earlier_end_and_never_another_content() {
    let image = left_by_a_dead_process();
    let [front, records] = log_of(&image);
    let directory = tempfile::tempdir_in("/dev/shm").unwrap();
    let (mut refused, mut shorter) = (0, 0);
    let places = (front..front + 24).chain((records..records + 22 * 32).step_by(5));
    for place in places {
        let mut image = image.clone();
        image[place] ^= 0x41;
        let found = open(directory.path(), &image).and_then(|pool| content(&pool));
        match found {
            Err(Error::Damaged { what }) => {
                assert!(what.contains("log"), "byte {place}: {what}");
                refused += 1;
            }
            Err(error) => panic!("byte {place}: {error}"),
            Ok(found) => {
                let same = found.iter().zip(written());
                assert!(
                    same.enumerate().all(|(at, (found, written))| {
                        *found == written || (*found == 0 && at >= 10) || (at == 0 && *found == 1)
                    }),
                    "byte {place}: {found:?}"
                );
                shorter += usize::from(found != written());
            }
        }
    }
    assert!(
        refused > 20 && shorter > 5,
        "{refused} refused, {shorter} shorter"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// Records with good checksums and any content are refused or followed: no panic, and no block
    /// outside of the pool.
    #[test]
    fn any_record_with_a_good_checksum_is_refused_or_followed(
        frame in prop_oneof![0u64..1100, any::<u64>()],
        block in prop_oneof![0u32..5000, any::<u32>()],
        count in prop_oneof![0u32..600, any::<u32>()],
    ) {
        let mut image = left_by_a_dead_process();
        let [front, records] = log_of(&image);
        let head_id = image[front + 8..front + 16].to_vec();
        let place = records + 21 * 32;
        let mut record = Vec::new();
        record.extend(21u64.to_le_bytes());
        record.extend(frame.to_le_bytes());
        record.extend(block.to_le_bytes());
        record.extend(count.to_le_bytes());
        let checksum = crc32fast::hash(&[head_id, record.clone()].concat());
        record.extend(checksum.to_le_bytes());
        image[place..place + 28].copy_from_slice(&record);
        let directory = tempfile::tempdir_in("/dev/shm").unwrap();
        if let Ok(pool) = open(directory.path(), &image) {
            let _ = pool.check();
            let _ = content(&pool);
        }
    }
}
