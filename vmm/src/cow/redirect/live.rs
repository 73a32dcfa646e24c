//! Blocks of a process image behind frames of a running guest.

use std::ops::Range;

use nvvmm_snapshot::{BlockNo, ChunkIndex, FrameIndex};

use super::{
    RedirectEngine,
    chunk::{KnownChunk, MappedRun, target_runs},
};
use crate::cow::{CowError, counters::Counters, frames::set_of};

impl RedirectEngine {
    /// Maps blocks of others behind frames, privately and not armed yet. Adds the blocks to
    /// `replaced` that were the VM's own and are behind no frame any more.
    pub(super) fn map_foreign(
        &self,
        index: ChunkIndex,
        known: &mut KnownChunk,
        blocks: &[(FrameIndex, BlockNo)],
        replaced: &mut Vec<BlockNo>,
    ) -> Result<(), CowError> {
        let mut rest = blocks;
        for run in target_runs(blocks) {
            let run = MappedRun {
                private: true,
                ..run
            };
            if known.is_mapped() {
                self.mapping.show_run(index, &run)?;
            }
            let (shown, left) = rest.split_at(run.frames.len());
            rest = left;
            self.lose(known, run.frames.clone(), replaced);
            known.replace(shown);
            if known.is_mapped() {
                known.note_unarmed(&set_of(run.frames.clone()));
                self.chunks.note_unreconciled(known);
                if !known.is_left() {
                    self.mapping.register_run(index, &run)?;
                }
            }
        }
        Ok(())
    }

    /// Ends the use of the blocks behind `frames`.
    fn lose(&self, known: &mut KnownChunk, frames: Range<u32>, replaced: &mut Vec<BlockNo>) {
        let frames = set_of(frames);
        let newly_backed = frames.minus(&known.backed()).count();
        let own = frames.intersection(known.own());
        replaced.extend(own.iter().filter_map(|frame| known.block(frame)));
        known.make_shared(&own);
        self.chunks.lost(u64::from(own.count()));
        Counters::add(&self.chunks.counters().frames_mapped, newly_backed);
    }
}
