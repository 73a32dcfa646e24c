//! Gives unused blocks of leased chunks back, when the VM holds more of them than it may.

use std::collections::HashSet;

use nvvmm_snapshot::{BlockNo, ChunkIndex, ChunkNo, FrameIndex};

use super::{
    RedirectEngine,
    chunk::{KnownChunk, LiveChunk},
    placement::Excess,
};
use crate::cow::{CowError, Lack, error::os, frames::set_of};

impl RedirectEngine {
    /// Gives back some of what is held beyond the bound. Returns true if there is more that can be
    /// given back.
    pub(super) fn keep_bound(&self) -> Result<bool, CowError> {
        // Where a chunk is one page it is leased and given back as a whole.
        if self.mapping.has_whole_chunks() {
            return Ok(false);
        }
        let Some(Excess { unused, bound }) = self.placement.excess()? else {
            return Ok(false);
        };
        self.placement.release_all(&self.chunks);
        self.give_back(bound)?;
        let left = self.placement.unused()?;
        Ok(bound < left && left < unused)
    }

    /// Empties leased chunks until no more than `bound` blocks are unused, as far as that can be in
    /// one go.
    pub(in crate::cow) fn give_back(&self, bound: u64) -> Result<(), CowError> {
        let Some(vacating) = self.placement.vacate(bound)? else {
            return Ok(());
        };
        let vacated: HashSet<ChunkNo> = vacating.chunks().iter().copied().collect();
        for (index, chunk) in self.chunks.iter() {
            let _not_sharing = self.not_sharing();
            // A chunk that is locked is being served.
            let Ok(mut live) = chunk.try_lock() else {
                continue;
            };
            let LiveChunk::Known(known) = &mut *live else {
                continue;
            };
            match self
                .mapping
                .counted(known, |known| self.move_out(index, known, &vacated))
            {
                Ok(()) => {}
                Err(CowError::NoSpace(_)) => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Moves own frames of the guest chunk out of `vacated` chunks, into gaps of other leases.
    fn move_out(
        &self,
        index: ChunkIndex,
        known: &mut KnownChunk,
        vacated: &HashSet<ChunkNo>,
    ) -> Result<(), CowError> {
        let moving: Vec<(FrameIndex, BlockNo)> = known
            .own()
            .places()
            .filter_map(|frame| Some((frame, known.block(frame)?)))
            .filter(|(_, block)| vacated.contains(&block.chunk()))
            .collect();
        if moving.is_empty() || !known.is_mapped() {
            return Ok(());
        }
        if self.mapping.budget().is_exceeded() {
            return Err(CowError::NoSpace(Lack::Blocks));
        }
        let gaps = self.placement.gaps(moving.len() as u32)?;
        let targets: Vec<(FrameIndex, BlockNo)> =
            moving.iter().map(|(frame, _)| *frame).zip(gaps).collect();
        known.note_arming();
        // While they are armed, nobody changes them between the copy and the new mapping.
        for run in known.mapped_runs(&set_of(moving.iter().map(|(frame, _)| *frame))) {
            if let Err(error) = self.mapping.arm(index, &run.frames) {
                self.placement.free_targets(&targets);
                return Err(os("arm frames to move them")(error));
            }
        }
        let moved = self.redirect(index, known, &targets, |run| {
            self.mapping.copy_run(index, run)
        });
        let left: Vec<BlockNo> = moving
            .into_iter()
            .filter(|(frame, block)| known.block(*frame) != Some(*block))
            .map(|(_, block)| block)
            .collect();
        self.placement.free(&left);
        moved
    }
}
