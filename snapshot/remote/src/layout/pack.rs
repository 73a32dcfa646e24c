//! Packs: pieces one after the other, then an index of them, then where the index begins.

use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::ids::PackId;
use crate::boxes::{BOX_BYTES_MAX, BoxKind};
use crate::error::{Error, Result};
use crate::keys::{PieceName, StoreKeys};

/// Pieces that a pack has at most, so that one request reads its whole index.
pub(crate) const PACK_PIECES_MAX: usize = 1024;
pub(crate) const TRAILER_MAGIC: [u8; 8] = *b"NVVMPACK";

/// The row of a piece in an index, in the order of the pieces.
#[derive(Debug, Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct IndexRowV1 {
    pub(crate) name: [u8; 32],
    pub(crate) bytes: U32,
}

/// The last bytes of a pack.
#[derive(Debug, Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct TrailerV1 {
    pub(crate) magic: [u8; 8],
    pub(crate) index_bytes: U32,
    pub(crate) reserved: U32,
}

pub(crate) const ROW_BYTES: usize = size_of::<IndexRowV1>();
pub(crate) const TRAILER_BYTES: usize = size_of::<TrailerV1>();
const _: () = assert!(ROW_BYTES == 36 && TRAILER_BYTES == 16);

/// The longest index with its trailer.
pub(crate) const TAIL_BYTES_MAX: u64 =
    (BOX_BYTES_MAX + PACK_PIECES_MAX * ROW_BYTES + TRAILER_BYTES) as u64;

/// A piece in a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Packed {
    pub(crate) name: PieceName,
    pub(crate) offset: u32,
    pub(crate) bytes: u32,
}

/// The index and the trailer of a pack whose pieces these are.
pub(crate) fn tail(keys: &StoreKeys, pack: PackId, pieces: &[Packed]) -> Result<Vec<u8>> {
    let rows = pieces.iter().map(|piece| IndexRowV1 {
        name: piece.name.0,
        bytes: piece.bytes.into(),
    });
    let rows: Vec<IndexRowV1> = rows.collect();
    let mut tail = keys.wrap(BoxKind::Index, pack.as_bytes(), rows.as_bytes())?;
    let trailer = TrailerV1 {
        magic: TRAILER_MAGIC,
        index_bytes: (tail.len() as u32).into(),
        reserved: 0.into(),
    };
    tail.extend_from_slice(trailer.as_bytes());
    Ok(tail)
}

/// The pieces of a pack of `pack_bytes`, of which `tail` has the end.
///
/// # Errors
/// [`Error::Damaged`].
pub(crate) fn pieces_of(
    keys: &StoreKeys,
    pack: PackId,
    pack_bytes: u64,
    tail: &[u8],
) -> Result<Vec<Packed>> {
    let object = format_args!("pack {pack}");
    let damaged = |what: &str| Error::damaged(object, what);
    let (rest, trailer) = TrailerV1::ref_from_suffix(tail)
        .map(|(rest, trailer)| (rest, trailer.clone()))
        .map_err(|_| damaged("it is cut off"))?;
    if trailer.magic != TRAILER_MAGIC || trailer.reserved != 0 {
        return Err(damaged("its end is not that of a pack"));
    }
    let index_bytes = trailer.index_bytes.get() as usize;
    let at = rest.len().checked_sub(index_bytes);
    let index = at.map(|at| &rest[at..]);
    let index = index.ok_or_else(|| damaged("its index is too long"))?;
    let (rows, behind) = keys.unwrap(BoxKind::Index, pack.as_bytes(), index, &object)?;
    let rows = <[IndexRowV1]>::ref_from_bytes(&rows);
    let rows = rows.map_err(|_| damaged("its index makes no sense"))?;
    if rows.len() > PACK_PIECES_MAX {
        return Err(damaged("its index is too long"));
    }
    let mut offset = 0_u64;
    let mut pieces = Vec::with_capacity(rows.len());
    for row in rows {
        pieces.push(Packed {
            name: PieceName(row.name),
            offset: u32::try_from(offset).map_err(|_| damaged("it is too large"))?,
            bytes: row.bytes.get(),
        });
        offset += u64::from(row.bytes.get());
    }
    let tail_bytes = (index_bytes + TRAILER_BYTES) as u64;
    match behind.is_empty() && offset.checked_add(tail_bytes) == Some(pack_bytes) {
        true => Ok(pieces),
        false => Err(damaged("its index is of other pieces than it has")),
    }
}
