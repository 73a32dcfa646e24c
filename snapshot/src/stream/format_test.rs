//! docs/formats/stream.md says what the code does.

use super::disks::{DisksV1, StreamDiskV1};
use super::header::{CommonV1, HEADER_BYTES_MAX, HeaderV1, HeaderV2, HeaderV3, SPEC_BYTES_MAX};
use super::payload::{CHUNK_PREFIX_BYTES, ChunkV1, END_BYTES, EndV1};
use super::record::{MAGIC, PreludeV1, RecordKind, RecordV1, VERSION, VERSION_1, VERSION_2};
use super::root::{CHUNK_CONTEXT, ROOT_CONTEXT};
use super::sealed;
use crate::documented::{Document, fields};
use crate::layout::inode::{DISKS_MAX, STATE_BYTES_MAX, SnapshotKind};
use crate::number::{BLOCK_SIZE_BYTES, CHUNK_BLOCKS};

const FORMAT: Document = Document(include_str!("../../../docs/formats/stream.md"));

#[test]
fn every_struct_is_as_documented() {
    assert_eq!(
        FORMAT.fields("Prelude (`PreludeV1`)"),
        fields!(PreludeV1: magic version reserved)
    );
    assert_eq!(
        FORMAT.fields("Record (`RecordV1`)"),
        fields!(RecordV1: kind payload_bytes number digest)
    );
    assert_eq!(
        FORMAT.fields("Header (`HeaderV2`)"),
        fields!(HeaderV2:
            root base_root frames_written identity parent_identity common)
    );
    assert_eq!(
        FORMAT.fields("Header with disks (`HeaderV3`)"),
        fields!(HeaderV3: v2 disks)
    );
    assert_eq!(
        FORMAT.fields("Disks (`DisksV1`)"),
        fields!(DisksV1: count reserved rows)
    );
    assert_eq!(
        FORMAT.fields("Row of a disk (`StreamDiskV1`)"),
        fields!(StreamDiskV1: size_bytes name_bytes reserved name)
    );
    assert_eq!(
        FORMAT.fields("Header of version 1 (`HeaderV1`)"),
        fields!(HeaderV1: identity base_identity parent_identity common)
    );
    assert_eq!(
        FORMAT.fields("Rest of the header (`CommonV1`)"),
        fields!(CommonV1:
            memory_bytes created_unix_ns frames_mapped frames_new state_bytes spec_bytes kind
            name_bytes base_name_bytes reserved name base_name)
    );
    assert_eq!(
        FORMAT.fields("Chunk (`ChunkV1`)"),
        fields!(ChunkV1: index map written emptied)
    );
    assert_eq!(
        FORMAT.fields("End (`EndV1`)"),
        fields!(EndV1: chunks frames_written frames_emptied)
    );
}

#[test]
fn every_number_is_as_documented() {
    let code = [
        ("version", u64::from(VERSION)),
        ("version without disks", u64::from(VERSION_2)),
        ("version before", u64::from(VERSION_1)),
        ("disks max", DISKS_MAX as u64),
        ("frame", BLOCK_SIZE_BYTES),
        ("chunk", u64::from(CHUNK_BLOCKS)),
        ("state max", STATE_BYTES_MAX as u64),
        ("spec max", SPEC_BYTES_MAX as u64),
        ("sealed version", u64::from(sealed::VERSION)),
        ("piece", sealed::PIECE_BYTES as u64),
    ];
    let code = code.map(|(name, value)| (name.to_owned(), value)).into();
    assert_eq!(FORMAT.numbers(), code);
}

#[test]
fn every_magic_kind_length_and_context_is_as_documented() {
    let meaning = |heading: &str, field: &str| {
        let row = FORMAT
            .table(heading)
            .into_iter()
            .find(|row| row[2] == field)
            .unwrap();
        row[3].clone()
    };
    let text = |magic: &[u8]| format!("`{}`", std::str::from_utf8(magic).unwrap());
    assert_eq!(meaning("Prelude", "magic"), text(&MAGIC));
    assert_eq!(meaning("Sealed streams", "magic"), text(&sealed::MAGIC));
    let kinds = format!(
        "{}: header, {}: state, {}: chunk, {}: end",
        RecordKind::Header as u32,
        RecordKind::State as u32,
        RecordKind::Chunk as u32,
        RecordKind::End as u32
    );
    assert_eq!(meaning("Record", "kind"), kinds);
    let kinds = format!(
        "{}: snapshot of a VM, {}: process image",
        SnapshotKind::Vm as u8,
        SnapshotKind::Process as u8
    );
    assert_eq!(meaning("Rest of the header", "kind"), kinds);
    let words = FORMAT.0.replace('\n', " ");
    for said in [
        format!("a header {HEADER_BYTES_MAX} bytes and"),
        format!("with {CHUNK_PREFIX_BYTES} bytes before the latter, an end {END_BYTES}."),
        format!("`{CHUNK_CONTEXT}`"),
        format!("`{ROOT_CONTEXT}`"),
        format!("`{}`", sealed::KEY_CONTEXT),
        format!("`{}`", sealed::CHECK_CONTEXT),
    ] {
        assert!(words.contains(&said), "{said}");
    }
}
