//! A disk of the pool as memory: its blocks in the order of the disk.

use std::sync::Arc;

use nvvmm_snapshot::{BLOCK_SIZE_BYTES, BlockNo, CHUNK_SIZE_BYTES, FrameMap, Pool};

use super::WindowError;
use super::memory::{PIECE_BYTES, os};
use super::place::ROOM_BYTES;
use crate::sys::address_range::{AddressRange, Sharing};

/// Blocks that are neighbours on the disk and in the pool.
struct Run {
    frame: u64,
    block: u32,
    len: u64,
}

/// Maps a disk; no more than `pieces_max` mappings are made. What it has no blocks of reads as
/// zeros, and so does the rest up to the size that Linux takes. The disk must stay pinned as long
/// as this exists. On a medium with pages of 2 MiB each piece must be whole pages of it: the rest
/// of a page may be somebody else's.
///
/// # Errors
/// [`WindowError`].
pub fn disk_memory(
    pool: &Pool,
    blocks: &FrameMap,
    size_bytes: u64,
    pieces_max: usize,
) -> Result<Arc<AddressRange>, WindowError> {
    if size_bytes > ROOM_BYTES {
        return Err(WindowError::TooLarge {
            pages: size_bytes.div_ceil(BLOCK_SIZE_BYTES),
        });
    }
    let mut runs: Vec<Run> = Vec::new();
    for chunk in blocks.iter_present() {
        let (index, chunk) = chunk?;
        for (frame, block) in chunk.iter_present() {
            let (frame, block) = (index.frame_number(frame), block.get());
            match runs.last_mut() {
                Some(run)
                    if run.frame + run.len == frame
                        && u64::from(run.block) + run.len == u64::from(block) =>
                {
                    run.len += 1;
                }
                _ => runs.push(Run {
                    frame,
                    block,
                    len: 1,
                }),
            }
        }
    }
    let page_frames = pool.medium().page_bytes() / BLOCK_SIZE_BYTES;
    let is_of_pages = |run: &Run| {
        let mut places = [run.frame, run.block.into(), run.len].into_iter();
        places.all(|place| place.is_multiple_of(page_frames))
    };
    if !runs.iter().all(is_of_pages) {
        return Err(WindowError::NotInChunks(pool.medium()));
    }
    if runs.len() > pieces_max {
        return Err(WindowError::TooManyPieces {
            runs: runs.len(),
            limit: pieces_max,
        });
    }
    let shown_bytes = size_bytes.next_multiple_of(PIECE_BYTES);
    let memory = AddressRange::new(shown_bytes as usize, CHUNK_SIZE_BYTES as usize)
        .map_err(os("reserve addresses"))?;
    for run in runs {
        let at = (run.frame * BLOCK_SIZE_BYTES) as usize;
        let len = (run.len * BLOCK_SIZE_BYTES) as usize;
        let from = BlockNo::new(run.block).byte_offset();
        memory
            .map_file(at, len, pool.fd(), from, Sharing::ReadOnly)
            .map_err(os("map blocks"))?;
    }
    Ok(Arc::new(memory))
}

#[cfg(test)]
#[path = "disk_test.rs"]
mod disk_test;
