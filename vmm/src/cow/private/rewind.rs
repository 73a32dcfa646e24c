//! All of guest RAM goes back to a snapshot, while everything that can write it stands still.
//!
//! A chunk that differs becomes one that nobody has touched: empty, with its first touch held. The
//! touch shows the snapshot's blocks, as after a restore.
//!
//! A VM that was booted has plain memory, of which no touch is held. Its first rewind makes every
//! chunk of which no block is known an untouched one. There may be pages of zeros in it that were
//! read; a write to one of them would not be held, and so be lost when the chunk is mapped.

use std::sync::PoisonError;

use nvvmm_snapshot::{BlockNo, ChunkIndex};

use super::{PrivateEngine, chunk::Chunk};
use crate::{
    cow::{
        CHUNK_SIZE_BYTES, CowEngine, CowError, RewindTo,
        counters::lock,
        error::os,
        rewind::{Stretch, Stretches},
    },
    memory::WriteLog,
    sys::patiently,
};

impl PrivateEngine {
    pub(super) fn put_back(&self, to: RewindTo, log: &dyn WriteLog) -> Result<(), CowError> {
        // What was written is known then, and the logs are empty.
        self.learn_writes(log)?;
        let was_held = self.hold_first_touches();
        let mut changed = std::mem::take(&mut *lock(&self.listed));
        if !was_held {
            changed.extend(self.chunks_without_blocks());
        }
        let mut empty = Stretches::default();
        for index in to.chunks_to_put_back(changed) {
            self.forget(
                index,
                &mut lock(self.table.get(index)),
                was_held,
                &mut empty,
            );
        }
        for stretch in empty.iter() {
            let (start, size_bytes) = (stretch.bytes.start, stretch.bytes.len());
            patiently(|| self.reservation().map_anonymous(start, size_bytes))
                .map_err(os("map empty memory"))?;
            let start = self.reservation().start() + start;
            patiently(|| self.uffd.register_missing(start, size_bytes))
                .map_err(os("hold first touches of guest RAM"))?;
        }
        self.counters.start_again_with(to.frames_mapped());
        *self.origin.write().unwrap_or_else(PoisonError::into_inner) = to.into_origin();
        Ok(())
    }

    fn chunks_without_blocks(&self) -> impl Iterator<Item = ChunkIndex> + '_ {
        ChunkIndex::range(0..self.chunks())
            .filter(|index| lock(self.table.get(*index)).known.is_none())
    }

    /// Makes a chunk one that nobody has touched.
    fn forget(&self, index: ChunkIndex, chunk: &mut Chunk, was_held: bool, empty: &mut Stretches) {
        let Chunk { known, .. } = std::mem::take(chunk);
        let is_mapped = known.as_ref().map_or(!was_held, |known| known.mapped);
        if let Some(known) = known {
            let own = known.own();
            let blocks = own.iter().filter_map(|frame| known.map.block(frame));
            lock(&self.replaced).extend(blocks.collect::<Vec<BlockNo>>());
            if known.mappings > 0 {
                self.budget.changed(known.mappings, 0);
                self.budget.chunk_unmapped(index, self.chunks());
            }
        }
        if is_mapped {
            let start = self.ram_offset(index, 0);
            empty.add(Stretch {
                bytes: start..start + CHUNK_SIZE_BYTES,
                pool_offset: None,
            });
        }
    }
}
