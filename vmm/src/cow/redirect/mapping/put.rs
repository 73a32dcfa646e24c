//! Puts what a snapshot has behind guest addresses, while nobody can write them.

use std::ops::Range;

use nvvmm_snapshot::{BlockNo, ChunkIndex};

use super::Mapping;
use crate::{
    cow::{
        CowError,
        error::os,
        rewind::{Stretch, Stretches},
    },
    sys::{address_range::Sharing, patiently},
};

impl Mapping {
    /// Puts something else behind stretches of RAM, all of which nobody can write meanwhile: blocks
    /// of a snapshot, mapped shared and armed, or nothing, whose first touch is held.
    ///
    /// # Errors
    /// RAM is partly as it was, and blocks of the snapshot may not be armed.
    pub fn put(&self, stretches: &Stretches) -> Result<(), CowError> {
        for stretch in stretches.iter() {
            let (offset, size_bytes) = (stretch.bytes.start, stretch.bytes.len());
            let map = || match stretch.pool_offset {
                Some(at) => self.reservation().map_file(
                    offset,
                    size_bytes,
                    self.pool.fd(),
                    at,
                    Sharing::Shared,
                ),
                None => self.reservation().map_anonymous(offset, size_bytes),
            };
            patiently(map).map_err(os("map what was there before"))?;
        }
        let start = self.reservation().start();
        for range in stretches.ranges(false) {
            patiently(|| self.uffd.register_missing(start + range.start, range.len()))
                .map_err(os("hold first touches of guest RAM"))?;
        }
        for range in stretches.ranges(true) {
            patiently(|| {
                self.uffd
                    .register_write_protect(start + range.start, range.len())
            })
            .map_err(os("register blocks"))?;
            self.protect(start + range.start, range.len(), true)
                .map_err(os("arm blocks"))?;
        }
        Ok(())
    }

    /// Notes that nothing of a chunk is mapped any more, which took so many mappings.
    pub fn note_unmapped(&self, index: ChunkIndex, mappings: usize) {
        self.budget.changed(mappings, 0);
        self.budget.chunk_unmapped(index, self.chunks());
    }

    /// A run of frames, as a stretch of RAM with these blocks or none.
    pub fn stretch(
        &self,
        index: ChunkIndex,
        frames: &Range<u32>,
        block: Option<BlockNo>,
    ) -> Stretch {
        let (offset, size_bytes) = self.range(index, frames);
        Stretch {
            bytes: offset..offset + size_bytes,
            pool_offset: block.map(BlockNo::byte_offset),
        }
    }
}
