//! Pages of an image go into frames of a guest.

use nvvmm_protocol::FrameRun;
use nvvmm_snapshot::{BLOCK_SIZE_BYTES, BlockNo, CHUNK_BLOCKS, ChunkMap, FrameMap, Pool};
use vm_memory::Bytes;

use super::{FramePage, ProcessError, named_frames};
use crate::cow::CowEngine;

/// An image that is being restarted from. It stays pinned while any of its blocks may be behind a frame.
#[derive(Debug)]
pub struct Placing {
    frames: FrameMap,
    pages: u64,
    /// The chunk of the image that was looked up last.
    last: Option<(u32, ChunkMap)>,
    named: u64,
    /// Pages that are behind frames by reference.
    pub adopted: u64,
    /// Pages whose bytes were written to frames.
    pub copied: u64,
}

impl Placing {
    /// From a pinned image with `pages`.
    pub fn new(frames: FrameMap, pages: u64) -> Self {
        Self {
            frames,
            pages,
            last: None,
            named: 0,
            adopted: 0,
            copied: 0,
        }
    }

    /// Puts pages into the frames that the agent names; the guest does not move them meanwhile.
    ///
    /// # Errors
    /// [`ProcessError::Cow`] other than for want of space: the VM cannot go on.
    pub fn place(
        &mut self,
        runs: &[FrameRun],
        engine: &dyn CowEngine,
        pool: &Pool,
    ) -> Result<(), ProcessError> {
        let named = named_frames(runs, engine.ram(), self.pages)?;
        self.named += named.len() as u64;
        if self.named > self.pages {
            return Err(ProcessError::Lie(format!(
                "more frames than the image has pages ({})",
                self.pages
            )));
        }
        let mut wanted = Vec::with_capacity(named.len());
        for named in named {
            wanted.push((named, self.block(named.page)?));
        }
        // Of a frame that is named twice the last counts.
        wanted.reverse();
        wanted.sort_by_key(|(named, _)| (named.chunk, named.frame));
        wanted.dedup_by_key(|(named, _)| (named.chunk, named.frame));
        for of_chunk in wanted.chunk_by(|(a, _), (b, _)| a.chunk == b.chunk) {
            let blocks: Vec<(u32, BlockNo)> = of_chunk
                .iter()
                .filter_map(|(named, block)| Some((named.frame, (*block)?)))
                .collect();
            let adopted = !blocks.is_empty() && engine.adopt(of_chunk[0].0.chunk, &blocks)?;
            if adopted {
                self.adopted += blocks.len() as u64;
            }
            for (named, block) in of_chunk {
                if !adopted || block.is_none() {
                    self.copied += 1;
                    write(*named, *block, engine, pool)?;
                }
            }
        }
        Ok(())
    }

    fn block(&mut self, page: u64) -> Result<Option<BlockNo>, ProcessError> {
        let index = (page / u64::from(CHUNK_BLOCKS)) as u32;
        if self.last.as_ref().is_none_or(|(last, _)| *last != index) {
            self.last = Some((index, self.frames.chunk(index)?));
        }
        let map = self.last.as_ref().map(|(_, map)| map);
        Ok(map.and_then(|map| map.block((page % u64::from(CHUNK_BLOCKS)) as u32)))
    }
}

/// Writes a page, of zeroes if it has no block, to a frame.
fn write(
    named: FramePage,
    block: Option<BlockNo>,
    engine: &dyn CowEngine,
    pool: &Pool,
) -> Result<(), ProcessError> {
    let mut bytes = [0; BLOCK_SIZE_BYTES as usize];
    if let Some(block) = block {
        pool.read_block(block, &mut bytes)?;
    }
    // So that the access below waits for no space: that there is none is said instead.
    engine.answer(named.access(engine.ram(), true))?;
    Ok(engine.ram().memory().write_slice(&bytes, named.address())?)
}
