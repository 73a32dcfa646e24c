//! Heads: reads, writes, discards, cuts and ends.

use std::ops::ControlFlow;
use std::sync::Arc;

use crate::{
    ChunkMap, CreateOptions, DiskHead, DiskName, Error, Holder, MapKind, NewMap, NewSnapshot, Pool,
    ScrubReport, SnapshotKind, counted,
};

const DISK: u64 = (6 << 20) + 512;

fn pool_of(size_bytes: u64) -> (tempfile::TempDir, Arc<Pool>) {
    let directory = tempfile::tempdir().unwrap();
    let options = CreateOptions {
        size_bytes,
        overcommit: false,
    };
    let pool = Pool::create(&directory.path().join("pool"), &options).unwrap();
    (directory, pool)
}

fn disk() -> (tempfile::TempDir, Arc<Pool>, Holder, Arc<DiskHead>) {
    let (directory, pool) = pool_of(64 << 20);
    pool.create_disk("data", DISK).unwrap();
    let holder = pool.hold("vm").unwrap();
    let head = holder.attach_disk("data").unwrap();
    (directory, pool, holder, head)
}

fn bytes(len: usize, salt: u8) -> Vec<u8> {
    (0..len).map(|at| (at / 7) as u8 ^ salt).collect()
}

fn read(head: &DiskHead, offset: u64, len: usize) -> Vec<u8> {
    let mut found = vec![0xee; len];
    head.read(offset, &mut found).unwrap();
    found
}

fn snapshot(holder: &Holder, name: &str, heads: &[&Arc<DiskHead>]) {
    let cuts = heads.iter().map(|head| head.cut().unwrap()).collect();
    let new = NewSnapshot {
        kind: SnapshotKind::Vm,
        name,
        parent: None,
        base: None,
        maps: vec![NewMap::memory(2 << 20, &[])],
        state: b"state",
        frames_new: 0,
    };
    let reservation = holder.reserve(1).unwrap();
    let done = holder
        .commit_with_disks(new, cuts, &[], reservation)
        .unwrap();
    holder.unpin(done.id).unwrap();
}

fn assert_in_order(pool: &Pool) {
    let report = pool.check().unwrap();
    let count = counted(report.findings.len() as u32, "finding");
    assert!(report.is_clean(), "{count}: {:#?}", report.findings);
}

#[test]
fn what_is_written_is_read_and_is_there_for_the_next_one() {
    let (_directory, pool, holder, head) = disk();
    assert!(read(&head, 0, 9000).iter().all(|byte| *byte == 0));
    let pieces = [
        (100, 50),
        (4096, 4096),
        (5000, 30_000),
        (DISK - 700, 700),
        (2 << 20, 512),
    ];
    let mut model = vec![0; DISK as usize];
    for (salt, (offset, len)) in pieces.into_iter().enumerate() {
        let data = bytes(len, salt as u8 + 1);
        head.write(offset, &data).unwrap();
        model[offset as usize..offset as usize + len].copy_from_slice(&data);
        assert!(read(&head, 0, DISK as usize) == model, "after piece {salt}");
    }
    head.flush().unwrap();
    assert_in_order(&pool);
    drop(head);
    assert_in_order(&pool);
    let reader = holder.attach_disk_read_only("data").unwrap();
    let mut found = vec![0; DISK as usize];
    reader.read(0, &mut found).unwrap();
    assert!(found == model);
    let refused = pool.hold("other").unwrap().attach_disk("data").err();
    assert!(
        matches!(&refused, Some(Error::DiskInUse { holder, .. }) if holder.contains("'vm'")),
        "{refused:?}"
    );
    drop(holder);
    let head = pool.hold("other").unwrap().attach_disk("data");
    assert!(head.is_ok());
}

#[test]
fn one_holder_writes_and_others_are_told_which() {
    let (_directory, pool, holder, head) = disk();
    let other = pool.hold("other").unwrap();
    let is_refused = |result: Result<(), Error>| {
        let Err(Error::DiskInUse { name, holder }) = result else {
            panic!("{result:?}");
        };
        assert!(
            name == "data" && holder.starts_with("'vm' (process "),
            "{holder}"
        );
    };
    is_refused(other.attach_disk("data").map(drop));
    is_refused(other.attach_disk_read_only("data").map(drop));
    is_refused(pool.remove_disk("data"));
    is_refused(pool.rename_disk("data", "date"));
    is_refused(pool.resize_disk("data", 1 << 30));
    is_refused(pool.copy_disk("data", "copy").map(drop));
    assert!(
        pool.disk("data")
            .unwrap()
            .writer
            .unwrap()
            .starts_with("'vm'")
    );
    drop(head);
    pool.copy_disk("data", "copy").unwrap();
    drop(holder);
    pool.remove_disk("data").unwrap();
    assert_in_order(&pool);
}

#[test]
fn a_snapshot_has_the_disk_of_its_instant_and_copies_go_on_by_themselves() {
    let (_directory, pool, holder, head) = disk();
    head.write(0, &bytes(8192, 1)).unwrap();
    snapshot(&holder, "one", &[&head]);
    head.write(4096, &bytes(4096, 2)).unwrap();
    let cut = head.cut().unwrap();
    // It is not committed: what comes after it has blocks of its own.
    head.write(0, &bytes(100, 3)).unwrap();
    assert_eq!(read(&head, 0, 100), bytes(100, 3));
    drop(cut);
    snapshot(&holder, "two", &[&head]);
    head.write(0, &bytes(8192, 4)).unwrap();
    for (name, first) in [("one", 1), ("two", 3)] {
        let copy = format!("copy-{name}");
        pool.copy_disk_of(name, "data", &copy).unwrap();
        let copy = holder.attach_disk(&copy).unwrap();
        assert_eq!(read(&copy, 0, 100), bytes(100, first));
        copy.write(0, &bytes(100, 9)).unwrap();
        assert_eq!(read(&copy, 0, 100), bytes(100, 9));
    }
    assert_eq!(read(&head, 0, 8192), bytes(8192, 4));
    assert_in_order(&pool);
    let (entry, _) = holder.pin("two").unwrap();
    assert_eq!(entry.maps.len(), 2);
    let old = holder.disk_of(entry.id, "data").unwrap();
    let mut found = vec![0; 100];
    old.read(0, &mut found).unwrap();
    assert_eq!(found, bytes(100, 3));
    drop(head);
    drop(holder);
    for name in ["one", "two"] {
        pool.remove(name).unwrap();
    }
    for name in ["copy-one", "copy-two", "data"] {
        pool.remove_disk(name).unwrap();
    }
    assert_in_order(&pool);
    assert_eq!(pool.status().unwrap().snapshot_blocks, 0, "nothing is left");
}

#[test]
fn discarded_blocks_are_holes_and_free_once_that_is_durable() {
    let (_directory, pool, holder, head) = disk();
    head.write(0, &bytes(64 << 10, 1)).unwrap();
    head.flush().unwrap();
    let before = pool.status().unwrap().holders[0].blocks_in_use;
    // Parts of blocks stay.
    head.discard(100, 40_000).unwrap();
    assert_eq!(read(&head, 0, 4096), bytes(64 << 10, 1)[..4096]);
    assert!(read(&head, 4096, 32_768).iter().all(|byte| *byte == 0));
    assert_eq!(pool.status().unwrap().holders[0].blocks_in_use, before);
    head.flush().unwrap();
    assert_eq!(pool.status().unwrap().holders[0].blocks_in_use, before - 8);
    head.write_zeroes(41_000, 9000).unwrap();
    assert!(read(&head, 41_000, 9000).iter().all(|byte| *byte == 0));
    assert_eq!(read(&head, 50_000, 100), bytes(64 << 10, 1)[50_000..50_100]);
    head.discard(0, DISK).unwrap();
    snapshot(&holder, "empty", &[&head]);
    assert_eq!(pool.disk("data").unwrap().blocks, 0);
    assert_in_order(&pool);
}

#[test]
fn a_full_log_is_put_into_the_map() {
    let (_directory, pool, _holder, head) = disk();
    let mut model = vec![0; DISK as usize];
    for at in 0..200_u64 {
        let offset = at * 7919 * 4096 % (DISK - 4096) / 4096 * 4096;
        let data = bytes(4096, at as u8);
        head.write(offset, &data).unwrap();
        model[offset as usize..offset as usize + 4096].copy_from_slice(&data);
    }
    let committed = pool.disk("data").unwrap().blocks;
    assert!(committed > 80, "commits have {committed} blocks of it");
    assert!(read(&head, 0, DISK as usize) == model);
    assert_in_order(&pool);
    drop(head);
    assert_in_order(&pool);
}

#[test]
fn a_holder_that_ends_first_ends_its_heads() {
    let (_directory, pool, holder, head) = disk();
    head.write(0, &bytes(4096, 5)).unwrap();
    drop(holder);
    assert!(matches!(
        head.write(0, &[1]),
        Err(Error::InvalidDisk { .. })
    ));
    let other = pool.hold("other").unwrap();
    let head = other.attach_disk("data").unwrap();
    assert_eq!(read(&head, 0, 4096), bytes(4096, 5));
    assert_in_order(&pool);
}

#[test]
fn a_larger_disk_keeps_what_it_has() {
    let (_directory, pool, _holder, head) = disk();
    head.write(DISK - 512, &bytes(512, 5)).unwrap();
    head.resize(1 << 40).unwrap();
    assert_eq!(read(&head, DISK - 512, 512), bytes(512, 5));
    assert!(read(&head, DISK, 8192).iter().all(|byte| *byte == 0));
    head.write((1 << 40) - 4096, &bytes(4096, 6)).unwrap();
    assert!(matches!(head.resize(4096), Err(Error::InvalidDisk { .. })));
    assert!(matches!(
        head.write((1 << 40) - 1, &[1, 2]),
        Err(Error::InvalidDisk { .. })
    ));
    drop(head);
    assert_eq!(pool.disk("data").unwrap().size_bytes, 1 << 40);
    assert_in_order(&pool);
}

#[test]
fn a_full_pool_refuses_a_write_and_loses_nothing() {
    let (_directory, pool) = pool_of(8 << 20);
    pool.create_disk("data", 64 << 20).unwrap();
    let holder = pool.hold("vm").unwrap();
    let head = holder.attach_disk("data").unwrap();
    let mut written = 0;
    let full = loop {
        match head.write(written * 4096, &bytes(4096, written as u8)) {
            Ok(()) => written += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(full, Error::PoolFull { .. }), "{full}");
    assert!(written > 500, "{written}");
    for at in 0..written {
        assert_eq!(
            read(&head, at * 4096, 4096),
            bytes(4096, at as u8),
            "block {at}"
        );
    }
    head.flush().unwrap();
    // What is discarded makes room.
    head.discard(0, 100 * 4096).unwrap();
    head.write(written * 4096, &bytes(4096, 1)).unwrap();
    assert_in_order(&pool);
}

#[test]
fn several_threads_write_and_flush_at_once() {
    let (_directory, pool, holder, head) = disk();
    std::thread::scope(|scope| {
        for thread in 0..4_u64 {
            let head = &head;
            scope.spawn(move || {
                for round in 0..60_u64 {
                    // Neighbours share blocks.
                    for part in 0..8 {
                        let offset = (round * 32 + part * 4 + thread) * 512;
                        head.write(offset, &bytes(512, (thread * 60 + round) as u8))
                            .unwrap();
                    }
                    head.flush().unwrap();
                }
            });
        }
        for name in ["one", "two", "three"] {
            snapshot(&holder, name, &[&head]);
        }
    });
    for thread in 0..4 {
        for round in 0..60 {
            for part in 0..8 {
                let offset = (round * 32 + part * 4 + thread) * 512;
                let expected = bytes(512, (thread * 60 + round) as u8);
                assert_eq!(
                    read(&head, offset, 512),
                    expected,
                    "{thread} {round} {part}"
                );
            }
        }
    }
    assert_in_order(&pool);
}

#[test]
fn a_snapshot_has_disks_that_are_only_read_too() {
    let (_directory, pool, holder, head) = disk();
    head.write(0, &bytes(4096, 1)).unwrap();
    drop(head);
    let reader = holder.attach_disk_read_only("data").unwrap();
    pool.create_disk("other", DISK).unwrap();
    let other = holder.attach_disk("other").unwrap();
    let cuts = vec![
        reader.cut().unwrap().named("root").unwrap(),
        other.cut().unwrap(),
    ];
    let memory = NewMap::memory(2 << 20, &[]);
    let new = NewSnapshot {
        kind: SnapshotKind::Vm,
        name: "one",
        parent: None,
        base: None,
        maps: vec![memory],
        state: b"",
        frames_new: 0,
    };
    let reservation = holder.reserve(0).unwrap();
    holder
        .commit_with_disks(new, cuts, &[], reservation)
        .unwrap();
    assert_in_order(&pool);
    holder.unpin(reader.id()).unwrap();
    drop(reader);
    pool.remove_disk("data").unwrap();
    pool.copy_disk_of("one", "root", "data").unwrap();
    let copy = holder.attach_disk("data").unwrap();
    assert_eq!(read(&copy, 0, 4096), bytes(4096, 1));
    let one = pool.find("one").unwrap();
    let again = holder.disk_of(one.id, "root").unwrap();
    let cuts = vec![again.cut().unwrap()];
    let new = NewSnapshot {
        kind: SnapshotKind::Vm,
        name: "two",
        parent: None,
        base: None,
        maps: vec![memory],
        state: b"",
        frames_new: 0,
    };
    let reservation = holder.reserve(0).unwrap();
    holder
        .commit_with_disks(new, cuts, &[], reservation)
        .unwrap();
    assert_in_order(&pool);
}

#[test]
fn a_scrub_names_the_disk_and_the_block_of_it_that_is_damaged() {
    let (_directory, pool, holder, head) = disk();
    head.write(8 * 4096, &bytes(4096, 1)).unwrap();
    snapshot(&holder, "one", &[&head]);
    let mut on = |_| ControlFlow::Continue(());
    assert_eq!(pool.scrub(&mut on).unwrap().digests_made, 1);
    let (entry, _) = holder.pin("one").unwrap();
    let map = holder.disk_of(entry.id, "data").unwrap();
    let block = map.map().chunk(0).unwrap().block(8).unwrap();
    let region = &pool.store.region;
    region.write(block.byte_offset() + 7, b"x").unwrap();
    let report = pool.scrub(&mut on).unwrap();
    let named = MapKind::Disk(DiskName::new("data").unwrap());
    assert_eq!(
        report.damaged.len(),
        2,
        "the disk and the snapshot have it: {report:?}"
    );
    for damaged in &report.damaged {
        assert_eq!(
            (damaged.map, damaged.frame, damaged.block),
            (named, 8, block)
        );
    }
    assert_eq!(damaged_names(&report), ["data", "one"]);
}

fn damaged_names(report: &ScrubReport) -> Vec<&str> {
    let mut names: Vec<_> = report
        .damaged
        .iter()
        .map(|one| one.snapshot.as_str())
        .collect();
    names.sort_unstable();
    names
}

#[test]
fn an_import_is_whole_or_leaves_nothing() {
    let (_directory, pool) = pool_of(32 << 20);
    let holder = pool.hold("import").unwrap();
    let size = (3 << 20) + 512;
    let mut data = vec![0; size as usize];
    data[4096..12_288].copy_from_slice(&bytes(8192, 1));
    data[3 << 20..].copy_from_slice(&bytes(512, 2));
    let refused = holder.import_disk("data", 1 << 30, 1 << 30);
    assert!(matches!(refused, Err(Error::NoRoom { .. })));
    for complete in [false, true] {
        let mut import = holder.import_disk("data", size, 12 << 10).unwrap();
        for (at, piece) in (0..).zip(data.chunks(64 << 10)) {
            import.write(at * (64 << 10), piece).unwrap();
        }
        if complete {
            assert_eq!(import.finish().unwrap().blocks, 3, "zeros are holes");
        } else {
            drop(import);
            assert!(pool.disks().unwrap().is_empty());
            assert_eq!(pool.status().unwrap().holders[0].blocks_in_use, 0);
        }
        assert_in_order(&pool);
    }
    let disk = holder.attach_disk_read_only("data").unwrap();
    let mut found = vec![1; data.len()];
    disk.read(0, &mut found).unwrap();
    assert!(found == data);
}

#[test]
fn an_import_in_chunks_has_whole_chunks_in_order() {
    let (_directory, pool) = pool_of(32 << 20);
    let holder = pool.hold("import").unwrap();
    // Blocks of others are in chunks that are not empty.
    let others = holder.alloc_blocks(3).unwrap();
    let size = (7 << 20) + 512;
    let import = holder.import_disk("data", size, 0).unwrap();
    let mut import = import.in_chunks().unwrap();
    import.write(4096, &bytes(8192, 1)).unwrap();
    import.write(2 << 20, &[0; 4096]).unwrap();
    import.write((7 << 20) - 4096, &bytes(4608, 2)).unwrap();
    let made = import.finish().unwrap();
    assert_eq!((made.size_bytes, made.blocks), (8 << 20, 2 * 512));
    let disk = holder.attach_disk_read_only("data").unwrap();
    let chunks = [0_u32, 1, 2, 3].map(|index| disk.map().chunk(index).unwrap());
    assert!(matches!(chunks[0], ChunkMap::Whole(_)), "{chunks:?}");
    assert!(matches!(chunks[1], ChunkMap::Hole), "{chunks:?}");
    assert!(matches!(chunks[2], ChunkMap::Hole), "{chunks:?}");
    assert!(matches!(chunks[3], ChunkMap::Whole(_)), "{chunks:?}");
    let mut found = vec![1; size as usize];
    disk.read(0, &mut found).unwrap();
    let mut expected = vec![0; size as usize];
    expected[4096..12_288].copy_from_slice(&bytes(8192, 1));
    expected[(7 << 20) - 4096..].copy_from_slice(&bytes(4608, 2));
    assert!(found == expected);
    holder.free_blocks(&others);
    assert_in_order(&pool);
}

#[test]
fn a_snapshot_takes_no_more_metadata_than_was_told_before() {
    let (_directory, pool) = pool_of(64 << 20);
    // So large that each chunk that changes has a node of its own above it.
    pool.create_disk("data", 32 << 40).unwrap();
    let holder = pool.hold("vm").unwrap();
    let head = holder.attach_disk("data").unwrap();
    let (none, at_most) = head.commit_blocks();
    for count in 0..10_u64 {
        head.write((count * 977) << 30, &[1; 4096]).unwrap();
        let told = head.commit_blocks();
        assert!(told.0 <= told.1 && told.1 <= at_most, "{told:?}");
        let own = holder.commit_blocks_needed(2 << 20, 0, 5);
        let reservation = holder.reserve(own + told.0).unwrap();
        let (name, cut) = (format!("s{count}"), head.cut().unwrap());
        let new = NewSnapshot {
            kind: SnapshotKind::Vm,
            name: &name,
            parent: None,
            base: None,
            maps: vec![NewMap::memory(2 << 20, &[])],
            state: b"state",
            frames_new: 0,
        };
        let done = holder.commit_with_disks(new, vec![cut], &[], reservation);
        let done = done.unwrap();
        assert!(done.metadata_blocks <= own + told.0, "{done:?} {told:?}");
        holder.unpin(done.id).unwrap();
        assert_eq!(head.commit_blocks().0, none);
    }
    // A head with many changes commits them by itself.
    for count in 0..100_u64 {
        head.write((count * 311) << 30, &[2; 4096]).unwrap();
        assert!(head.commit_blocks().1 <= at_most);
    }
    assert_in_order(&pool);
}

#[test]
fn disks_go_back_to_a_snapshot_together_and_go_on_from_there() {
    let (directory, pool, holder, head) = disk();
    pool.create_disk("logs", DISK).unwrap();
    let logs = holder.attach_disk("logs").unwrap();
    let (then, other) = (bytes(200_000, 1), bytes(9000, 2));
    head.write(4096, &then).unwrap();
    logs.write(0, &other).unwrap();
    snapshot(&holder, "s", &[&head, &logs]);
    let id = pool.find("s").unwrap().id;
    head.write(8192, &bytes(300_000, 3)).unwrap();
    logs.discard(0, DISK).unwrap();
    head.flush().unwrap();
    // A part of it is in the map already, a part only in the log.
    snapshot(&holder, "later", &[&head]);
    head.write(0, &bytes(50_000, 4)).unwrap();
    logs.resize(2 * DISK).unwrap();
    let in_use = || pool.status().unwrap().holders[0].blocks_in_use;
    let before = in_use();

    let refused = DiskHead::rewind_all(&[(&head, "data"), (&logs, "log")], id);
    assert!(
        matches!(&refused, Err(Error::NoDisk { near, .. }) if near == &["logs"]),
        "{refused:?}"
    );
    assert!(read(&head, 0, 50_000) == bytes(50_000, 4));

    DiskHead::rewind_all(&[(&logs, "logs"), (&head, "data")], id).unwrap();
    assert!(read(&head, 4096, then.len()) == then);
    assert!(read(&logs, 0, other.len()) == other);
    assert_eq!(logs.size_bytes(), DISK);
    let rest = read(&head, 4096 + then.len() as u64, 100_000);
    assert!(rest.iter().all(|byte| *byte == 0));
    assert_in_order(&pool);
    assert!(in_use() < before, "{} of {before}", in_use());

    // The log of before is not read any more, what is written from here on is.
    head.write(4096, &bytes(100, 5)).unwrap();
    let copy = directory.path().join("copy");
    std::fs::copy(pool.path(), &copy).unwrap();
    // Nobody has the locks of the copy.
    let pool = Pool::open(&copy).unwrap();
    let holder = pool.hold("next").unwrap();
    let [head, logs] = ["data", "logs"].map(|name| holder.attach_disk(name).unwrap());
    assert!(read(&head, 4096, 100) == bytes(100, 5));
    assert!(read(&head, 4196, then.len() - 100) == then[100..]);
    assert!(read(&logs, 0, other.len()) == other);
    assert_in_order(&pool);
}
