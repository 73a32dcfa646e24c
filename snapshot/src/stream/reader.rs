//! Reads a stream: gives the contents that a sender wrote, or an error.

use std::io::Read;

use zerocopy::FromBytes;
use zstd::bulk::Decompressor;

use super::header::StreamHeader;
use super::payload::{ChunkRecord, StreamTotals};
use super::record::{
    Chain, MAGIC, PreludeV1, RecordKind, VERSION, VERSION_1, VERSION_2, read_exact,
};
use super::sealed;
use crate::error::{Error, Result};
use crate::number::BLOCK_SIZE_BYTES;

/// The next thing in a stream.
#[derive(Debug)]
pub enum Item<'r> {
    /// The saved state; it comes first.
    State(Vec<u8>),
    /// A chunk of memory or of a disk. Those that are left out are as in the base, or holes where
    /// there is none.
    Chunk(&'r ChunkRecord),
    /// The stream has ended as it must.
    End(StreamTotals),
}

/// Reads a stream. Nothing of it may be taken for good before [`Item::End`].
pub struct StreamReader<'i> {
    input: &'i mut dyn Read,
    chain: Chain,
    header: StreamHeader,
    decompressor: Decompressor<'static>,
    payload: Vec<u8>,
    chunk: ChunkRecord,
    /// The next chunk has this index at least.
    next: (usize, u64),
    totals: StreamTotals,
    bytes: u64,
}

impl<'i> StreamReader<'i> {
    /// Reads the header.
    ///
    /// # Errors
    /// [`Error::NotAStream`], [`Error::StreamVersion`], [`Error::StreamCut`],
    /// [`Error::StreamDamaged`], [`Error::Io`].
    pub fn begin(input: &'i mut dyn Read) -> Result<StreamReader<'i>> {
        let mut prelude = [0; size_of::<PreludeV1>()];
        read_exact(input, &mut prelude)?;
        let prelude = PreludeV1::read_from_bytes(&prelude).map_err(|_| Error::StreamCut)?;
        if prelude.magic == sealed::MAGIC {
            return Err(Error::StreamSealed);
        }
        if prelude.magic != MAGIC {
            return Err(Error::NotAStream);
        }
        let version = prelude.version.get();
        if ![VERSION, VERSION_2, VERSION_1].contains(&version) {
            return Err(Error::StreamVersion {
                found: version,
                expected: VERSION,
            });
        }
        if prelude.reserved != 0 {
            return Err(Error::stream_damaged("its first bytes are damaged"));
        }
        let mut chain = Chain::begin(&prelude);
        let mut payload = Vec::new();
        let (kind, bytes) = chain.read(input, &mut payload)?;
        if kind != RecordKind::Header {
            return Err(Error::stream_damaged("it does not begin with a header"));
        }
        Ok(StreamReader {
            input,
            chain,
            header: StreamHeader::decode(version, &payload)?,
            decompressor: Decompressor::new().map_err(Error::io("preparing zstd"))?,
            payload,
            chunk: ChunkRecord::default(),
            next: (0, 0),
            totals: StreamTotals::default(),
            bytes: size_of::<PreludeV1>() as u64 + bytes,
        })
    }

    /// The header of the stream.
    pub fn header(&self) -> &StreamHeader {
        &self.header
    }

    /// Bytes read so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Reads one record more. Behind the end nothing may come, and nothing must be read.
    ///
    /// # Errors
    /// As [`StreamReader::begin`].
    #[expect(
        clippy::should_implement_trait,
        reason = "the items borrow from the reader"
    )]
    pub fn next(&mut self) -> Result<Item<'_>> {
        let number = self.chain.number();
        let (kind, bytes) = self.chain.read(self.input, &mut self.payload)?;
        self.bytes += bytes;
        match (kind, number) {
            (RecordKind::State, 1) => self.state().map(Item::State),
            (RecordKind::Chunk, 2..) => {
                self.read_chunk()?;
                Ok(Item::Chunk(&self.chunk))
            }
            (RecordKind::End, 2..) => self.end().map(Item::End),
            _ => Err(Error::stream_damaged(format!(
                "record {number} is of a kind that does not belong there"
            ))),
        }
    }

    fn state(&mut self) -> Result<Vec<u8>> {
        let mut state = Vec::new();
        let len = self.header.state_bytes as usize;
        decompress(&mut self.decompressor, &self.payload, len, &mut state)?;
        Ok(state)
    }

    fn read_chunk(&mut self) -> Result<()> {
        let compressed = self.chunk.open(&self.payload)?;
        let (map, index, all) = (
            self.chunk.map,
            self.chunk.index,
            self.chunk.written.union(&self.chunk.emptied),
        );
        let frames_total = self.header.frames_of(map).ok_or_else(|| {
            Error::stream_damaged(format!("the record of chunk {index} makes no sense"))
        })?;
        if (map, u64::from(index.get())) < self.next {
            return Err(Error::stream_damaged(format!(
                "chunk {index} is out of order: indices must rise"
            )));
        }
        let inside = ChunkRecord::frames_inside(index, frames_total);
        if all.iter().any(|frame| frame >= inside) {
            return Err(Error::stream_damaged(format!(
                "chunk {index} has frames behind the end"
            )));
        }
        if self.header.base.is_none() && !self.chunk.emptied.is_empty() {
            return Err(Error::stream_damaged(format!(
                "chunk {index} empties frames of a base, but the stream has no base"
            )));
        }
        self.totals.add(&self.chunk.written, &self.chunk.emptied);
        let frames_most = self.header.frames_written.unwrap_or(u64::MAX);
        if self.totals.frames_written > frames_most {
            return Err(Error::stream_damaged(format!(
                "it has more than the {frames_most} frames that its header declares"
            )));
        }
        let len = self.chunk.written.count() as usize * BLOCK_SIZE_BYTES as usize;
        decompress(
            &mut self.decompressor,
            compressed,
            len,
            &mut self.chunk.content,
        )?;
        self.next = (map, u64::from(index.get()) + 1);
        self.check_end_of_disk(frames_total)
    }

    /// Checks that what is behind the end of a disk in its last block is zero.
    fn check_end_of_disk(&self, frames_total: u64) -> Result<()> {
        let disk = self.chunk.map.checked_sub(1);
        let disk = disk.and_then(|disk| self.header.disks.get(disk));
        let inside = disk.map_or(0, |disk| (disk.size_bytes % BLOCK_SIZE_BYTES) as usize);
        let last = self.chunk.frames().last();
        let last = last.filter(|(frame, _)| {
            self.chunk.index.frame_number(*frame) + 1 == frames_total && inside > 0
        });
        match last {
            Some((_, bytes)) if bytes[inside..].iter().any(|byte| *byte != 0) => {
                Err(Error::stream_damaged("a disk has something behind its end"))
            }
            _ => Ok(()),
        }
    }

    fn end(&mut self) -> Result<StreamTotals> {
        if StreamTotals::decode(&self.payload)? != self.totals {
            return Err(Error::stream_damaged(
                "its end record counts other chunks or frames than it has",
            ));
        }
        let mut byte = [0];
        match read_exact(self.input, &mut byte) {
            Err(Error::StreamCut) => Ok(self.totals),
            Ok(()) => Err(Error::stream_damaged("something follows its end")),
            Err(error) => Err(error),
        }
    }
}

impl std::fmt::Debug for StreamReader<'_> {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("StreamReader")
            .field("header", &self.header)
            .field("bytes", &self.bytes)
            .finish_non_exhaustive()
    }
}

/// Decompresses what must come to exactly `len` bytes.
fn decompress(
    decompressor: &mut Decompressor<'_>,
    compressed: &[u8],
    len: usize,
    into: &mut Vec<u8>,
) -> Result<()> {
    into.clear();
    into.resize(len, 0);
    let found = match compressed {
        [] => 0,
        _ => decompressor
            .decompress_to_buffer(compressed, &mut into[..])
            .map_err(|error| {
                Error::stream_damaged(format!(
                    "its compressed content cannot be decompressed: {error}"
                ))
            })?,
    };
    if found == len {
        Ok(())
    } else {
        Err(Error::stream_damaged(format!(
            "a record decompresses to {found} bytes, {len} are expected"
        )))
    }
}
