//! Disks as memory.

use nvvmm_snapshot::CreateOptions;

use super::*;

const DISK: u64 = (3 << 20) + 4096;

fn pool() -> (tempfile::TempDir, Arc<Pool>) {
    let directory = tempfile::tempdir_in("/dev/shm").unwrap();
    let options = CreateOptions {
        size_bytes: 32 << 20,
        overcommit: false,
    };
    let pool = Pool::create(&directory.path().join("pool"), &options).unwrap();
    pool.create_disk("root", DISK).unwrap();
    (directory, pool)
}

#[test]
fn a_disk_is_shown_in_its_order_with_holes_as_zeros() {
    let (_directory, pool) = pool();
    let holder = pool.hold("vm").unwrap();
    let head = holder.attach_disk("root").unwrap();
    let bytes: Vec<u8> = (0..DISK as usize).map(|at| (at / 11) as u8).collect();
    // Not in the order of the disk.
    for at in [2 << 20, 8192, 0, DISK as usize - 4096] {
        head.write(at as u64, &bytes[at..at + 4096]).unwrap();
    }
    head.give_back().unwrap();
    let reader = holder.attach_disk_read_only("root").unwrap();
    let memory = disk_memory(&pool, reader.map(), DISK, 4).unwrap();
    assert_eq!(memory.size_bytes(), 16 << 20);
    let mut shown = vec![0xee; memory.size_bytes()];
    memory.read(0, &mut shown).unwrap();
    let mut content = vec![0; DISK as usize];
    reader.read(0, &mut content).unwrap();
    assert!(shown[..content.len()] == content);
    assert!(shown[content.len()..].iter().all(|byte| *byte == 0));
}

#[test]
fn a_disk_in_chunks_is_one_mapping_for_each() {
    let (_directory, pool) = pool();
    let holder = pool.hold("vm").unwrap();
    let import = holder.import_disk("chunks", 6 << 20, 0).unwrap();
    let mut import = import.in_chunks().unwrap();
    import.write(1 << 20, &[1; 4096]).unwrap();
    import.write(5 << 20, &[2; 4096]).unwrap();
    import.finish().unwrap();
    let reader = holder.attach_disk_read_only("chunks").unwrap();
    let memory = disk_memory(&pool, reader.map(), 6 << 20, 2).unwrap();
    for (at, expected) in [
        (0, 0),
        (1 << 20, 1),
        (3 << 20, 0),
        (5 << 20, 2),
        (7 << 20, 0),
    ] {
        let mut byte = [0xee];
        memory.read(at, &mut byte).unwrap();
        assert_eq!(byte[0], expected, "{at}");
    }
}

#[test]
fn a_disk_in_too_many_pieces_or_too_large_is_refused() {
    let (_directory, pool) = pool();
    let holder = pool.hold("vm").unwrap();
    let head = holder.attach_disk("root").unwrap();
    head.write(0, &[1; 4096]).unwrap();
    head.write(1 << 20, &[1; 4096]).unwrap();
    head.give_back().unwrap();
    let reader = holder.attach_disk_read_only("root").unwrap();
    let refused = disk_memory(&pool, reader.map(), DISK, 1);
    assert!(matches!(
        refused,
        Err(WindowError::TooManyPieces { runs: 2, limit: 1 })
    ));
    let refused = disk_memory(&pool, reader.map(), ROOM_BYTES + 512, 4);
    assert!(matches!(refused, Err(WindowError::TooLarge { .. })));
}
