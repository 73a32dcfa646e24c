//! Records: what a stream is made of, each with a digest that continues the one before.

use std::io::{ErrorKind, Read, Write};

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};
use zstd::zstd_safe::compress_bound;

use super::header::{HEADER_BYTES_MAX, SPEC_BYTES_MAX};
use super::payload::{CHUNK_PREFIX_BYTES, END_BYTES};
use crate::error::{Error, Result};
use crate::layout::inode::STATE_BYTES_MAX;
use crate::number::CHUNK_SIZE_BYTES;

/// The first bytes of every stream.
pub(crate) const MAGIC: [u8; 8] = *b"NVVMSEND";
/// Version of the streams' format.
pub(crate) const VERSION: u32 = 3;
/// The version of streams without disks: it is still written, so that older receivers read them.
pub(crate) const VERSION_2: u32 = 2;
/// The first version, which is still read: it names what it builds on by identity.
pub(crate) const VERSION_1: u32 = 1;

/// The first bytes of a stream.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct PreludeV1 {
    pub(crate) magic: [u8; 8],
    pub(crate) version: U32,
    pub(crate) reserved: U32,
}

/// The bytes before a record's payload.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct RecordV1 {
    pub(crate) kind: U32,
    pub(crate) payload_bytes: U32,
    pub(crate) number: U64,
    pub(crate) digest: [u8; 32],
}

/// The kind of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum RecordKind {
    Header = 1,
    State = 2,
    Chunk = 3,
    End = 4,
}

impl RecordKind {
    fn from_raw(raw: u32) -> Option<RecordKind> {
        [
            RecordKind::Header,
            RecordKind::State,
            RecordKind::Chunk,
            RecordKind::End,
        ]
        .into_iter()
        .find(|kind| *kind as u32 == raw)
    }

    /// The largest length of its payload.
    pub(crate) fn payload_bytes_max(self) -> usize {
        match self {
            RecordKind::Header => HEADER_BYTES_MAX + SPEC_BYTES_MAX,
            RecordKind::State => compress_bound(STATE_BYTES_MAX),
            RecordKind::Chunk => CHUNK_PREFIX_BYTES + compress_bound(CHUNK_SIZE_BYTES as usize),
            RecordKind::End => END_BYTES,
        }
    }
}

/// The digest of all so far, and how many records that is.
#[derive(Debug, Clone)]
pub(crate) struct Chain {
    digest: [u8; 32],
    number: u64,
}

impl Chain {
    pub(crate) fn begin(prelude: &PreludeV1) -> Chain {
        Chain {
            digest: *blake3::hash(prelude.as_bytes()).as_bytes(),
            number: 0,
        }
    }

    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    fn digest_of(&self, kind: u32, payload: &[u8]) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.digest);
        hasher.update(&kind.to_le_bytes());
        hasher.update(&(payload.len() as u32).to_le_bytes());
        hasher.update(&self.number.to_le_bytes());
        hasher.update(payload);
        *hasher.finalize().as_bytes()
    }

    /// Writes the next record; how many bytes it has.
    pub(crate) fn write(
        &mut self,
        out: &mut dyn Write,
        kind: RecordKind,
        payload: &[u8],
    ) -> Result<u64> {
        let digest = self.digest_of(kind as u32, payload);
        let record = RecordV1 {
            kind: (kind as u32).into(),
            payload_bytes: (payload.len() as u32).into(),
            number: self.number.into(),
            digest,
        };
        out.write_all(record.as_bytes())
            .and_then(|()| out.write_all(payload))
            .map_err(not_written)?;
        self.digest = digest;
        self.number += 1;
        Ok((size_of::<RecordV1>() + payload.len()) as u64)
    }

    /// Reads the next record, whose payload it puts into `payload`; its kind, and how many bytes it
    /// has.
    pub(crate) fn read(
        &mut self,
        input: &mut dyn Read,
        payload: &mut Vec<u8>,
    ) -> Result<(RecordKind, u64)> {
        let mut record = [0; size_of::<RecordV1>()];
        read_exact(input, &mut record)?;
        let record = RecordV1::read_from_bytes(&record)
            .map_err(|_| Error::stream_damaged("a record of a wrong size"))?;
        let number = self.number;
        let kind = RecordKind::from_raw(record.kind.get()).ok_or_else(|| {
            Error::stream_damaged(format!("record {number} is of an unknown kind"))
        })?;
        let len = record.payload_bytes.get() as usize;
        if len > kind.payload_bytes_max() {
            return Err(Error::stream_damaged(format!(
                "record {number} says that it has {len} bytes"
            )));
        }
        if record.number.get() != number {
            return Err(Error::stream_damaged(format!(
                "record {number} is expected, but record {} was found",
                record.number
            )));
        }
        payload.clear();
        payload.resize(len, 0);
        read_exact(input, payload)?;
        let digest = self.digest_of(record.kind.get(), payload);
        if digest != record.digest {
            return Err(Error::stream_damaged(format!(
                "the digest of record {number} does not fit it and the records before"
            )));
        }
        self.digest = digest;
        self.number += 1;
        Ok((kind, (size_of::<RecordV1>() + len) as u64))
    }
}

/// The inner error of an input or output that was ended by whoever asked for it:
/// [`Error::Interrupted`] then.
#[derive(Debug, thiserror::Error)]
#[error("interrupted")]
pub struct Stopped;

fn is_stop(error: &std::io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<Stopped>())
}

/// The error of a write that failed.
pub(crate) fn not_written(error: std::io::Error) -> Error {
    match is_stop(&error) {
        true => Error::Interrupted,
        false => Error::StreamNotWritten { source: error },
    }
}

/// Reads all of `into`. An end before that is a stream that was cut off.
pub(crate) fn read_exact(input: &mut dyn Read, into: &mut [u8]) -> Result<()> {
    input.read_exact(into).map_err(|error| match error.kind() {
        _ if is_stop(&error) => Error::Interrupted,
        ErrorKind::UnexpectedEof => Error::StreamCut,
        ErrorKind::InvalidData => Error::stream_damaged(error.to_string()),
        _ => Error::io("reading the stream")(error),
    })
}
