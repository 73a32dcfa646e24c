//! docs/formats/remote.md says what the code does.

use zstd::zstd_safe::compress_bound;

use super::condemned::{CONDEMNED_MAX, CondemnedV1};
use super::ids::PackId;
use super::manifest::{BodyV1, HEAD_BYTES_MAX, HeadV1, PIECES_MAX, PieceRowV1};
use super::pack::{IndexRowV1, PACK_PIECES_MAX, TRAILER_MAGIC, TrailerV1};
use super::store::{MAGIC, StoreV1};
use super::touches::{TOUCHES_MAX, TouchesV1};
use super::{CONTENT_BYTES_MAX, PACK_BYTES, PIECE_BYTES, STORED_BYTES_MAX};
use crate::boxes::{BoxKind, BoxV1, Form, VERSION};
use crate::keys::*;

#[path = "../../../src/documented.rs"]
mod documented;
use documented::{Document, fields};

const FORMAT: Document = Document(include_str!("../../../../docs/formats/remote.md"));

#[test]
fn every_struct_is_as_documented() {
    assert_eq!(
        FORMAT.fields("First object (`StoreV1`)"),
        fields!(StoreV1: magic version form piece_bytes reserved salt check)
    );
    assert_eq!(
        FORMAT.fields("Box (`BoxV1`)"),
        fields!(BoxV1: magic version form stored_bytes reserved salt)
    );
    assert_eq!(
        FORMAT.fields("Identity of a pack (`PackId`)"),
        fields!(PackId: push number)
    );
    assert_eq!(
        FORMAT.fields("Row of an index (`IndexRowV1`)"),
        fields!(IndexRowV1: name bytes)
    );
    assert_eq!(
        FORMAT.fields("Trailer (`TrailerV1`)"),
        fields!(TrailerV1: magic index_bytes reserved)
    );
    assert_eq!(
        FORMAT.fields("Head (`HeadV1`)"),
        fields!(HeadV1: push stored_bytes pieces header_version)
    );
    assert_eq!(
        FORMAT.fields("Body (`BodyV1`)"),
        fields!(BodyV1: packs pieces state_bytes reserved)
    );
    assert_eq!(
        FORMAT.fields("Row of a piece (`PieceRowV1`)"),
        fields!(PieceRowV1: name map index pack offset bytes)
    );
    assert_eq!(
        FORMAT.fields("List of condemned packs (`CondemnedV1`)"),
        fields!(CondemnedV1: packs pushes has_witness reserved)
    );
    assert_eq!(
        FORMAT.fields("Record of touches (`TouchesV1`)"),
        fields!(TouchesV1: chunks reserved)
    );
}

#[test]
fn every_number_is_as_documented() {
    let code = [
        ("version", u64::from(VERSION)),
        ("piece", PIECE_BYTES),
        ("pack", PACK_BYTES as u64),
        ("pack pieces max", PACK_PIECES_MAX as u64),
        ("content max", CONTENT_BYTES_MAX as u64),
        ("stored max", STORED_BYTES_MAX as u64),
        ("head max", HEAD_BYTES_MAX),
        ("pieces max", u64::from(PIECES_MAX)),
        ("condemned max", u64::from(CONDEMNED_MAX)),
        ("touches max", u64::from(TOUCHES_MAX)),
    ];
    let code = code.map(|(name, value)| (name.to_owned(), value)).into();
    assert_eq!(FORMAT.numbers(), code);
    assert_eq!(
        compress_bound(CONTENT_BYTES_MAX) + PIECE_SEAL_BYTES,
        STORED_BYTES_MAX
    );
}

#[test]
fn every_magic_and_context_is_as_documented() {
    let text = |magic: &[u8]| format!("`{}`", std::str::from_utf8(magic).expect("text"));
    let words = FORMAT.0.replace('\n', " ");
    let boxes = [
        BoxKind::Head,
        BoxKind::Body,
        BoxKind::Index,
        BoxKind::Condemned,
        BoxKind::Touches,
    ];
    let magics = boxes.map(|kind| text(&kind.magic()));
    let forms = format!(
        "{}: plain, {}: encrypted",
        Form::Plain as u32,
        Form::Sealed as u32
    );
    for said in [
        text(&MAGIC),
        text(&TRAILER_MAGIC),
        format!(
            "{}, {}, {}, {} or {}",
            magics[0], magics[1], magics[2], magics[3], magics[4]
        ),
        forms,
        format!("`{MASTER_CONTEXT}`"),
        format!("`{OPEN_CONTEXT}`"),
        format!("`{CHECK_CONTEXT}`"),
        format!("`{PIECE_NAME_CONTEXT}`"),
        format!("`{SNAPSHOT_NAME_CONTEXT}`"),
        format!("`{PIECE_SEAL_CONTEXT}`"),
        format!("`{PIECE_NONCE_CONTEXT}`"),
        format!("`{BOX_CONTEXT}`"),
    ] {
        assert!(words.contains(&said), "{said}");
    }
}
