//! Snapshots with disks, moved from pool to pool.

use std::ops::ControlFlow;
use std::sync::Arc;

use nvvmm_snapshot::stream::{StreamDisk, StreamReader};
use nvvmm_snapshot::*;

use crate::fixture::*;
use crate::streams::*;

const SMALL: u64 = (5 << 20) + 512;
const SPARSE: u64 = 1 << 40;

/// Contents of the disk `small` in `a` and `b`, and of the end of `sparse`.
struct Disks {
    small: [Vec<u8>; 2],
    tail: Vec<u8>,
}

fn data(len: usize, salt: usize) -> Vec<u8> {
    let byte = |at: usize| (at / 5 + at / 4096 + salt) as u8;
    (0..len).map(byte).collect()
}

fn cut(holder: &Holder, name: &str, heads: &[&Arc<DiskHead>]) {
    let cuts = heads.iter().map(|head| head.cut().unwrap()).collect();
    let new = NewSnapshot {
        kind: SnapshotKind::Vm,
        name,
        parent: None,
        base: None,
        maps: vec![NewMap::memory(4 << 20, &[])],
        state: STATE,
        frames_new: 0,
    };
    let reservation = holder.reserve(1).unwrap();
    let done = holder.commit_with_disks(new, cuts, &[], reservation);
    holder.unpin(done.unwrap().id).unwrap();
}

/// Takes `a` and `b` of a VM with two disks.
fn take_both(pool: &Arc<Pool>) -> Disks {
    pool.create_disk("small", SMALL).unwrap();
    pool.create_disk("sparse", SPARSE).unwrap();
    let holder = pool.hold("vm").unwrap();
    let (small, sparse) = (
        holder.attach_disk("small").unwrap(),
        holder.attach_disk("sparse").unwrap(),
    );
    let first = data(SMALL as usize, 1);
    small.write(0, &first).unwrap();
    let tail = data(9000, 7);
    sparse.write(SPARSE - 9000, &tail).unwrap();
    cut(&holder, "a", &[&small, &sparse]);
    let mut second = first.clone();
    second[8192..12288].fill(9);
    second[1 << 20..(1 << 20) + 4096].fill(0);
    second[SMALL as usize - 100..].fill(3);
    small.write(8192, &second[8192..12288]).unwrap();
    small.discard(1 << 20, 4096).unwrap();
    small
        .write(SMALL - 100, &second[SMALL as usize - 100..])
        .unwrap();
    cut(&holder, "b", &[&small, &sparse]);
    Disks {
        small: [first, second],
        tail,
    }
}

fn read(pool: &Arc<Pool>, snapshot: &str, disk: &str, offset: u64, len: usize) -> Vec<u8> {
    let holder = pool.hold("reader").unwrap();
    let (entry, _) = holder.pin(snapshot).unwrap();
    let mut bytes = vec![0xee; len];
    let reader = holder.disk_of(entry.id, disk).unwrap();
    reader.read(offset, &mut bytes).unwrap();
    bytes
}

fn assert_has(pool: &Arc<Pool>, snapshot: &str, small: &[u8], tail: &[u8]) {
    assert!(read(pool, snapshot, "small", 0, SMALL as usize) == small);
    assert!(read(pool, snapshot, "sparse", SPARSE - 9000, 9000) == tail);
}

#[test]
fn disks_arrive_as_they_were_and_a_difference_shares_the_rest() {
    let (from, to) = (pool_of(64 << 20), other_pool_of(64 << 20));
    let (from, to) = (&from.pool, &to.pool);
    let disks = take_both(from);
    let (stream, report) = sent(from, "a", None);
    assert_eq!(report.frames_sent, SMALL.div_ceil(4096) + 3);
    received(to, &stream).unwrap();
    assert_has(to, "a", &disks.small[0], &disks.tail);
    assert!(to.disks().unwrap().is_empty());
    assert_clean(to);

    let (stream, report) = sent(from, "b", Some("a"));
    assert_eq!((report.frames_sent, report.frames_emptied), (2, 1));
    let landed = received(to, &stream).unwrap();
    assert_eq!(
        (landed.frames_stored, landed.since.as_deref()),
        (2, Some("a"))
    );
    to.remove("a").unwrap();
    assert_has(to, "b", &disks.small[1], &disks.tail);
    assert_clean(to);
    // A disk of it can be used, and what was sent on is the same.
    to.copy_disk_of("b", "small", "mine").unwrap();
    assert!(to.hold("vm").unwrap().attach_disk("mine").is_ok());
    let (again, report) = sent(to, "b", None);
    assert_eq!(report.content_root, sent(from, "b", None).1.content_root);
    received_as(from, "back", &again).unwrap();
    assert_has(from, "back", &disks.small[1], &disks.tail);
    assert_clean(from);
}

#[test]
fn a_base_with_other_disks_gives_what_it_has() {
    let (from, to) = (pool_of(64 << 20), other_pool_of(64 << 20));
    let (from, to) = (&from.pool, &to.pool);
    let disks = take_both(from);
    let holder = from.hold("vm").unwrap();
    let sparse = holder.attach_disk("sparse").unwrap();
    cut(&holder, "one", &[&sparse]);
    received(to, &sent(from, "one", None).0).unwrap();
    let (stream, report) = sent(from, "a", Some("one"));
    assert_eq!(report.frames_sent, SMALL.div_ceil(4096));
    received(to, &stream).unwrap();
    assert_has(to, "a", &disks.small[0], &disks.tail);
    // The other way round a disk is left out.
    received_as(to, "less", &sent(from, "one", Some("a")).0).unwrap();
    assert!(read(to, "less", "sparse", SPARSE - 9000, 9000) == disks.tail);
    assert_clean(to);
}

#[test]
fn wherever_a_stream_of_disks_ends_the_next_reception_goes_on() {
    let from = pool_of(64 << 20);
    let disks = take_both(&from.pool);
    let (stream, _) = sent(&from.pool, "b", None);
    for step in 1..6 {
        let to = other_pool_of(64 << 20);
        let mut steps = 0;
        let stopped = to
            .pool
            .receive(&ReceiveOptions::default(), &mut &stream[..], &mut |_| {
                steps += 1;
                match steps > step {
                    true => ControlFlow::Break(()),
                    false => ControlFlow::Continue(()),
                }
            });
        assert!(matches!(stopped, Err(Error::Interrupted)), "step {step}");
        assert_clean(&to.pool);
        let landed = received(&to.pool, &stream).unwrap();
        assert_eq!(landed.resumed, step > 1, "step {step}");
        assert_eq!(landed.frames_found > 0, landed.resumed);
        assert_has(&to.pool, "b", &disks.small[1], &disks.tail);
        assert_clean(&to.pool);
    }
    let to = other_pool_of(64 << 20);
    for end in (0..stream.len()).step_by(stream.len() / 7 + 1) {
        assert!(received(&to.pool, &stream[..end]).is_err());
        assert_clean(&to.pool);
    }
    received(&to.pool, &stream).unwrap();
    assert_has(&to.pool, "b", &disks.small[1], &disks.tail);
}

#[test]
fn a_stream_of_disks_that_makes_no_sense_is_refused_and_leaves_nothing() {
    let (from, to) = (pool_of(64 << 20), other_pool_of(64 << 20));
    take_both(&from.pool);
    let stream = Stream::read(&sent(&from.pool, "a", None).0);
    type Change = fn(&mut Stream);
    let changes: [(&str, Change); 5] = [
        ("another map", |stream| stream.chunks[0].map = 3),
        ("maps out of order", |stream| stream.chunks.reverse()),
        ("something behind the end", |stream| {
            let of_small = stream.chunks.iter_mut().filter(|chunk| chunk.map == 1);
            *of_small.last().unwrap().content.last_mut().unwrap() = 1;
        }),
        ("another size", |stream| {
            stream.header.disks[1].size_bytes += 512
        }),
        ("another name", |stream| {
            stream.header.disks[1].name = DiskName::new("other").unwrap();
        }),
    ];
    for (what, change) in changes {
        let mut stream = stream.clone();
        change(&mut stream);
        let refused = received(&to.pool, &stream.written());
        let is_refused = matches!(refused, Err(Error::StreamDamaged { .. }));
        assert!(is_refused, "{what}: {refused:?}");
        assert!(to.pool.entries().unwrap().is_empty(), "{what}");
        assert_clean(&to.pool);
    }
}

#[test]
fn impossible_disks_in_a_header_are_refused() {
    let from = pool_of(64 << 20);
    take_both(&from.pool);
    let (bytes, _) = sent(&from.pool, "a", None);
    assert_eq!(bytes[8], 3);
    let header = StreamReader::begin(&mut &bytes[..])
        .unwrap()
        .header()
        .clone();
    let disk = |name: String, size_bytes| StreamDisk {
        name: DiskName::new(&name).unwrap(),
        size_bytes,
    };
    for disks in [
        vec![disk("x".to_owned(), 511)],
        vec![disk("x".to_owned(), 0)],
        vec![disk("x".to_owned(), (32 << 40) + 512)],
        vec![disk("x".to_owned(), 512), disk("x".to_owned(), 512)],
        (0..9).map(|at| disk(format!("x{at}"), 512)).collect(),
    ] {
        let mut header = header.clone();
        header.disks = disks;
        let written = stream::StreamWriter::begin(&mut Vec::new(), &header, 1).err();
        assert!(written.is_some(), "{header:?}");
    }
}

#[test]
fn a_snapshot_without_disks_is_sent_in_version_2() {
    let from = pool_of(32 << 20);
    take(&from.pool, "a", SnapshotKind::Vm, 4, &sparse(), None);
    assert_eq!(sent(&from.pool, "a", None).0[8], 2);
}
