//! A snapshot's part of the engine: copies change hands from the VM to a snapshot file, or come
//! back.

use std::sync::{PoisonError, atomic::Ordering};

use nvvmm_snapshot::{Consumed, ConsumedChunk, FrameSet, Reservation};

use super::PrivateEngine;
use crate::{
    cow::{
        CowError, Origin, ShareSet, Still,
        engine::{Counters, lock},
        frames::set_of,
    },
    memory::WriteLog,
};

/// The engine while the guest stands still. Nothing has to be locked for that: whoever could touch
/// memory is paused.
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
    fn copy_rest(&self, log: &dyn WriteLog, room: &mut Reservation) -> Result<(), CowError> {
        self.engine.take_bits(log)?;
        self.engine.copy_dirty(Some(room)).map(drop)
    }

    fn share(&self) -> Result<ShareSet, CowError> {
        self.engine.share()
    }

    /// The guest never writes to a block.
    fn arm(&self, _set: &ShareSet) -> Result<(), CowError> {
        Ok(())
    }

    fn frames_copied(&self) -> u64 {
        self.engine.frames_copied() - self.copied_before
    }
}

impl PrivateEngine {
    fn frames_copied(&self) -> u64 {
        self.counters.frames_copied.load(Ordering::Relaxed)
    }

    fn share(&self) -> Result<ShareSet, CowError> {
        let mut indexes = std::mem::take(&mut *lock(&self.listed));
        indexes.sort_unstable();
        let is_dirty = |index: &u32| !lock(self.table.get(*index)).dirty.is_empty();
        if indexes.iter().any(is_dirty) {
            lock(&self.listed).extend(indexes);
            return Err(CowError::NoSpace);
        }
        let mut set = ShareSet::default();
        for index in indexes {
            let mut chunk = lock(self.table.get(index));
            chunk.listed = false;
            if let Some(known) = &mut chunk.known {
                let own = known.mine();
                known.own = FrameSet::EMPTY;
                let copied = std::mem::take(&mut known.copied);
                set.push_copied(index, known.map.clone(), own, copied);
            }
        }
        Ok(set)
    }

    /// The snapshot was not made. Its blocks are the VM's own again: nothing was copied since, so
    /// the maps are as they were.
    pub(super) fn take_back(&self, set: &ShareSet) {
        for (index, _, own, copied) in set.iter_copied() {
            let mut chunk = lock(self.table.get(index));
            if let Some(known) = &mut chunk.known {
                known.own = known.own.union(&own.minus(copied));
                known.copied = known.copied.union(copied);
            }
            self.list(index, &mut chunk);
        }
    }

    pub(super) fn take_out_copies(&self) {
        let indexes = lock(&self.listed).clone();
        for index in indexes {
            let mut chunk = lock(self.table.get(index));
            let Some(known) = &mut chunk.known else {
                continue;
            };
            let copied = known.copied;
            let blocks = known.remove_copies();
            chunk.dirty = chunk.dirty.union(&copied);
            Counters::sub(&self.counters.frames_mapped, blocks.len() as u64);
            self.holder.free_blocks(&blocks);
        }
    }

    pub(super) fn own_consumed(&self, consumed: Consumed) {
        // The snapshot's own map has left the pool.
        *self.origin.write().unwrap_or_else(PoisonError::into_inner) = Origin::Empty;
        for chunk in consumed.into_memory() {
            self.take_over_chunk(chunk);
        }
    }

    fn take_over_chunk(&self, consumed: ConsumedChunk) {
        let mut chunk = lock(self.table.get(consumed.index.get()));
        match &mut chunk.known {
            None => chunk.known = Some(Box::new(self.unmapped(consumed.map, consumed.taken))),
            Some(known) => {
                // The block of a frame that was copied before is not needed, but the guest may
                // still be shown it: it stays mine, and goes with the holder.
                let in_place = |frame: &u32| known.map.block(*frame) == consumed.map.block(*frame);
                known.own = known
                    .own
                    .union(&set_of(consumed.taken.iter().filter(in_place)));
            }
        }
        // Nothing of it is in any snapshot that the next one could start from.
        self.list(consumed.index.get(), &mut chunk);
    }
}
