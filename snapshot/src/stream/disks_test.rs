use super::*;
use crate::identity::{ContentRoot, Identity};
use crate::layout::inode::SnapshotKind;
use crate::stream::StreamHeader;
use crate::stream::record::{VERSION, VERSION_2};

/// Place of the disks in a header.
const DISKS: usize = 408;
/// Place of the first row, and the length of a row.
const ROW: usize = DISKS + 8;
const ROW_BYTES: usize = 144;

/// A change of a header: its name, the place and the bytes, and the words of the refusal.
type Change = (&'static str, (usize, Vec<u8>), &'static str);

fn header() -> StreamHeader {
    let disk = |name, size_bytes| StreamDisk {
        name: DiskName::new(name).unwrap(),
        size_bytes,
    };
    StreamHeader {
        root: ContentRoot::from_bytes([3; 32]),
        frames_written: Some(4),
        identity: Identity::from_bytes([1; 16]).unwrap(),
        base: None,
        parent: None,
        kind: SnapshotKind::Vm,
        name: "web".to_owned(),
        memory_bytes: 1 << 20,
        disks: vec![disk("root", 512), disk("data", 32 << 40)],
        created_unix_ns: 12,
        frames_mapped: 4,
        frames_new: 4,
        state_bytes: 5,
        spec: "{}".to_owned(),
    }
}

#[test]
fn the_disks_of_a_header_are_read_as_they_were_written() {
    let header = header();
    let payload = header.encode().unwrap();
    assert_eq!(StreamHeader::decode(VERSION, &payload).unwrap(), header);
    assert!(StreamHeader::decode(VERSION_2, &payload).is_err());
    for len in 0..payload.len() {
        assert!(StreamHeader::decode(VERSION, &payload[..len]).is_err());
    }
}

/// A writer refuses to write them, so the bytes are changed.
#[test]
fn impossible_disks_in_the_bytes_of_a_header_are_refused() {
    let good = header().encode().unwrap();
    let count = |count: u32| (DISKS, count.to_le_bytes().to_vec());
    let size = |bytes: u64| (ROW, bytes.to_le_bytes().to_vec());
    let changes: [Change; 17] = [
        ("no disk", count(0), "number of disks"),
        ("one row unused but filled", count(1), "not empty"),
        ("a row without a name", count(3), "name of a disk"),
        ("nine", count(9), "number of disks"),
        ("many", count(u32::MAX), "number of disks"),
        ("reserved", (DISKS + 4, vec![1]), "not empty"),
        (
            "a last row",
            (ROW + 8 * ROW_BYTES - 1, vec![1]),
            "not empty",
        ),
        ("no bytes", size(0), "size of a disk"),
        ("513 bytes", size(513), "size of a disk"),
        ("too large", size((32 << 40) + 512), "size of a disk"),
        ("all ones", size(u64::MAX), "size of a disk"),
        ("no name", (ROW + 8, vec![0]), "name of a disk"),
        ("a short name", (ROW + 8, vec![3]), "name of a disk"),
        ("a long name", (ROW + 8, vec![44, 1]), "name of a disk"),
        ("a path", (ROW + 16, b"../r".to_vec()), "name of a disk"),
        ("no text", (ROW + 16, vec![0xff; 4]), "name of a disk"),
        (
            "one name",
            (ROW + 16, b"data".to_vec()),
            "two disks of one name",
        ),
    ];
    for (what, (at, bytes), why) in changes {
        let mut payload = good.clone();
        payload[at..at + bytes.len()].copy_from_slice(&bytes);
        let refused = StreamHeader::decode(VERSION, &payload);
        let refusal = refused.expect_err(what).to_string();
        assert!(refusal.contains(why), "{what}: {refusal}");
    }
}

#[test]
fn disks_of_what_is_no_vm_and_too_many_frames_are_refused() {
    let refusal = |header: &StreamHeader| {
        let payload = header.encode().unwrap();
        let refused = StreamHeader::decode(VERSION, &payload);
        refused.unwrap_err().to_string()
    };
    let process = StreamHeader {
        kind: SnapshotKind::Process,
        ..header()
    };
    assert!(refusal(&process).contains("no VM"));
    let many = StreamHeader {
        frames_written: Some(u64::MAX),
        ..header()
    };
    assert!(refusal(&many).contains("more frames"));
}
