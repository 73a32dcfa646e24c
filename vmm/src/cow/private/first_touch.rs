//! Maps a chunk when it is first touched: it shows the blocks of the snapshot that the VM came
//! from.
//!
//! vCPUs and devices go on meanwhile. Every frame is registered *missing* until it is mapped or
//! filled. That happens once, in one step: nobody can have written to the frame before, and nothing
//! is mapped over it afterwards.

use std::ops::Range;

use nvvmm_snapshot::{BLOCK_SIZE_BYTES, BlockNo, ChunkIndex, FaultPoint, FrameSet, fault_point};

use super::{PrivateEngine, chunk::KnownChunk};
use crate::{
    cow::{
        CowError, FRAME_SIZE_BYTES,
        error::os,
        frames::{BlockRun, block_runs, runs},
    },
    sys::{address_range::Sharing, patiently},
};

impl PrivateEngine {
    /// Maps the blocks and holes of a chunk, or fills it where mappings are not possible or too
    /// many.
    pub(super) fn map_chunk(
        &self,
        index: ChunkIndex,
        known: &mut KnownChunk,
    ) -> Result<(), CowError> {
        let backed = known.map.present();
        let (runs, holes) = (
            block_runs(&known.map, &backed),
            runs(&FrameSet::FULL.minus(&backed)),
        );
        let mappings = runs.len() + holes.len();
        let may_map = self.maps_privately() || runs.is_empty();
        if may_map && mappings <= self.budget.mappings_for_a_chunk() {
            for run in &runs {
                self.map_run(index, run)?;
            }
            for hole in &holes {
                self.map_hole(index, hole)?;
            }
            self.budget.chunk_mapped(index, self.chunks());
            self.budget.changed(0, mappings);
            known.mappings = mappings;
            fault_point(FaultPoint::PrivateChunkMapped);
        } else {
            for run in &runs {
                self.fill_run(index, run)?;
            }
            for hole in &holes {
                self.fill_hole(index, hole)?;
            }
            fault_point(FaultPoint::PrivateChunkFilled);
        }
        known.mapped = true;
        Ok(())
    }

    fn map_run(&self, index: ChunkIndex, run: &BlockRun) -> Result<(), CowError> {
        // Runs before this one may be mapped, so the chunk cannot stay as it is.
        patiently(|| {
            self.reservation().map_file(
                self.ram_offset(index, run.frames.start),
                run.frames.len() * FRAME_SIZE_BYTES,
                self.pool.fd(),
                run.block.byte_offset(),
                Sharing::Private,
            )
        })
        .map_err(os("map blocks"))
    }

    fn map_hole(&self, index: ChunkIndex, frames: &Range<u32>) -> Result<(), CowError> {
        patiently(|| {
            self.reservation().map_anonymous(
                self.ram_offset(index, frames.start),
                frames.len() * FRAME_SIZE_BYTES,
            )
        })
        .map_err(os("map empty memory"))
    }

    /// Fills frames with the bytes of their blocks. The mapping stays as it is.
    fn fill_run(&self, index: ChunkIndex, run: &BlockRun) -> Result<(), CowError> {
        let mut bytes = vec![0; run.frames.len() * FRAME_SIZE_BYTES];
        let blocks = bytes.as_chunks_mut::<{ BLOCK_SIZE_BYTES as usize }>().0;
        for (number, into) in (run.block.get()..).zip(blocks) {
            self.pool.read_block(BlockNo::new(number), into)?;
        }
        let start = self.reservation().start() + self.ram_offset(index, run.frames.start);
        self.uffd.copy(start, &bytes).map_err(os("fill memory"))
    }

    fn fill_hole(&self, index: ChunkIndex, frames: &Range<u32>) -> Result<(), CowError> {
        let start = self.reservation().start() + self.ram_offset(index, frames.start);
        self.uffd
            .zero(start, frames.len() * FRAME_SIZE_BYTES)
            .map_err(os("fill memory with zeroes"))
    }

    /// Maps a chunk that has blocks, and fills its page tables.
    pub(super) fn prefault_chunk(
        &self,
        index: ChunkIndex,
        known: &mut KnownChunk,
    ) -> Result<(), CowError> {
        let backed = known.map.present();
        if !known.mapped && !backed.is_empty() {
            self.map_chunk(index, known)?;
        }
        for run in runs(&backed) {
            self.reservation()
                .populate_read(
                    self.ram_offset(index, run.start),
                    run.len() * FRAME_SIZE_BYTES,
                )
                .map_err(os("fill page tables"))?;
        }
        Ok(())
    }
}
