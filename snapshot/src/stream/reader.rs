//! Reads a stream: gives the contents that a sender wrote, or an error.

use std::io::Read;

use zerocopy::FromBytes;
use zstd::bulk::Decompressor;

use super::checks::RecordChecks;
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
    checks: RecordChecks,
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
            checks: RecordChecks::default(),
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
        self.checks.next(&self.header, &self.chunk)?;
        let len = self.chunk.written.count() as usize * BLOCK_SIZE_BYTES as usize;
        decompress(
            &mut self.decompressor,
            compressed,
            len,
            &mut self.chunk.content,
        )?;
        RecordChecks::end_of_disk(&self.header, &self.chunk)
    }

    fn end(&mut self) -> Result<StreamTotals> {
        if StreamTotals::decode(&self.payload)? != self.checks.totals() {
            return Err(Error::stream_damaged(
                "its end record counts other chunks or frames than it has",
            ));
        }
        let mut byte = [0];
        match read_exact(self.input, &mut byte) {
            Err(Error::StreamCut) => Ok(self.checks.totals()),
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
