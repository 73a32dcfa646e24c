//! Fills chunks of the pool that nobody maps yet.

use std::sync::Mutex;

use nvvmm_snapshot::{BlockNo, ChunkForCopy};

use super::Mapping;
use crate::{
    cow::{CHUNK_SIZE_BYTES, CowError, FRAME_SIZE_BYTES, Lack, counters::lock},
    sys::address_range::{AddressRange, Sharing},
};

/// Addresses at which a chunk is filled. Reserved when the first one is.
#[derive(Debug, Default)]
pub(super) struct Scratch(Mutex<Option<AddressRange>>);

/// Blocks to be copied to frames of a chunk.
#[derive(Clone, Copy, Debug)]
pub(in crate::cow::redirect) struct Source {
    /// First frame.
    pub frame: u32,
    /// Block for it.
    pub block: BlockNo,
    /// Number of frames and blocks.
    pub count: u32,
}

impl Mapping {
    /// Fills a chunk of the pool, which has memory.
    ///
    /// # Errors
    /// [`CowError::NoSpace`]: the chunk cannot be filled now.
    pub fn fill_chunk(&self, target: ChunkForCopy, sources: &[Source]) -> Result<(), CowError> {
        let mut scratch = lock(&self.scratch.0);
        if scratch.is_none() {
            let range = AddressRange::new(CHUNK_SIZE_BYTES, CHUNK_SIZE_BYTES).map_err(no_space)?;
            *scratch = Some(range);
        }
        let Some(range) = &*scratch else {
            unreachable!("reserved above");
        };
        let (pool, offset) = (self.pool.fd(), target.chunk.byte_offset());
        range
            .map_file(0, CHUNK_SIZE_BYTES, pool, offset, Sharing::Shared)
            .map_err(no_space)?;
        if !target.one_page {
            range
                .populate_write(0, CHUNK_SIZE_BYTES)
                .map_err(no_space)?;
        }
        for source in sources {
            let (at, size) = (source.frame as usize, source.count as usize);
            range
                .copy_from_file(
                    at * FRAME_SIZE_BYTES,
                    size * FRAME_SIZE_BYTES,
                    pool,
                    source.block.byte_offset(),
                )
                .map_err(no_space)?;
        }
        Ok(())
    }
}

/// A chunk is filled for speed only: whatever keeps it from that, there is another way.
fn no_space(_error: std::io::Error) -> CowError {
    CowError::NoSpace(Lack::Kernel)
}
