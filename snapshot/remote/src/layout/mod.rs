//! Bytes of what is in a store, encoded and decoded (docs/formats/remote.md).

pub(crate) mod condemned;
pub(crate) mod ids;
pub(crate) mod manifest;
pub(crate) mod pack;
pub(crate) mod store;
pub(crate) mod touches;

use crate::keys::PIECE_SEAL_BYTES;

#[cfg(test)]
mod format_test;

/// Bytes of memory or of a disk that a piece is of.
pub const PIECE_BYTES: u64 = 512 << 10;
/// The longest content of a piece: a bit for each frame, and all frames.
pub(crate) const CONTENT_BYTES_MAX: usize = PIECE_BYTES as usize / 4096 / 8 + PIECE_BYTES as usize;
/// The longest piece in a store: zstd makes at worst a 256th more of it (`ZSTD_compressBound`).
pub(crate) const STORED_BYTES_MAX: usize =
    CONTENT_BYTES_MAX + CONTENT_BYTES_MAX / 256 + PIECE_SEAL_BYTES;
/// Bytes at which a pack is complete. The last piece may make it a little larger.
pub(crate) const PACK_BYTES: usize = 32 << 20;
