//! Access of fuzz targets to what is read from a store.
//!
//! A fuzzer guesses no digest. So each input is the payload of a box, which is made around it.

use zerocopy::IntoBytes;

use crate::boxes::BoxKind;
use crate::keys::StoreKeys;
use crate::layout::condemned::Condemned;
use crate::layout::ids::{ObjectId, PackId};
use crate::layout::manifest::{HEAD_BYTES_MAX, Manifest};
use crate::layout::pack::{PACK_PIECES_MAX, Packed, TRAILER_BYTES, pieces_of, tail};
use crate::layout::store::StoreV1;
use crate::piece::{PieceReader, frames_of};

const PUSH: ObjectId = ObjectId([7; 16]);

fn keys() -> StoreKeys {
    StoreKeys::of(&[1; 32], None)
}

/// Reads a manifest whose head and body are these; true if it is taken for one.
///
/// # Panics
/// When a manifest that was taken for one is not the same after it was written.
pub fn read_manifest(head: &[u8], body: &[u8]) -> bool {
    let keys = keys();
    let mut head = head.to_vec();
    if let Some(push) = head.get_mut(..16) {
        push.copy_from_slice(&PUSH.0);
    }
    // The name that the header has, wherever it has it.
    let object = keys.snapshot_object("a");
    let wrapped = [
        keys.wrap(BoxKind::Head, object.as_bytes(), &head),
        keys.wrap(BoxKind::Body, &PUSH.0, body),
    ];
    let Ok(bytes) = wrapped.into_iter().collect::<Result<Vec<_>, _>>() else {
        return false;
    };
    let Ok(manifest) = Manifest::decode(&keys, &object, &bytes.concat()) else {
        return false;
    };
    assert!(
        manifest
            .pieces
            .iter()
            .all(|row| (row.pack as usize) < manifest.packs.len())
    );
    let again = manifest.encode(&keys, &object).expect("it was read");
    let read = Manifest::decode(&keys, &object, &again).expect("it was written");
    assert_eq!(read, manifest);
    assert!(bytes[0].len() as u64 <= HEAD_BYTES_MAX);
    true
}

/// Reads the end of a pack whose index is this; true if it is taken for one.
///
/// # Panics
/// When an index that was taken for one is not the same after it was written.
pub fn read_index(index: &[u8], pack_bytes: u64) -> bool {
    let (keys, pack) = (keys(), PackId::new(PUSH, 3));
    let Ok(mut bytes) = keys.wrap(BoxKind::Index, pack.as_bytes(), index) else {
        return false;
    };
    let trailer = tail(&keys, pack, &[]).expect("an empty index");
    let length = bytes.len() as u32;
    bytes.extend_from_slice(&trailer[trailer.len() - TRAILER_BYTES..]);
    let at = bytes.len() - TRAILER_BYTES + 8;
    bytes[at..at + 4].copy_from_slice(&length.to_le_bytes());
    let Ok(pieces) = pieces_of(&keys, pack, pack_bytes, &bytes) else {
        return false;
    };
    let end = pieces.last().map_or(0, |last: &Packed| {
        u64::from(last.offset) + u64::from(last.bytes)
    });
    assert!(end <= pack_bytes && pieces.len() <= PACK_PIECES_MAX);
    assert_eq!(tail(&keys, pack, &pieces).expect("it was read"), bytes);
    true
}

/// Reads a list of condemned packs; true if it is taken for one.
///
/// # Panics
/// When a list that was taken for one is not the same after it was written.
pub fn read_condemned(payload: &[u8]) -> bool {
    let keys = keys();
    let Ok(bytes) = keys.wrap(BoxKind::Condemned, PUSH.as_bytes(), payload) else {
        return false;
    };
    let Ok(list) = Condemned::decode(&keys, PUSH, &bytes) else {
        return false;
    };
    let again = list.encode(&keys, PUSH).expect("it was read");
    assert_eq!(
        Condemned::decode(&keys, PUSH, &again).expect("it was written"),
        list
    );
    true
}

/// Reads bytes as the first object of a store, as an end of a pack, and as a piece.
pub fn read_anything(bytes: &[u8]) {
    let keys = keys();
    assert!(StoreV1::open(bytes, None).is_err() || bytes.len() == 96);
    let pack = PackId::new(PUSH, 3);
    assert!(pieces_of(&keys, pack, bytes.len() as u64, bytes).is_err());
    let mut reader = PieceReader::new().expect("zstd");
    assert!(reader.content(&keys, &keys.piece_name(b""), bytes).is_err());
    if let Ok(frames) = frames_of(bytes) {
        assert_eq!(frames.count(), bytes.len() / 4096);
    }
    assert!(Manifest::decode(&keys, &keys.snapshot_object("a"), bytes).is_err());
}
