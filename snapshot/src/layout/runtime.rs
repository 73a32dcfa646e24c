//! The runtime block: what only matters while a pool is in use, or to tell how its last use ended.

use std::mem::{offset_of, size_of};

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::RUNTIME_BLOCK;
use crate::number::BlockNo;

/// Value of `clean` when the last user closed the pool in order.
pub(crate) const CLEAN: u32 = 0x4e41_454c;
/// Value of `dirty` while reference counts are being changed.
pub(crate) const DIRTY: u32 = 0x5954_5244;

/// The runtime block as it is in its block.
#[derive(Debug, Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct RuntimeV1 {
    pub(crate) boot_id: [u8; 16],
    pub(crate) clean: U32,
    pub(crate) dirty: U32,
    pub(crate) committed: U64,
    pub(crate) releasing: U32,
    pub(crate) reserved: [u8; 4060],
}

const _: () = assert!(size_of::<RuntimeV1>() == 4096);

const START: u64 = BlockNo::new(RUNTIME_BLOCK).byte_offset();
/// Byte offset of the boot id in the pool.
pub(crate) const BOOT_ID_OFFSET: u64 = START + offset_of!(RuntimeV1, boot_id) as u64;
/// Byte offset of the clean word in the pool.
pub(crate) const CLEAN_OFFSET: u64 = START + offset_of!(RuntimeV1, clean) as u64;
/// Byte offset of the dirty word in the pool.
pub(crate) const DIRTY_OFFSET: u64 = START + offset_of!(RuntimeV1, dirty) as u64;
/// Byte offset of the committed generation in the pool.
pub(crate) const COMMITTED_OFFSET: u64 = START + offset_of!(RuntimeV1, committed) as u64;

/// Byte offset of the word of the chunk whose memory a cleaner gives back.
pub(crate) const RELEASING_OFFSET: u64 = START + offset_of!(RuntimeV1, releasing) as u64;

const GENERATION_BITS: u32 = 48;

/// The word that says that the superblock of this generation is durable: the generation, and a
/// check of it above.
pub(crate) fn committed_word(generation: u64) -> u64 {
    let generation = generation & ((1 << GENERATION_BITS) - 1);
    let check = crc32fast::hash(&generation.to_le_bytes()) & 0xffff;
    u64::from(check) << GENERATION_BITS | generation
}

/// The generation in such a word; none when its check does not fit.
pub(crate) fn committed_generation(word: u64) -> Option<u64> {
    let generation = word & ((1 << GENERATION_BITS) - 1);
    (committed_word(generation) == word).then_some(generation)
}
