//! Puts pages of an image into frames of a guest.

use nvvmm_protocol::FrameRun;
use nvvmm_snapshot::{
    BLOCK_SIZE_BYTES, BlockNo, CHUNK_BLOCKS, ChunkIndex, ChunkMap, FrameIndex, FrameMap, Pool,
};
use vm_memory::Bytes;

use super::{
    ProcessError,
    named::{NamedRun, access_to, address_of, frames_of, named_runs, per_chunk},
};
use crate::cow::{CHUNK_FRAMES, CowEngine};

/// Frames that an agent may name for pages, for each frame of the VM. A page is named once for each
/// process that has it and not its parent, and a frame again when it was used for a moment.
const PLACED_PER_FRAME_MAX: u64 = 4;

/// An image that is being restarted from. It stays pinned while any of its blocks may be behind a
/// frame.
#[derive(Debug)]
pub struct Placing {
    frames: FrameMap,
    pages: u64,
    /// The chunk of the image that was looked up last.
    last: Option<(ChunkIndex, ChunkMap)>,
    named: u64,
    /// Pages that are behind frames by reference.
    pub adopted: u64,
    /// Pages whose bytes were written to frames.
    pub copied: u64,
}

impl Placing {
    /// Begins to place pages of a pinned image, which has `pages` of them.
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
        let named = named_runs(runs, engine.ram(), self.pages)?;
        self.named += runs.iter().map(|run| u64::from(run.pages)).sum::<u64>();
        if self.named > frames_of(engine.ram()) * PLACED_PER_FRAME_MAX {
            return Err(ProcessError::Invalid(
                "frames for pages again and again".to_owned(),
            ));
        }
        for (chunk, runs) in per_chunk(named) {
            self.place_in_chunk(chunk, &runs, engine, pool)?;
        }
        Ok(())
    }

    fn place_in_chunk(
        &mut self,
        chunk: ChunkIndex,
        runs: &[NamedRun],
        engine: &dyn CowEngine,
        pool: &Pool,
    ) -> Result<(), ProcessError> {
        // If a frame is named twice, the last page counts.
        let mut page_of = [None; CHUNK_FRAMES as usize];
        for (frame, page) in runs.iter().flat_map(NamedRun::iter) {
            page_of[frame.as_usize()] = Some(page);
        }
        let (mut blocks, mut holes) = (Vec::with_capacity(page_of.len()), Vec::new());
        for (frame, page) in FrameIndex::all().zip(page_of) {
            let Some(page) = page else { continue };
            match self.block(page)? {
                Some(block) => blocks.push((frame, block)),
                None => holes.push(frame),
            }
        }
        if !blocks.is_empty() && engine.adopt(chunk, &blocks)? {
            self.adopted += blocks.len() as u64;
            blocks.clear();
        }
        let written = blocks
            .into_iter()
            .map(|(frame, block)| (frame, Some(block)));
        for (frame, block) in written.chain(holes.into_iter().map(|frame| (frame, None))) {
            self.copied += 1;
            write(chunk, frame, block, engine, pool)?;
        }
        Ok(())
    }

    fn block(&mut self, page: u64) -> Result<Option<BlockNo>, ProcessError> {
        let index = ChunkIndex::new((page / u64::from(CHUNK_BLOCKS)) as u32);
        if self.last.as_ref().is_none_or(|(last, _)| *last != index) {
            self.last = Some((index, self.frames.chunk(index)?));
        }
        let map = self.last.as_ref().map(|(_, map)| map);
        Ok(map.and_then(|map| map.block(FrameIndex::of_frame_number(page))))
    }
}

/// Writes a page, of zeroes if it has no block, to a frame.
fn write(
    chunk: ChunkIndex,
    frame: FrameIndex,
    block: Option<BlockNo>,
    engine: &dyn CowEngine,
    pool: &Pool,
) -> Result<(), ProcessError> {
    let mut bytes = [0; BLOCK_SIZE_BYTES as usize];
    if let Some(block) = block {
        pool.read_block(block, &mut bytes)?;
    }
    // Answered before, so that the write below does not wait: a full pool is an error here.
    engine.answer(access_to(engine.ram(), chunk, frame, true))?;
    Ok(engine
        .ram()
        .memory()
        .write_slice(&bytes, address_of(chunk, frame))?)
}
