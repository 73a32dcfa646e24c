//! Manifests: which pieces a snapshot is made of, and where they are.
//!
//! A manifest is two boxes. The head says what the snapshot is, and fits into one small request.
//! The body has a row for each piece: with it alone, one request fetches any piece.

use std::fmt::Display;

use nvvmm_snapshot::stream::StreamHeader;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};
use zstd::bulk::{compress, decompress};

use super::ids::{ObjectId, PACK_ID_BYTES, PackId};
use super::{PIECE_BYTES, STORED_BYTES_MAX};
use crate::boxes::{BOX_BYTES_MAX, BoxKind};
use crate::error::{Error, Result};
use crate::keys::{PieceName, StoreKeys};

/// Pieces that a manifest has at most: 2 TiB of content.
pub(crate) const PIECES_MAX: u32 = 1 << 22;
/// Bytes of the largest head: a request of this many reads it.
pub(crate) const HEAD_BYTES_MAX: u64 = 4096;
/// Bytes of a saved state, at most, compressed.
const STATE_STORED_MAX: usize = (2 << 20) + (16 << 10);
/// Bytes of the largest manifest.
pub(crate) const MANIFEST_BYTES_MAX: u64 = HEAD_BYTES_MAX
    + (BOX_BYTES_MAX + size_of::<BodyV1>() + STATE_STORED_MAX) as u64
    + PIECES_MAX as u64 * (PIECE_ROW_BYTES + PACK_ID_BYTES) as u64;

/// The beginning of a head; the header of a stream follows.
#[derive(Debug, Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct HeadV1 {
    pub(crate) push: ObjectId,
    pub(crate) stored_bytes: U64,
    pub(crate) pieces: U32,
    pub(crate) header_version: U32,
}

/// The beginning of a body.
#[derive(Debug, Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct BodyV1 {
    pub(crate) packs: U32,
    pub(crate) pieces: U32,
    pub(crate) state_bytes: U32,
    pub(crate) reserved: U32,
}

/// The row of a piece.
#[derive(Debug, Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct PieceRowV1 {
    pub(crate) name: [u8; 32],
    pub(crate) map: U32,
    pub(crate) index: U32,
    pub(crate) pack: U32,
    pub(crate) offset: U32,
    pub(crate) bytes: U32,
}

pub(crate) const PIECE_ROW_BYTES: usize = size_of::<PieceRowV1>();
const _: () = assert!(PIECE_ROW_BYTES == 52);
const _: () = assert!(size_of::<HeadV1>() == 32 && size_of::<BodyV1>() == 16);

/// The head of a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Head {
    /// The push that made it.
    pub(crate) push: ObjectId,
    /// Bytes of the pieces in the store. A piece that is there twice counts once.
    pub(crate) stored_bytes: u64,
    /// Rows of the body.
    pub(crate) pieces: u32,
    /// The snapshot.
    pub(crate) header: StreamHeader,
}

/// A piece, with its place in the snapshot and in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PieceRow {
    pub(crate) name: PieceName,
    /// 0: memory; 1 to 8: the disk at this place in the header, less one.
    pub(crate) map: u32,
    /// The number of its 512 KiB there.
    pub(crate) index: u32,
    /// The pack, by its row in the table of packs.
    pub(crate) pack: u32,
    pub(crate) offset: u32,
    pub(crate) bytes: u32,
}

/// A whole manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Manifest {
    pub(crate) head: Head,
    pub(crate) packs: Vec<PackId>,
    pub(crate) pieces: Vec<PieceRow>,
    pub(crate) state: Vec<u8>,
}

impl Head {
    fn encode(&self, keys: &StoreKeys, object: &str) -> Result<Vec<u8>> {
        let raw = HeadV1 {
            push: self.push,
            stored_bytes: self.stored_bytes.into(),
            pieces: self.pieces.into(),
            header_version: self.header.version().into(),
        };
        let mut payload = raw.as_bytes().to_vec();
        payload.extend_from_slice(&self.header.encode()?);
        keys.wrap(BoxKind::Head, object.as_bytes(), &payload)
    }

    /// Decodes the head of the manifest in this object; and what is behind it.
    ///
    /// # Errors
    /// [`Error::Damaged`], [`Error::Version`].
    pub(crate) fn decode<'b>(
        keys: &StoreKeys,
        object: &str,
        bytes: &'b [u8],
    ) -> Result<(Head, &'b [u8])> {
        let named = format_args!("snapshot {object}");
        let damaged = |what: &str| Error::damaged(named, what);
        let (payload, behind) = keys.unwrap(BoxKind::Head, object.as_bytes(), bytes, &named)?;
        let read = HeadV1::read_from_prefix(&payload);
        let (raw, header) = read.map_err(|_| damaged("its head makes no sense"))?;
        let version = raw.header_version.get();
        if !(2..=3).contains(&version) {
            return Err(damaged("its header is of an unknown version"));
        }
        let header = StreamHeader::decode(version, header).map_err(|e| damaged(&e.to_string()))?;
        // The object's name is made of it: so nobody can pass one snapshot off as another.
        if keys.snapshot_object(&header.name) != object {
            return Err(damaged("it is of another name"));
        }
        if header.base.is_some() || header.version() != version {
            return Err(damaged("its header makes no sense"));
        }
        Ok((
            Head {
                push: raw.push,
                stored_bytes: raw.stored_bytes.get(),
                pieces: raw.pieces.get(),
                header,
            },
            behind,
        ))
    }
}

impl Manifest {
    /// # Errors
    /// [`Error::TooLarge`].
    pub(crate) fn encode(&self, keys: &StoreKeys, object: &str) -> Result<Vec<u8>> {
        if self.pieces.len() as u64 > u64::from(PIECES_MAX) {
            return Err(Error::TooLarge { limit: PIECES_MAX });
        }
        let state = match self.state.as_slice() {
            [] => Vec::new(),
            state => compress(state, 0).map_err(nvvmm_snapshot_io)?,
        };
        let raw = BodyV1 {
            packs: (self.packs.len() as u32).into(),
            pieces: (self.pieces.len() as u32).into(),
            state_bytes: (state.len() as u32).into(),
            reserved: 0.into(),
        };
        let mut payload = raw.as_bytes().to_vec();
        payload.extend_from_slice(self.packs.as_bytes());
        for piece in &self.pieces {
            let row = PieceRowV1 {
                name: piece.name.0,
                map: piece.map.into(),
                index: piece.index.into(),
                pack: piece.pack.into(),
                offset: piece.offset.into(),
                bytes: piece.bytes.into(),
            };
            payload.extend_from_slice(row.as_bytes());
        }
        payload.extend_from_slice(&state);
        let mut bytes = self.head.encode(keys, object)?;
        let body = keys.wrap(BoxKind::Body, self.head.push.as_bytes(), &payload)?;
        bytes.extend_from_slice(&body);
        Ok(bytes)
    }

    /// Decodes the manifest in this object. Nothing in it is believed beyond fixed limits.
    ///
    /// # Errors
    /// [`Error::Damaged`], [`Error::Version`].
    pub(crate) fn decode(keys: &StoreKeys, object: &str, bytes: &[u8]) -> Result<Manifest> {
        let named = format_args!("snapshot {object}");
        let damaged = |what: &str| Error::damaged(named, what);
        let (head, body) = Head::decode(keys, object, bytes)?;
        let (body, behind) = keys.unwrap(BoxKind::Body, head.push.as_bytes(), body, &named)?;
        let read = BodyV1::read_from_prefix(&body);
        let (raw, rest) = read.map_err(|_| damaged("its body makes no sense"))?;
        let (packs, pieces) = (raw.packs.get(), raw.pieces.get());
        if pieces > PIECES_MAX || packs > pieces || raw.reserved != 0 || !behind.is_empty() {
            return Err(damaged("its body makes no sense"));
        }
        let parts = rest
            .split_at_checked(packs as usize * PACK_ID_BYTES)
            .and_then(|(packs, rest)| {
                let (rows, state) = rest.split_at_checked(pieces as usize * PIECE_ROW_BYTES)?;
                Some((packs, rows, state))
            });
        let (packs, rows, state) = parts.ok_or_else(|| damaged("its body is cut off"))?;
        let (Ok(packs), Ok(rows)) = (
            <[PackId]>::ref_from_bytes(packs),
            <[PieceRowV1]>::ref_from_bytes(rows),
        ) else {
            return Err(damaged("its body is cut off"));
        };
        if head.pieces != pieces || state.len() != raw.state_bytes.get() as usize {
            return Err(damaged("its body makes no sense"));
        }
        let pieces = rows.iter().map(PieceRow::of).collect::<Vec<_>>();
        check_rows(&head.header, packs.len(), &pieces, &named)?;
        let state_bytes = head.header.state_bytes as usize;
        let state = match state {
            [] => Vec::new(),
            state => decompress(state, state_bytes).map_err(|_| damaged("its state is damaged"))?,
        };
        match state.len() == state_bytes {
            true => Ok(Manifest {
                packs: packs.to_vec(),
                head,
                pieces,
                state,
            }),
            false => Err(damaged("its state has another length")),
        }
    }
}

fn nvvmm_snapshot_io(source: std::io::Error) -> nvvmm_snapshot::Error {
    nvvmm_snapshot::Error::Io {
        op: "compressing".to_owned(),
        source,
    }
}

impl PieceRow {
    fn of(raw: &PieceRowV1) -> PieceRow {
        PieceRow {
            name: PieceName(raw.name),
            map: raw.map.get(),
            index: raw.index.get(),
            pack: raw.pack.get(),
            offset: raw.offset.get(),
            bytes: raw.bytes.get(),
        }
    }
}

/// Checks that rows are in order, inside of memory and disks, and of packs that are named.
fn check_rows(
    header: &StreamHeader,
    packs: usize,
    rows: &[PieceRow],
    named: &dyn Display,
) -> Result<()> {
    let mut next = (0, 0_u64);
    for row in rows {
        let size_bytes = match (row.map as usize).checked_sub(1) {
            None => Some(header.memory_bytes),
            Some(disk) => header.disks.get(disk).map(|disk| disk.size_bytes),
        };
        let inside =
            size_bytes.is_some_and(|bytes| u64::from(row.index) < bytes.div_ceil(PIECE_BYTES));
        let in_order = (row.map, u64::from(row.index)) >= next;
        let has_place = (row.pack as usize) < packs
            && (1..=STORED_BYTES_MAX as u32).contains(&row.bytes)
            && row.offset.checked_add(row.bytes).is_some();
        if !inside || !in_order || !has_place {
            let (map, index) = (row.map, row.index);
            let what = format!("the row of piece {index} of map {map} makes no sense");
            return Err(Error::damaged(named, what));
        }
        next = (row.map, u64::from(row.index) + 1);
    }
    Ok(())
}
