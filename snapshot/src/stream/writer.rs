//! Writing a stream.

use std::io::Write;

use zerocopy::IntoBytes;
use zstd::bulk::Compressor;

use super::header::StreamHeader;
use super::payload::{ChunkRecord, StreamTotals};
use super::record::{Chain, MAGIC, PreludeV1, RecordKind, not_written};
use crate::error::{Error, Result};
use crate::number::{ChunkIndex, FrameSet};

/// Writes a stream, record by record, in the order of its methods.
pub struct StreamWriter<'o> {
    out: &'o mut dyn Write,
    chain: Chain,
    compressor: Compressor<'static>,
    payload: Vec<u8>,
    totals: StreamTotals,
    bytes: u64,
}

impl<'o> StreamWriter<'o> {
    /// Begins a stream whose contents are compressed as strongly as zstd's `level` says. A header
    /// without a root makes a stream of format version 1, one without disks of version 2.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::InvalidSnapshot`] when the header cannot be written.
    pub fn begin(
        out: &'o mut dyn Write,
        header: &StreamHeader,
        level: i32,
    ) -> Result<StreamWriter<'o>> {
        let prelude = PreludeV1 {
            magic: MAGIC,
            version: header.version().into(),
            reserved: 0.into(),
        };
        let payload = header.encode()?;
        let compressor = Compressor::new(level).map_err(Error::io("preparing zstd"))?;
        out.write_all(prelude.as_bytes()).map_err(not_written)?;
        let mut writer = StreamWriter {
            out,
            chain: Chain::begin(&prelude),
            compressor,
            payload,
            totals: StreamTotals::default(),
            bytes: size_of::<PreludeV1>() as u64,
        };
        writer.record(RecordKind::Header)?;
        Ok(writer)
    }

    /// The saved state, as long as the header says.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn state(&mut self, state: &[u8]) -> Result<()> {
        self.payload.clear();
        self.compress(state)?;
        self.record(RecordKind::State)
    }

    /// A chunk of memory (map 0), or of the disk that is number `map`; each comes behind those
    /// before it.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn chunk(
        &mut self,
        map: usize,
        index: ChunkIndex,
        written: &FrameSet,
        emptied: &FrameSet,
        content: &[u8],
    ) -> Result<()> {
        self.payload.clear();
        self.payload
            .extend_from_slice(ChunkRecord::prefix(map, index, written, emptied).as_bytes());
        self.compress(content)?;
        self.totals.add(written, emptied);
        self.record(RecordKind::Chunk)
    }

    /// Ends the stream; what it adds up to, and how many bytes it has.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn finish(mut self) -> Result<(StreamTotals, u64)> {
        self.payload.clear();
        self.payload
            .extend_from_slice(self.totals.encode().as_bytes());
        self.record(RecordKind::End)?;
        self.out.flush().map_err(not_written)?;
        Ok((self.totals, self.bytes))
    }

    /// Appends to the payload. Nothing stays nothing.
    fn compress(&mut self, bytes: &[u8]) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        let compressed = self
            .compressor
            .compress(bytes)
            .map_err(Error::io("compressing"))?;
        self.payload.extend_from_slice(&compressed);
        Ok(())
    }

    fn record(&mut self, kind: RecordKind) -> Result<()> {
        self.bytes += self.chain.write(self.out, kind, &self.payload)?;
        Ok(())
    }
}

impl std::fmt::Debug for StreamWriter<'_> {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("StreamWriter")
            .field("bytes", &self.bytes)
            .finish_non_exhaustive()
    }
}
