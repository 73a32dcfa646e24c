//! Flushes of a head: what was written is durable.

use std::collections::BTreeMap;
use std::sync::MutexGuard;
use std::sync::atomic::Ordering;

use super::head::{DiskHead, locked};
use crate::error::Result;
use crate::head_log::{Duty, flush_data, flush_records, is_done, note_flushed};
use crate::number::{BlockNo, ChunkNo, FrameSet};

impl DiskHead {
    /// Makes durable what was written and discarded before, as far as the pool's medium can.
    /// Several threads that flush at once wait for one flush.
    ///
    /// # Errors
    /// [`Error::Io`]: nothing may be durable.
    pub fn flush(&self) -> Result<()> {
        let wanted = self.written.load(Ordering::Acquire);
        if self.flushed.load(Ordering::Acquire) >= wanted {
            return Ok(());
        }
        self.check(&self.look(), 0, 0)?;
        let flushing = locked(&self.flushing);
        if self.flushed.load(Ordering::Acquire) >= wanted {
            return Ok(());
        }
        self.flush_all(&flushing)
    }

    pub(super) fn flush_now(&self) -> Result<()> {
        self.flush_all(&locked(&self.flushing))
    }

    fn flush_all(&self, _flushing: &MutexGuard<'_, ()>) -> Result<()> {
        let goal = self.written.load(Ordering::Acquire);
        // What is written from here on may be in it or not.
        let (first, last) = {
            let state = self.look();
            (state.flushed + 1, state.last)
        };
        let dirty = std::mem::take(&mut *locked(&self.dirty));
        let done = self.make_durable(&dirty, first, last);
        if let Err(error) = done {
            let mut now = locked(&self.dirty);
            for (chunk, set) in dirty {
                let places = now.entry(chunk).or_default();
                for place in set.places() {
                    places.insert(place);
                }
            }
            return Err(error);
        }
        let gone = {
            let mut state = self.change();
            state.flushed = state.flushed.max(last);
            take_durable(&mut state.freed, last)
        };
        self.flushed.fetch_max(goal, Ordering::AcqRel);
        self.leases.free(&gone);
        Ok(())
    }

    fn make_durable(
        &self,
        dirty: &BTreeMap<ChunkNo, FrameSet>,
        first: u64,
        last: u64,
    ) -> Result<()> {
        let store = &self.pool.store;
        let blocks: Vec<BlockNo> = dirty
            .iter()
            .flat_map(|(chunk, set)| set.places().map(|place| chunk.block(place)))
            .collect();
        flush_data(store, &blocks)?;
        if first > last {
            return store.region.fence();
        }
        // A digest of an earlier use of a block may be left.
        store.clear_digests_durably(&blocks)?;
        flush_records(store, &self.place, first..=last)?;
        if is_done(Duty::FlushWaits) {
            store.region.fence()?;
        }
        note_flushed(store, &self.place, last)
    }
}

/// Takes out what may go once this record is durable.
pub(super) fn take_durable(freed: &mut Vec<(u64, BlockNo)>, upto: u64) -> Vec<BlockNo> {
    let gone = freed.iter().filter(|(sequence, _)| *sequence <= upto);
    let gone = gone.map(|(_, block)| *block).collect();
    freed.retain(|(sequence, _)| *sequence > upto);
    gone
}
