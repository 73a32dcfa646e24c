//! Touches: the order in which a guest first touched the chunks of its memory.

use nvvmm_snapshot::ChunkIndex;
use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::ids::ObjectId;
use crate::boxes::{BOX_BYTES_MAX, BoxKind};
use crate::error::{Error, Result};
use crate::keys::StoreKeys;

/// Chunks that a record has at most: 128 GiB that a guest has touched.
pub(crate) const TOUCHES_MAX: u32 = 1 << 16;
/// Bytes of the largest record.
pub(crate) const TOUCHES_BYTES_MAX: u64 =
    (BOX_BYTES_MAX + size_of::<TouchesV1>()) as u64 + 4 * TOUCHES_MAX as u64;

/// The bytes before the chunks, which are words of 4 bytes.
#[derive(Debug, Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct TouchesV1 {
    pub(crate) chunks: U32,
    pub(crate) reserved: [u8; 12],
}

/// Makes the record of a snapshot that `push` has written. Of too many chunks it has the first.
pub(crate) fn encode(keys: &StoreKeys, push: ObjectId, chunks: &[ChunkIndex]) -> Result<Vec<u8>> {
    let chunks = &chunks[..chunks.len().min(TOUCHES_MAX as usize)];
    let head = TouchesV1 {
        chunks: (chunks.len() as u32).into(),
        reserved: [0; 12],
    };
    let mut payload = head.as_bytes().to_vec();
    for chunk in chunks {
        payload.extend_from_slice(&chunk.get().to_le_bytes());
    }
    keys.wrap(BoxKind::Touches, push.as_bytes(), &payload)
}

/// Reads the record of a snapshot that `push` has written.
///
/// # Errors
/// [`Error::Damaged`], also for the record of another snapshot.
pub(crate) fn decode(keys: &StoreKeys, push: ObjectId, bytes: &[u8]) -> Result<Vec<ChunkIndex>> {
    let object = "a record of touches";
    let damaged = || Error::damaged(object, "it makes no sense");
    let (payload, behind) = keys.unwrap(BoxKind::Touches, push.as_bytes(), bytes, &object)?;
    let read = TouchesV1::read_from_prefix(&payload);
    let (head, rest) = read.map_err(|_| damaged())?;
    let chunks = <[U32]>::ref_from_bytes(rest).map_err(|_| damaged())?;
    let is_known = head.reserved == [0; 12] && behind.is_empty();
    if !is_known || chunks.len() != head.chunks.get() as usize || head.chunks.get() > TOUCHES_MAX {
        return Err(damaged());
    }
    let chunks = chunks.iter().map(|chunk| ChunkIndex::new(chunk.get()));
    Ok(chunks.collect())
}
