//! The log of a disk's head: changes of the map that no commit has yet.

use std::mem::{offset_of, size_of};

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::Layout;
use super::inode::HeadPlace;
use super::runtime::{committed_generation, committed_word};
use crate::number::{BLOCK_SIZE_BYTES, BlockNo, CHUNK_BLOCKS};

/// The first bytes of every log.
pub(crate) const LOG_MAGIC: [u8; 4] = *b"NVHL";
/// Version of the logs' format.
pub(crate) const LOG_VERSION: u32 = 1;
/// Blocks of a new log, the one in front included. Those of unit tests are full soon.
pub(crate) const LOG_BLOCKS: u32 = if cfg!(test) { 2 } else { 65 };
/// Most records that unit tests have in a log.
const TEST_RECORDS: u64 = 40;
/// Bytes of a record.
pub(crate) const RECORD_BYTES: usize = 32;
/// Records of a block.
pub(crate) const RECORDS_PER_BLOCK: u64 = BLOCK_SIZE_BYTES / RECORD_BYTES as u64;

/// The first block of a log as it is in its block.
#[derive(Debug, Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct LogFrontV1 {
    pub(crate) magic: [u8; 4],
    pub(crate) version: U32,
    pub(crate) head_id: U64,
    pub(crate) flushed: U64,
    pub(crate) reserved: [u8; 4072],
}

const _: () = assert!(size_of::<LogFrontV1>() as u64 == BLOCK_SIZE_BYTES);

/// Offset of the word with the last flushed record in a log.
pub(crate) const FLUSHED_OFFSET: u64 = offset_of!(LogFrontV1, flushed) as u64;

impl LogFrontV1 {
    pub(crate) fn new(head_id: u64) -> LogFrontV1 {
        let mut front = LogFrontV1::new_zeroed();
        front.magic = LOG_MAGIC;
        front.version = LOG_VERSION.into();
        front.head_id = head_id.into();
        front.flushed = flushed_word(0).into();
        front
    }

    /// The last flushed record, if this is the front of that head's log.
    pub(crate) fn open(&self, head_id: u64) -> Option<u64> {
        let fits = self.magic == LOG_MAGIC && self.version == LOG_VERSION;
        let flushed = committed_generation(self.flushed.get());
        flushed.filter(|_| fits && self.head_id == head_id)
    }
}

/// The word that says that records up to this one are durable.
pub(crate) fn flushed_word(sequence: u64) -> u64 {
    committed_word(sequence)
}

/// A record as it is in its block.
#[derive(Debug, Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct LogRecordV1 {
    pub(crate) sequence: U64,
    pub(crate) frame: U64,
    pub(crate) block: U32,
    pub(crate) count: U32,
    pub(crate) checksum: U32,
    pub(crate) reserved: U32,
}

const _: () = assert!(size_of::<LogRecordV1>() == RECORD_BYTES);

/// A change of a disk's map: frames of one chunk have these blocks from now on, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Change {
    /// The first frame.
    pub(crate) frame: u64,
    /// Number of frames, all in one chunk of the map.
    pub(crate) count: u32,
    /// The block of the first one; the others follow in the same chunk of the pool.
    pub(crate) block: Option<BlockNo>,
}

impl Change {
    /// The bytes of the record with this number in a head's log.
    pub(crate) fn seal(&self, head_id: u64, sequence: u64) -> [u8; RECORD_BYTES] {
        let mut raw = LogRecordV1::new_zeroed();
        raw.sequence = sequence.into();
        raw.frame = self.frame.into();
        raw.block = self.block.map_or(0, BlockNo::get).into();
        raw.count = self.count.into();
        raw.checksum = checksum(&raw, head_id).into();
        let mut bytes = [0; RECORD_BYTES];
        bytes.copy_from_slice(raw.as_bytes());
        bytes
    }

    /// The change of a record that has this number in a head's log; none when these bytes are no
    /// such record.
    pub(crate) fn open(bytes: &[u8; RECORD_BYTES], head_id: u64, sequence: u64) -> Option<Change> {
        let raw = LogRecordV1::read_from_bytes(bytes).ok()?;
        let fits = raw.sequence == sequence && raw.checksum == checksum(&raw, head_id);
        fits.then(|| Change {
            frame: raw.frame.get(),
            count: raw.count.get(),
            block: Some(BlockNo::new(raw.block.get())).filter(|block| block.get() != 0),
        })
    }

    /// True when a disk of so many frames in this pool can have such a change.
    pub(crate) fn is_possible(&self, frames: u64, layout: &Layout) -> bool {
        let chunk = u64::from(CHUNK_BLOCKS);
        let fits = |first: u64| first % chunk + u64::from(self.count) <= chunk;
        let end = self.frame.checked_add(u64::from(self.count));
        self.count > 0
            && end.is_some_and(|end| end <= frames)
            && fits(self.frame)
            && self.block.is_none_or(|block| {
                fits(u64::from(block.get())) && layout.is_data_chunk(block.chunk())
            })
    }
}

fn checksum(raw: &LogRecordV1, head_id: u64) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&head_id.to_le_bytes());
    hasher.update(&raw.as_bytes()[..offset_of!(LogRecordV1, checksum)]);
    hasher.finalize()
}

impl HeadPlace {
    /// Records that the log has room for.
    pub(crate) fn capacity(&self) -> u64 {
        let places = (self.log.len() as u64).saturating_sub(1) * RECORDS_PER_BLOCK;
        if cfg!(test) {
            return places.min(TEST_RECORDS);
        }
        places
    }

    /// Byte offset in the pool of the record with this number.
    pub(crate) fn record_offset(&self, sequence: u64) -> u64 {
        let place = sequence % self.capacity().max(1);
        let block = self.log[1 + (place / RECORDS_PER_BLOCK) as usize];
        block.byte_offset() + place % RECORDS_PER_BLOCK * RECORD_BYTES as u64
    }

    /// Byte offset in the pool of the word with the last flushed record.
    pub(crate) fn flushed_offset(&self) -> u64 {
        self.log[0].byte_offset() + FLUSHED_OFFSET
    }
}
