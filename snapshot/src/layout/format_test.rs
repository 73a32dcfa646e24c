//! docs/formats/pool.md says what the code does.

use super::holder_slot::{HOLDER_SLOT_BYTES, HolderSlotV1, PINS_MAX};
use super::inode::{INODE_MAGIC, INODE_VERSION, InodeV2, STATE_BYTES_MAX, SnapshotKind};
use super::node::{
    HEIGHT_MAX, INNER_ENTRIES, LEAF_ENTRIES, NODE_MAGIC, NODE_VERSION, NodeKind, NodeV1,
};
use super::runtime::{CLEAN, DIRTY, RuntimeV1};
use super::segment::{
    BLOCK_WORD_BYTES, CHUNK_ENTRY_BYTES, DIGESTS_OFFSET, OWNER_LOCKED, SEGMENTS_MAX, SegmentV2,
    USED_BITS, WAITING,
};
use super::superblock::{CATALOG_HEIGHT, SNAPSHOTS_MAX, SUPERBLOCK_MAGIC, SuperblockV2};
use super::*;
use crate::documented::{Document, fields};

const FORMAT: Document = Document(include_str!("../../../docs/formats/pool.md"));

fn table(heading: &str) -> Vec<Vec<String>> {
    FORMAT.table(heading)
}

fn documented(heading: &str) -> Vec<(String, usize, usize)> {
    FORMAT.fields(heading)
}

#[test]
fn every_struct_is_as_documented() {
    assert_eq!(
        documented("Superblock (`SuperblockV2`)"),
        fields!(SuperblockV2:
            magic version checksum generation uuid size_bytes created_unix_ns flags catalog_height
            catalog_root next_snapshot_id snapshots orphans holder_table_block spare_first_block
            spare_blocks segment_count segments reserved)
    );
    assert_eq!(
        documented("Segment (`SegmentV2`)"),
        fields!(SegmentV2:
            first_chunk chunks chunk_table_block block_table_block data_first_chunk reserved)
    );
    assert_eq!(
        documented("Runtime block (`RuntimeV1`)"),
        fields!(RuntimeV1: boot_id clean dirty committed releasing reserved)
    );
    assert_eq!(
        documented("Holder slot (`HolderSlotV1`)"),
        fields!(HolderSlotV1:
            state pid start_time_ticks pins leases blocks_in_use name_bytes reserved0 name)
    );
    assert_eq!(
        documented("Node (`NodeV1`)"),
        fields!(NodeV1:
            magic kind level version block checksum generation first_index reserved body tail)
    );
    assert_eq!(
        documented("Inode (`InodeV2`)"),
        fields!(InodeV2:
            magic version kind reserved0 block checksum generation id parent created_unix_ns
            memory_bytes map_root map_height flags frames_mapped frames_new state_bytes
            state_checksum slot name_bytes name identity content_root reserved1
            state_blocks)
    );
}

#[test]
fn counts_and_digests_are_where_they_are_said_to_be() {
    let (half, block) = (DIGESTS_OFFSET as usize, BLOCK_SIZE_BYTES as usize);
    assert_eq!(
        documented("Block of the block table"),
        [
            ("counts".into(), 0, half),
            ("digests".into(), half, block - half)
        ]
    );
    assert_eq!(half as u64, u64::from(CHUNK_BLOCKS) * BLOCK_WORD_BYTES);
}

#[test]
fn every_number_is_as_documented() {
    let documented = FORMAT.numbers();
    let code = [
        ("block", BLOCK_SIZE_BYTES),
        ("chunk", u64::from(CHUNK_BLOCKS)),
        ("format version", u64::from(FORMAT_VERSION)),
        ("waiting", u64::from(WAITING)),
        ("waiting shift", u64::from(USED_BITS)),
        ("lock owner", u64::from(OWNER_LOCKED) + 1),
        ("size min", SIZE_BYTES_MIN),
        ("size max", SIZE_BYTES_MAX),
        ("segments max", SEGMENTS_MAX as u64),
        ("holder slots", u64::from(HOLDER_SLOTS)),
        ("holder slot bytes", HOLDER_SLOT_BYTES as u64),
        ("pins", PINS_MAX as u64),
        ("inner entries", INNER_ENTRIES as u64),
        ("leaf entries", LEAF_ENTRIES as u64),
        ("height max", u64::from(HEIGHT_MAX)),
        ("catalog height", u64::from(CATALOG_HEIGHT)),
        ("snapshots max", u64::from(SNAPSHOTS_MAX)),
        ("state max", STATE_BYTES_MAX as u64),
    ];
    assert_eq!(
        documented,
        code.map(|(name, value)| (name.to_owned(), value)).into()
    );
}

#[test]
fn every_area_is_as_documented() {
    let rows: Vec<(String, String, String)> = table("Areas")
        .into_iter()
        .map(|row| (row[0].clone(), row[1].clone(), row[2].clone()))
        .collect();
    let holder_blocks = u64::from(HOLDER_SLOTS) * HOLDER_SLOT_BYTES as u64 / BLOCK_SIZE_BYTES;
    let row = |name: &str, first: u32, blocks: String| (name.to_owned(), first.to_string(), blocks);
    let expected = [
        row("superblock slot 0", SUPERBLOCK_BLOCKS[0], "1".into()),
        row("superblock slot 1", SUPERBLOCK_BLOCKS[1], "1".into()),
        row("runtime block", RUNTIME_BLOCK, "1".into()),
        row(
            "holder table",
            HOLDER_TABLE_BLOCK,
            holder_blocks.to_string(),
        ),
        row("spare blocks", SPARE_FIRST_BLOCK, SPARE_BLOCKS.to_string()),
        row(
            "chunk table",
            CHUNK_TABLE_BLOCK,
            format!("{CHUNK_ENTRY_BYTES} bytes per chunk"),
        ),
        (
            "block table".into(),
            "behind the chunk table".into(),
            "1 per chunk".into(),
        ),
    ];
    assert_eq!(rows, expected);
}

#[test]
fn tables_are_where_they_are_said_to_be() {
    let first = *Layout::for_size(SIZE_BYTES_MAX)
        .unwrap()
        .segments()
        .next()
        .unwrap();
    let chunks = (SIZE_BYTES_MAX / CHUNK_SIZE_BYTES) as u32;
    assert_eq!(
        first.block_table_block,
        CHUNK_TABLE_BLOCK + chunks * 8 / 4096
    );
    let layout = Layout::for_size(SIZE_BYTES_MIN).unwrap();
    layout
        .add(layout.next_segment(SIZE_BYTES_MAX).unwrap())
        .unwrap();
    let second = *layout.segments().nth(1).unwrap();
    assert_eq!(second.chunk_table_block, second.first_chunk * CHUNK_BLOCKS);
    for layout in [Layout::for_size(SIZE_BYTES_MAX).unwrap(), layout] {
        let last = BlockNo::new(u32::MAX);
        let (count, digest) = (
            layout.refcount_offset(last).unwrap(),
            layout.digest_offset(last).unwrap(),
        );
        assert_eq!(digest, count + DIGESTS_OFFSET);
        let first_data = layout.segments().last().unwrap().data_first_chunk;
        let first_data = ChunkNo::new(first_data).unwrap().byte_offset();
        assert!(digest + BLOCK_WORD_BYTES <= first_data);
        assert!(layout.next_segment(SIZE_BYTES_MAX).is_err());
    }
}

#[test]
fn every_magic_is_as_documented() {
    let meaning = |heading: &str, field: &str| {
        let row = table(heading)
            .into_iter()
            .find(|row| row[2] == field)
            .unwrap();
        row[3].clone()
    };
    let text = |magic: &[u8]| format!("`{}`", std::str::from_utf8(magic).unwrap());
    assert_eq!(meaning("Superblock", "magic"), text(&SUPERBLOCK_MAGIC));
    assert_eq!(meaning("Node", "magic"), text(&NODE_MAGIC));
    assert_eq!(meaning("Inode", "magic"), text(&INODE_MAGIC));
    assert_eq!(meaning("Node", "version"), NODE_VERSION.to_string());
    assert_eq!(meaning("Inode", "version"), INODE_VERSION.to_string());
    let kinds = format!(
        "{}: snapshot of a VM, {}: process image",
        SnapshotKind::Vm as u8,
        SnapshotKind::Process as u8
    );
    assert_eq!(meaning("Inode", "kind"), kinds);
    let kinds = format!(
        "{}: memory, {}: catalog",
        NodeKind::Memory as u8,
        NodeKind::Catalog as u8
    );
    assert_eq!(meaning("Node", "kind"), kinds);
    assert_eq!(
        meaning("Runtime block", "clean"),
        format!("{CLEAN:#x}: closed in order")
    );
    assert_eq!(
        meaning("Runtime block", "dirty"),
        format!("{DIRTY:#x}: counts are being changed")
    );
}
