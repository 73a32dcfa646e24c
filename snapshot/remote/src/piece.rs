//! Content as a piece: which of its frames are there, then those frames; compressed and sealed.

use nvvmm_snapshot::{BLOCK_SIZE_BYTES, FrameIndex, FrameSet};
use zstd::bulk::{Compressor, Decompressor};

use crate::error::{Error, Result};
use crate::keys::{PieceName, StoreKeys};
use crate::layout::{CONTENT_BYTES_MAX, PIECE_BYTES};

const FRAME_BYTES: usize = BLOCK_SIZE_BYTES as usize;
/// Frames of a piece.
pub(crate) const PIECE_FRAMES: u32 = (PIECE_BYTES / BLOCK_SIZE_BYTES) as u32;
/// Pieces of a chunk.
pub(crate) const CHUNK_PIECES: u32 = (nvvmm_snapshot::CHUNK_SIZE_BYTES / PIECE_BYTES) as u32;
/// Bytes of the bits, one for each frame.
pub(crate) const BITS_BYTES: usize = PIECE_FRAMES as usize / 8;

/// Writes the content of piece `number` of a chunk to `into`. `chunk` has all 2 MiB. False when
/// none of its frames is there.
pub(crate) fn content_of(number: u32, there: &FrameSet, chunk: &[u8], into: &mut Vec<u8>) -> bool {
    let first = number * PIECE_FRAMES;
    into.clear();
    into.resize(BITS_BYTES, 0);
    for place in 0..PIECE_FRAMES {
        let frame = FrameIndex::new(first + place);
        if there.contains(frame) {
            into[place as usize / 8] |= 1 << (place % 8);
            into.extend_from_slice(&chunk[frame.as_usize() * FRAME_BYTES..][..FRAME_BYTES]);
        }
    }
    into.len() > BITS_BYTES
}

/// The frames of a piece's content, by their place in the piece.
///
/// # Errors
/// [`Error::Damaged`].
pub(crate) fn frames_of(content: &[u8]) -> Result<impl Iterator<Item = (u32, &[u8])>> {
    let damaged = || Error::damaged("a piece", "its content makes no sense");
    let (bits, frames) = content.split_at_checked(BITS_BYTES).ok_or_else(damaged)?;
    let is_there = |place: &u32| bits[*place as usize / 8] & 1 << (place % 8) != 0;
    let count = (0..PIECE_FRAMES).filter(is_there).count();
    if count == 0 || frames.len() != count * FRAME_BYTES {
        return Err(damaged());
    }
    let places = (0..PIECE_FRAMES).filter(move |place| is_there(place));
    Ok(places.zip(frames.chunks_exact(FRAME_BYTES)))
}

/// Makes what is stored of a piece's content.
pub(crate) struct PieceMaker(Compressor<'static>);

impl PieceMaker {
    pub(crate) fn new(level: i32) -> Result<PieceMaker> {
        Ok(PieceMaker(Compressor::new(level).map_err(zstd_error)?))
    }

    pub(crate) fn stored(
        &mut self,
        keys: &StoreKeys,
        name: &PieceName,
        content: &[u8],
    ) -> Result<Vec<u8>> {
        let compressed = self.0.compress(content).map_err(zstd_error)?;
        keys.seal_piece(name, compressed)
    }
}

/// Opens what is stored of pieces.
pub(crate) struct PieceReader(Decompressor<'static>);

impl PieceReader {
    pub(crate) fn new() -> Result<PieceReader> {
        Ok(PieceReader(Decompressor::new().map_err(zstd_error)?))
    }

    /// The content of a piece, which has the name.
    ///
    /// # Errors
    /// [`Error::Damaged`] when it is not what was stored.
    pub(crate) fn content(
        &mut self,
        keys: &StoreKeys,
        name: &PieceName,
        stored: &[u8],
    ) -> Result<Vec<u8>> {
        let damaged = || Error::damaged("a piece", "its content is not what was stored");
        let compressed = keys.open_piece(name, stored).ok_or_else(damaged)?;
        let content = self.0.decompress(&compressed, CONTENT_BYTES_MAX);
        let content = content.map_err(|_| damaged())?;
        match keys.piece_name(&content) == *name {
            true => Ok(content),
            false => Err(damaged()),
        }
    }
}

fn zstd_error(source: std::io::Error) -> Error {
    Error::Pool(nvvmm_snapshot::Error::Io {
        op: "compressing".to_owned(),
        source,
    })
}

#[cfg(test)]
#[path = "piece_test.rs"]
mod piece_test;
