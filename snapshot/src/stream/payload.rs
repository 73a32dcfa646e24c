//! Contents of the records behind the header.

use serde::Serialize;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::error::{Error, Result};
use crate::number::{BLOCK_SIZE_BYTES, CHUNK_BLOCKS, ChunkIndex, FrameIndex, FrameSet};

/// The bytes before the compressed frames of a chunk.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct ChunkV1 {
    pub(crate) index: U32,
    pub(crate) map: U32,
    pub(crate) written: [U64; 8],
    pub(crate) emptied: [U64; 8],
}

/// The end of a stream.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct EndV1 {
    pub(crate) chunks: U64,
    pub(crate) frames_written: U64,
    pub(crate) frames_emptied: U64,
}

/// Length of what is before the compressed frames.
pub(crate) const CHUNK_PREFIX_BYTES: usize = size_of::<ChunkV1>();
/// Length of the end's payload.
pub(crate) const END_BYTES: usize = size_of::<EndV1>();

/// Sums over the records of a stream.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct StreamTotals {
    /// Chunks that something is said of.
    pub chunks: u64,
    /// Frames whose content is in the stream.
    pub frames_written: u64,
    /// Frames that the base has and the snapshot has not.
    pub frames_emptied: u64,
}

impl StreamTotals {
    pub(crate) fn add(&mut self, written: &FrameSet, emptied: &FrameSet) {
        self.chunks += 1;
        self.frames_written += u64::from(written.count());
        self.frames_emptied += u64::from(emptied.count());
    }

    pub(crate) fn encode(&self) -> EndV1 {
        EndV1 {
            chunks: self.chunks.into(),
            frames_written: self.frames_written.into(),
            frames_emptied: self.frames_emptied.into(),
        }
    }

    pub(crate) fn decode(payload: &[u8]) -> Result<StreamTotals> {
        let raw = EndV1::read_from_bytes(payload)
            .map_err(|_| Error::stream_damaged("its end record has a wrong length"))?;
        Ok(StreamTotals {
            chunks: raw.chunks.get(),
            frames_written: raw.frames_written.get(),
            frames_emptied: raw.frames_emptied.get(),
        })
    }
}

/// The record of a chunk of memory, or of a disk.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ChunkRecord {
    /// 0: memory; 1 to 8: the disk at this place in the header, less one.
    pub map: usize,
    /// The chunk.
    pub index: ChunkIndex,
    /// The frames whose content follows.
    pub written: FrameSet,
    /// The frames that are holes, and are none in the base.
    pub emptied: FrameSet,
    /// The content of the frames, one after the other.
    pub content: Vec<u8>,
}

impl ChunkRecord {
    /// The frames whose content is in the record, with it.
    pub fn frames(&self) -> impl Iterator<Item = (FrameIndex, &[u8])> {
        self.written
            .places()
            .zip(self.content.chunks_exact(BLOCK_SIZE_BYTES as usize))
    }

    pub(crate) fn prefix(
        map: usize,
        index: ChunkIndex,
        written: &FrameSet,
        emptied: &FrameSet,
    ) -> ChunkV1 {
        ChunkV1 {
            index: index.get().into(),
            map: (map as u32).into(),
            written: written.words().map(U64::from),
            emptied: emptied.words().map(U64::from),
        }
    }

    /// Decodes what is before the compressed frames; those themselves.
    pub(crate) fn open<'p>(&mut self, payload: &'p [u8]) -> Result<&'p [u8]> {
        let (raw, compressed) = ChunkV1::read_from_prefix(payload)
            .map_err(|_| Error::stream_damaged("a chunk's record is too short"))?;
        self.map = raw.map.get() as usize;
        self.index = ChunkIndex::new(raw.index.get());
        self.written = FrameSet::from_words(raw.written.map(U64::get));
        self.emptied = FrameSet::from_words(raw.emptied.map(U64::get));
        let empty = self.written.is_empty() && self.emptied.is_empty();
        if empty || !self.written.intersection(&self.emptied).is_empty() {
            return Err(Error::stream_damaged(format!(
                "the record of chunk {} makes no sense",
                self.index
            )));
        }
        Ok(compressed)
    }

    /// The number of the chunk's frames that something of `frames_total` frames has.
    pub(crate) fn frames_inside(index: ChunkIndex, frames_total: u64) -> u32 {
        let first = index.frame_number(FrameIndex::FIRST);
        frames_total
            .saturating_sub(first)
            .min(u64::from(CHUNK_BLOCKS)) as u32
    }
}
