//! Content of a window as host memory: metadata of this process's own, then the image's blocks.
//!
//! Blocks are in the order in which the pool has them, not in that of the image's pages, so that
//! neighbours in the pool need one mapping.

use std::io;
use std::sync::Arc;

use nvvmm_snapshot::{BLOCK_SIZE_BYTES, BlockNo, CHUNK_SIZE_BYTES, FrameMap, Medium, Pool};

use super::{ShownBlocks, erofs, place::ROOM_BYTES};
use crate::sys::address_range::{AddressRange, Sharing};

/// Linux takes persistent memory in pieces of this size.
pub(super) const PIECE_BYTES: u64 = 16 << 20;

/// Why an image cannot be shown in a window.
#[derive(Debug, thiserror::Error)]
pub enum WindowError {
    /// The image and its index are larger than the room for a window.
    #[error("the image has {pages} pages, more than a window has room for")]
    TooLarge {
        /// Its pages.
        pages: u64,
    },
    /// The pool's medium is mapped 2 MiB at a time.
    #[error("a pool on {0} is mapped 2 MiB at a time, so it cannot show an image in a window")]
    Medium(Medium),
    /// The medium is mapped 2 MiB at a time, and the disk does not lie in such pieces.
    #[error("a pool on {0} is mapped 2 MiB at a time, and the disk's blocks do not lie so in it")]
    NotInChunks(Medium),
    /// The image is in more pieces than this process may map.
    #[error(
        "the image is in {runs} pieces in the pool, \
         more than the {limit} that may be mapped for a window"
    )]
    TooManyPieces {
        /// Pieces it is in.
        runs: usize,
        /// Pieces that may be mapped.
        limit: usize,
    },
    /// The pool refused.
    #[error("pool: {0}")]
    Pool(#[from] nvvmm_snapshot::Error),
    /// The kernel refused.
    #[error("cannot {op} for a window: {source}")]
    Os {
        /// The operation that failed.
        op: &'static str,
        /// The system's answer.
        source: io::Error,
    },
}

pub(super) fn os(op: &'static str) -> impl FnOnce(io::Error) -> WindowError {
    move |source| WindowError::Os { op, source }
}

/// The content of a window. The image must stay pinned as long as this exists.
#[derive(Debug)]
pub struct WindowMemory {
    reservation: Arc<AddressRange>,
    metadata_bytes: u64,
    blocks: Vec<u32>,
}

impl WindowMemory {
    /// Maps the `pages` pages of an image, of which `map` tells; no more than `pieces_max` mappings
    /// are made.
    ///
    /// # Errors
    /// See [`WindowError`].
    pub fn of_image(
        pool: &Pool,
        map: &FrameMap,
        pages: u64,
        pieces_max: usize,
    ) -> Result<WindowMemory, WindowError> {
        if pool.medium().page_bytes() != BLOCK_SIZE_BYTES {
            return Err(WindowError::Medium(pool.medium()));
        }
        if pages > ROOM_BYTES / BLOCK_SIZE_BYTES {
            return Err(WindowError::TooLarge { pages });
        }
        let mut blocks_of_pages = vec![None; pages as usize];
        for chunk in map.iter_present() {
            let (index, chunk) = chunk?;
            for (page, block) in chunk.iter_present() {
                let page = index.frame_number(page) as usize;
                if let Some(place) = blocks_of_pages.get_mut(page) {
                    *place = Some(block.get());
                }
            }
        }
        let mut blocks: Vec<u32> = blocks_of_pages.iter().flatten().copied().collect();
        blocks.sort_unstable();
        blocks.dedup();
        let index: Vec<Option<u32>> = blocks_of_pages
            .iter()
            .map(|block| {
                blocks
                    .binary_search(block.as_ref()?)
                    .ok()
                    .map(|at| at as u32)
            })
            .collect();
        let metadata = erofs::metadata(&index).ok_or(WindowError::TooLarge { pages })?;
        let size_bytes = (metadata.len() as u64 + blocks.len() as u64 * BLOCK_SIZE_BYTES)
            .next_multiple_of(PIECE_BYTES);
        let runs: Vec<&[u32]> = blocks.chunk_by(|left, right| left + 1 == *right).collect();
        if size_bytes > ROOM_BYTES {
            return Err(WindowError::TooLarge { pages });
        }
        if runs.len() > pieces_max {
            return Err(WindowError::TooManyPieces {
                runs: runs.len(),
                limit: pieces_max,
            });
        }
        let reservation = AddressRange::new(size_bytes as usize, CHUNK_SIZE_BYTES as usize)
            .map_err(os("reserve addresses"))?;
        reservation
            .write(0, &metadata)
            .map_err(os("write metadata"))?;
        let mut at = metadata.len();
        for run in runs {
            let len = run.len() * BLOCK_SIZE_BYTES as usize;
            reservation
                .map_file(
                    at,
                    len,
                    pool.fd(),
                    BlockNo::new(run[0]).byte_offset(),
                    Sharing::Private,
                )
                .map_err(os("map blocks"))?;
            at += len;
        }
        Ok(WindowMemory {
            reservation: Arc::new(reservation),
            metadata_bytes: metadata.len() as u64,
            blocks,
        })
    }

    /// The host addresses.
    pub fn reservation(&self) -> &Arc<AddressRange> {
        &self.reservation
    }

    /// The blocks by the frames in which the guest sees them, with the window at `gpa`.
    pub fn shown_at(self, gpa: u64) -> ShownBlocks {
        ShownBlocks::new((gpa + self.metadata_bytes) / BLOCK_SIZE_BYTES, self.blocks)
    }
}

#[cfg(test)]
#[path = "memory_test.rs"]
mod memory_test;
