//! The instant of a snapshot: the VM's copies become the snapshot's.

use nvvmm_snapshot::{
    ChunkIndex, ConsumedChunk, FaultPoint, FrameIndex, FrameSet, Reservation, fault_point,
};

use super::PrivateEngine;
use crate::{
    cow::{
        CowEngine, CowError, Lack, ShareSet, Still,
        counters::{Counters, lock},
        frames::set_of,
    },
    memory::WriteLog,
    stats::Phases,
};

/// The engine while the guest stands still. Nothing has to be locked for that: all threads that
/// could touch memory are paused.
#[derive(Debug)]
pub(super) struct StandStill<'a> {
    engine: &'a PrivateEngine,
    copied_before: u64,
}

impl<'a> StandStill<'a> {
    pub fn of(engine: &'a PrivateEngine) -> Self {
        Self {
            engine,
            copied_before: engine.frames_copied(),
        }
    }
}

impl Still for StandStill<'_> {
    fn copy_rest(
        &self,
        log: &dyn WriteLog,
        room: &mut Reservation,
        phases: &mut Phases,
    ) -> Result<(), CowError> {
        phases.run("CopyRest", || {
            self.engine.learn_writes(log)?;
            self.engine.copy_dirty(Some(room))
        })?;
        fault_point(FaultPoint::PrivateRestCopied);
        Ok(())
    }

    fn share(&self) -> Result<ShareSet, CowError> {
        self.engine.share()
    }

    fn frames_copied(&self) -> u64 {
        self.engine.frames_copied() - self.copied_before
    }
}

impl PrivateEngine {
    fn frames_copied(&self) -> u64 {
        Counters::get(&self.counters.frames_copied)
    }

    fn share(&self) -> Result<ShareSet, CowError> {
        let mut indexes = std::mem::take(&mut *lock(&self.listed));
        indexes.sort_unstable();
        let is_dirty = |index: &ChunkIndex| !lock(self.table.get(*index)).dirty.is_empty();
        if indexes.iter().any(is_dirty) {
            lock(&self.listed).extend(indexes);
            return Err(CowError::NoSpace(Lack::Blocks));
        }
        let mut set = ShareSet::default();
        for index in indexes {
            let mut chunk = lock(self.table.get(index));
            chunk.listed = false;
            if let Some(known) = &mut chunk.known {
                let own = known.own();
                known.consumed = FrameSet::EMPTY;
                let copied = std::mem::take(&mut known.copied);
                set.push_copied(index, known.map.clone(), own, copied);
            }
        }
        Ok(set)
    }

    /// Makes frames of a consumed snapshot own.
    pub(super) fn take_over_chunk(&self, consumed: ConsumedChunk) {
        let mut chunk = lock(self.table.get(consumed.index));
        match &mut chunk.known {
            None => chunk.known = Some(Box::new(self.unmapped(consumed.map, consumed.taken))),
            Some(known) => {
                // The block of a frame that was copied before is not needed, but the guest may
                // still see it. It stays leased to the holder, and goes with it.
                let in_place =
                    |frame: &FrameIndex| known.map.block(*frame) == consumed.map.block(*frame);
                known.consumed = known
                    .consumed
                    .union(&set_of(consumed.taken.places().filter(in_place)));
            }
        }
        // No snapshot that the next one could start from has any of it.
        self.list(consumed.index, &mut chunk);
    }
}
