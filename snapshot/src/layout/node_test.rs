//! Nodes, inodes and superblocks come back as they were written, and are refused when anything
//! about them is off.

use zerocopy::IntoBytes;

use super::inode::{
    DiskPart, FileMap, HeadPlace, Inode, InodeV2, MapKind, SnapshotKind, map_height,
};
use super::node::{
    Entry, Expected, Node, NodeKind, NodeV1, height_for, leaves_covered, open_node, seal_node,
};
use super::runtime::{committed_generation, committed_word};
use super::superblock::{SlotFault, SuperblockV2};
use super::*;
use crate::SnapshotId;
use crate::identity::{ContentRoot, Identity};
use crate::name::DiskName;

fn layout() -> Layout {
    Layout::for_size(64 << 20).unwrap()
}

fn inner() -> (NodeV1, Expected, BlockNo) {
    let mut entries = Box::new([Entry::Hole; 256]);
    entries[0] = Entry::Chunk(ChunkNo::new(3).unwrap());
    entries[255] = Entry::Node {
        block: BlockNo::new(5000),
        crc24: 0xab_cdef,
    };
    let block = BlockNo::new(4711);
    let (raw, crc24) = seal_node(&Node::Inner(entries), NodeKind::Memory, 1, 512, block, 9);
    (
        raw,
        Expected {
            kind: NodeKind::Memory,
            level: 1,
            first_index: 512,
            crc24,
        },
        block,
    )
}

#[test]
fn a_node_comes_back() {
    let (mut raw, expected, block) = inner();
    let Node::Inner(entries) = open_node(&mut raw, block, &expected, &layout()).unwrap() else {
        panic!("a leaf")
    };
    assert_eq!(entries[0], Entry::Chunk(ChunkNo::new(3).unwrap()));
    assert_eq!(entries[1], Entry::Hole);
    assert_eq!(
        entries[255],
        Entry::Node {
            block: BlockNo::new(5000),
            crc24: 0xab_cdef
        }
    );
}

#[test]
fn a_node_with_any_byte_changed_is_refused() {
    let (raw, expected, block) = inner();
    for at in 0..4096 {
        let mut raw = raw.clone();
        raw.as_mut_bytes()[at] ^= 1;
        assert!(
            open_node(&mut raw, block, &expected, &layout()).is_err(),
            "byte {at}"
        );
    }
}

#[test]
fn an_intact_node_in_the_wrong_place_is_refused() {
    let (raw, good, block) = inner();
    let refused = |expected: Expected, block: BlockNo| {
        open_node(&mut raw.clone(), block, &expected, &layout()).is_err()
    };
    assert!(refused(good, BlockNo::new(4712)));
    assert!(refused(
        Expected {
            kind: NodeKind::Catalog,
            ..good
        },
        block
    ));
    assert!(refused(Expected { level: 2, ..good }, block));
    assert!(refused(Expected { level: 0, ..good }, block));
    assert!(refused(
        Expected {
            first_index: 0,
            ..good
        },
        block
    ));
    assert!(refused(
        Expected {
            crc24: good.crc24 ^ 1,
            ..good
        },
        block
    ));
    assert!(!refused(good, block));
}

#[test]
fn entries_that_no_pool_of_the_size_can_have_are_refused() {
    let layout = layout();
    let chunk = |number: u64| 1 << 56 | number;
    let node = |number: u64| 2 << 56 | number;
    let memory = |raw: u64, level: u32| Entry::from_raw(raw, level, NodeKind::Memory, &layout);
    assert!(
        memory(chunk(31), 0).is_ok() && memory(chunk(32), 0).is_err(),
        "behind the end"
    );
    assert!(memory(chunk(0), 0).is_err(), "the fixed areas");
    assert!(
        memory(chunk(31), 1).is_err(),
        "a chunk where an inner node must be"
    );
    assert!(memory(chunk(31) | 1 << 32, 0).is_err());
    assert!(Entry::from_raw(chunk(31), 0, NodeKind::Catalog, &layout).is_err());
    assert!(memory(node(16_383), 0).is_ok() && memory(node(16_384), 0).is_err());
    assert!(
        memory(node(64), 0).is_ok()
            && memory(node(63), 0).is_err()
            && memory(node(320), 0).is_err(),
        "spare ones"
    );
    assert!(memory(5, 0).is_err() && memory(3 << 56, 0).is_err() && memory(u64::MAX, 0).is_err());
}

#[test]
fn trees_are_as_tall_as_they_must_be() {
    assert_eq!(
        [0, 1, 2, 3].map(leaves_covered),
        [1, 256, 65_536, 16_777_216]
    );
    assert_eq!(
        [1, 2, 256, 257, 65_536, 65_537, 1 << 24].map(height_for),
        [0, 1, 1, 2, 2, 3, 3].map(Some)
    );
    assert_eq!(height_for((1 << 24) + 1), None);
    assert_eq!(map_height(4096).unwrap(), 0);
    assert_eq!(map_height((2 << 20) + 4096).unwrap(), 1);
    assert_eq!(map_height(32 << 40).unwrap(), 3);
    for size in [0, 1, 4095, 4097, (32 << 40) + 4096, u64::MAX] {
        assert!(map_height(size).is_err(), "{size}");
    }
}

fn memory(size_bytes: u64) -> FileMap {
    let root = Entry::Node {
        block: BlockNo::new(900),
        crc24: 7,
    };
    FileMap::new(MapKind::Memory, size_bytes, root).unwrap()
}

fn inode() -> Inode {
    Inode {
        id: SnapshotId::new(12).unwrap(),
        kind: SnapshotKind::Process,
        name: "before-upgrade".to_owned(),
        parent: SnapshotId::new(11),
        created_unix_ns: 1,
        disk: None,
        maps: vec![memory(3 << 20)],
        orphan: true,
        incomplete: false,
        foreign: true,
        identity: Identity::from_bytes([7; 16]).unwrap(),
        content_root: ContentRoot::from_bytes([8; 32]),
        frames_mapped: 2,
        frames_new: 3,
        state_bytes: 4097,
        state_checksum: 4,
        state_blocks: vec![BlockNo::new(901), BlockNo::new(902)],
    }
}

#[test]
fn a_list_of_maps_that_the_format_cannot_express_is_refused() {
    for maps in [vec![], vec![memory(3 << 20); 2]] {
        let count = maps.len();
        let odd = Inode { maps, ..inode() };
        let refused = odd
            .seal(1000, BlockNo::new(600), 5)
            .unwrap_err()
            .to_string();
        assert!(refused.contains(&format!("{count} maps")), "{refused}");
    }
}

fn disk_map(name: &str, size_bytes: u64) -> FileMap {
    let kind = MapKind::Disk(DiskName::new(name).unwrap());
    let root = memory(3 << 20).root;
    FileMap::new(kind, size_bytes, root).unwrap().with_frames(2)
}

/// An inode with a snapshot's disks, and those of disks without and with a head.
fn with_disks() -> [Inode; 3] {
    let snapshot = Inode {
        maps: vec![
            memory(3 << 20),
            disk_map("root", 512),
            disk_map("data", 1 << 40),
        ],
        kind: SnapshotKind::Vm,
        ..inode()
    };
    let disk = Inode {
        disk: Some(DiskPart::default()),
        maps: vec![disk_map("data", 5 * 512)],
        kind: SnapshotKind::Vm,
        name: "data".to_owned(),
        state_bytes: 0,
        state_blocks: Vec::new(),
        ..inode()
    };
    let head = HeadPlace {
        id: 9,
        slot: 255,
        nonce: 8,
        base: 7,
        log: vec![BlockNo::new(903), BlockNo::new(904)],
    };
    let attached = Inode {
        disk: Some(DiskPart { head: Some(head) }),
        ..disk.clone()
    };
    [snapshot, disk, attached]
}

#[test]
fn an_inode_comes_back_and_with_any_byte_changed_is_refused() {
    let (slot, block) = (1000, BlockNo::new(600));
    for inode in with_disks().into_iter().chain([inode()]) {
        let raw = inode.seal(slot, block, 3).unwrap();
        let open =
            |raw: &InodeV2, slot, block| Inode::open(&mut raw.clone(), slot, block, &layout());
        assert_eq!(open(&raw, slot, block).unwrap(), inode);
        assert!(open(&raw, slot + 1, block).is_err());
        assert!(open(&raw, slot, BlockNo::new(601)).is_err());
        for at in 0..4096 {
            let mut raw = raw.clone();
            raw.as_mut_bytes()[at] ^= 0x80;
            assert!(open(&raw, slot, block).is_err(), "byte {at}");
        }
    }
}

#[test]
fn lists_of_disks_that_the_format_cannot_express_are_refused() {
    let [snapshot, disk, _] = with_disks();
    let names: Vec<String> = (0..9).map(|at| format!("disk{at}")).collect();
    let many = names.iter().map(|name| disk_map(name, 512));
    for inode in [
        Inode {
            maps: vec![memory(3 << 20), disk_map("a", 512), disk_map("a", 512)],
            ..snapshot.clone()
        },
        Inode {
            maps: std::iter::once(memory(3 << 20)).chain(many).collect(),
            ..snapshot.clone()
        },
        Inode {
            maps: vec![disk_map("a", 512)],
            ..snapshot
        },
        Inode {
            maps: vec![disk_map("another", 512)],
            ..disk
        },
    ] {
        let count = inode.maps.len();
        assert!(inode.seal(1, BlockNo::new(600), 5).is_err(), "{count} maps");
    }
}

#[test]
fn an_inode_with_a_good_checksum_and_impossible_fields_is_refused() {
    let (slot, block) = (1, BlockNo::new(600));
    type Change = fn(&mut InodeV2);
    let changes: [(&str, Change); 13] = [
        ("version", |raw| raw.version = 1.into()),
        ("kind", |raw| raw.kind = 9),
        ("flags", |raw| raw.flags = 8.into()),
        ("identity", |raw| raw.identity = [0; 16]),
        ("name", |raw| raw.name[0] = b'/'),
        ("name", |raw| raw.name_bytes = 300.into()),
        ("size", |raw| raw.memory_bytes = 5.into()),
        ("height", |raw| raw.map_height = 2.into()),
        ("state", |raw| raw.state_bytes = u32::MAX.into()),
        ("state block", |raw| raw.state_blocks[1] = 1.into()),
        ("id", |raw| raw.id = 0.into()),
        ("frames", |raw| raw.frames_mapped = 1025.into()),
        ("new frames", |raw| raw.frames_new = u64::MAX.into()),
    ];
    for (what, change) in changes {
        let mut raw = inode().seal(slot, block, 3).unwrap();
        change(&mut raw);
        raw.checksum = 0.into();
        raw.checksum = crc32fast::hash(raw.as_bytes()).into();
        assert!(
            Inode::open(&mut raw, slot, block, &layout()).is_err(),
            "{what}"
        );
    }
}

#[test]
fn superblocks_say_what_is_wrong_with_them() {
    let good = SuperblockV2::new(&layout(), [1; 16], 5, true);
    let opened = SuperblockV2::decode(&good.seal()).unwrap();
    assert!(opened.overcommit() && opened.size_bytes == 64 << 20);
    assert_eq!(
        SuperblockV2::decode(&[0; 4096]).unwrap_err(),
        SlotFault::NoMagic
    );
    let mut flipped = good.seal();
    flipped[4000] ^= 1;
    assert_eq!(
        SuperblockV2::decode(&flipped).unwrap_err(),
        SlotFault::Checksum
    );
    let with = |change: fn(&mut SuperblockV2)| {
        let mut block = good.clone();
        change(&mut block);
        SuperblockV2::decode(&block.seal()).unwrap_err()
    };
    assert_eq!(
        with(|block| block.version = 1.into()),
        SlotFault::Version(1)
    );
    assert!(matches!(
        with(|block| block.size_bytes = 5.into()),
        SlotFault::Fields(_)
    ));
    assert!(matches!(
        with(|block| block.segment_count = 0.into()),
        SlotFault::Fields(_)
    ));
    assert!(matches!(
        with(|block| block.segment_count = 65.into()),
        SlotFault::Fields(_)
    ));
    assert!(matches!(
        with(|block| block.segments[0].chunks = u32::MAX.into()),
        SlotFault::Fields(_)
    ));
    assert!(matches!(
        with(|block| block.segments[0].data_first_chunk = 0.into()),
        SlotFault::Fields(_)
    ));
    assert!(matches!(
        with(|block| block.segments[5].first_chunk = 7.into()),
        SlotFault::Fields(_)
    ));
    assert!(matches!(
        with(|block| block.catalog_height = 3.into()),
        SlotFault::Fields(_)
    ));
    assert!(matches!(
        with(|block| block.catalog_root = 5.into()),
        SlotFault::Fields(_)
    ));
    assert!(matches!(
        with(|block| block.flags = 2.into()),
        SlotFault::Fields(_)
    ));
}

#[test]
fn a_superblock_names_segments_one_behind_the_other() {
    let mut block = SuperblockV2::new(&layout(), [1; 16], 5, false);
    let grown = layout();
    for size_bytes in [68 << 20, 2 << 30, 4 << 40] {
        let segment = grown.next_segment(size_bytes).unwrap();
        grown.add(segment).unwrap();
        block.add_segment(&segment);
    }
    let opened = SuperblockV2::decode(&block.seal()).unwrap();
    assert_eq!(opened.size_bytes, 4 << 40);
    let read = opened.layout().unwrap();
    assert_eq!(
        read.segments().collect::<Vec<_>>(),
        grown.segments().collect::<Vec<_>>()
    );
    let tables: u32 = read
        .segments()
        .map(|segment| segment.data_first_chunk - segment.first_chunk)
        .sum();
    assert_eq!(
        read.data_chunks().count(),
        (read.chunks() - tables) as usize
    );
    block.segments.swap(1, 2);
    assert!(matches!(
        SuperblockV2::decode(&block.seal()),
        Err(SlotFault::Fields(_))
    ));
}

#[test]
fn a_pool_grows_only_to_sizes_that_hold_more_data() {
    let layout = layout();
    for size_bytes in [0, 64 << 20, 62 << 20, (64 << 20) + 1, 66 << 20, 17 << 40] {
        assert!(layout.next_segment(size_bytes).is_err(), "{size_bytes}");
    }
    for step in 1..super::segment::SEGMENTS_MAX as u64 {
        layout
            .add(layout.next_segment((64 + 4 * step) << 20).unwrap())
            .unwrap();
    }
    assert!(layout.next_segment(1 << 30).is_err(), "one growth too many");
}

#[test]
fn the_committed_word_is_checked() {
    for generation in [0, 1, 2, 77_777, (1 << 48) - 1] {
        let word = committed_word(generation);
        assert_eq!(committed_generation(word), Some(generation));
        for bit in 0..64 {
            assert_eq!(
                committed_generation(word ^ 1 << bit),
                None,
                "bit {bit} of {generation}"
            );
        }
    }
}
