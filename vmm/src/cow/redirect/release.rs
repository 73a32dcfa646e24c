//! Empties chunks that the guest does not use.
//!
//! The guest runs. Whoever writes to such a chunk meanwhile, though the guest has said that nobody
//! does, may lose the write: between the new mapping and its registration an access is not held. No
//! block is behind the chunk by then, so no snapshot can get such a write. Pages that such an
//! access left are dropped: a later write to one of them would not be held.

use nvvmm_snapshot::{ChunkIndex, ChunkMap, FrameSet};

use super::{
    RedirectEngine,
    chunk::{KnownChunk, LiveChunk},
};
use crate::cow::{
    CHUNK_FRAMES, CowError,
    counters::{Counters, lock},
    rewind::Stretches,
};

impl RedirectEngine {
    /// Ends the use of all blocks of a chunk, which is like one that was never touched then.
    /// Returns the number of frames that had a block.
    pub(super) fn release_chunk(&self, index: ChunkIndex) -> Result<u32, CowError> {
        let _not_sharing = self.not_sharing();
        let live = &mut *lock(self.chunks.get(index));
        // It is not worth fetching.
        if !self.chunks.origin().is_here(index) {
            return Ok(0);
        }
        let known = self.chunks.know(index, live)?;
        let backed = known.backed().count();
        // A copy that was made ahead of the first touch belongs to whoever made it.
        if backed == 0 || known.is_prepared() {
            return Ok(0);
        }
        if known.is_mapped() {
            let mut nothing = Stretches::default();
            nothing.add(self.mapping.stretch(index, &(0..CHUNK_FRAMES), None));
            let mappings = known.mappings_now();
            self.mapping.put(&nothing)?;
            self.mapping.drop_page_tables(index, &(0..CHUNK_FRAMES))?;
            self.mapping.note_unmapped(index, mappings);
        }
        // They are behind no address any more. Those of snapshots stay theirs.
        let own = known.own_blocks();
        self.chunks.note_reconciled(known);
        self.placement.release(&mut known.set_aside);
        let was_dirty = !known.set_dirty();
        let mut empty = KnownChunk::unmapped(ChunkMap::Hole, FrameSet::EMPTY);
        if was_dirty {
            // It is in the list already.
            empty.set_dirty();
        } else {
            self.chunks.mark_dirty(index, &mut empty);
        }
        *live = LiveChunk::Known(Box::new(empty));
        self.chunks.lost(own.len() as u64);
        Counters::sub(&self.chunks.counters().frames_mapped, backed.into());
        self.placement.free(&own);
        Ok(backed)
    }
}
