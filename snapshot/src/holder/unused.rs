//! Blocks that a holder has leased and does not use: others cannot have them, so they are kept few.

use super::Holder;
use super::lease::Leases;
use crate::error::Result;
use crate::handle::Pool;
use crate::number::{BlockNo, CHUNK_BLOCKS, CHUNK_SIZE_BYTES, ChunkNo};
use crate::region::available_bytes;

impl Pool {
    /// Chunks that are wholly free and leased to nobody, as far as that can be said while others
    /// lease them.
    ///
    /// # Errors
    /// [`crate::Error::Damaged`].
    pub fn empty_chunks(&self) -> Result<u32> {
        let mut count = 0;
        for chunk in self.store.layout.data_chunks() {
            let empty = self.store.fill(chunk)?.taken() == 0;
            if empty && self.store.lease_owner(chunk)?.is_none() {
                count += 1;
            }
        }
        Ok(count)
    }
}

impl Pool {
    /// Chunks that can be taken for speed alone: wholly free ones for which the medium has memory,
    /// as far as that can be said.
    ///
    /// # Errors
    /// [`crate::Error::Damaged`], [`crate::Error::Io`].
    pub fn spare_chunks(&self) -> Result<u64> {
        let empty = u64::from(self.empty_chunks()?);
        if !self.must_provide() {
            return Ok(empty);
        }
        let on_medium = available_bytes(self.file(), self.medium())?;
        Ok(empty.min(on_medium / CHUNK_SIZE_BYTES))
    }
}

/// Chunks that a holder is about to give back: nothing is taken from them until this is dropped.
pub struct Vacating<'a> {
    leases: &'a Leases,
    chunks: Vec<ChunkNo>,
}

impl Vacating<'_> {
    /// The chunks, in order.
    pub fn chunks(&self) -> &[ChunkNo] {
        &self.chunks
    }
}

impl Drop for Vacating<'_> {
    fn drop(&mut self) {
        self.leases.end_vacating(&self.chunks);
    }
}

impl Holder {
    /// Blocks of the holder's leases that are neither its own nor in a snapshot: only this holder
    /// can take them.
    ///
    /// # Errors
    /// [`crate::Error::Damaged`].
    pub fn unused_blocks(&self) -> Result<u64> {
        let mut unused = 0;
        for (chunk, own) in self.leases.own() {
            let taken = self.pool.store.fill(chunk)?.taken();
            unused += u64::from(CHUNK_BLOCKS.saturating_sub(taken.saturating_add(own.count())));
        }
        Ok(unused)
    }

    /// A cheap upper bound of [`Holder::unused_blocks`].
    pub fn unused_blocks_at_most(&self) -> u64 {
        self.leases.table().unused_at_most()
    }

    /// Chooses leased chunks with few own blocks, at most `chunks_max`, such that the holder has
    /// `surplus` unused blocks less once they are given back. Their own blocks have room in the
    /// other leases.
    ///
    /// # Errors
    /// [`crate::Error::Damaged`].
    pub fn vacate(&self, surplus: u64, chunks_max: usize) -> Result<Vacating<'_>> {
        let mut sparse = Vec::new();
        for (chunk, own) in self.leases.own() {
            let taken = self.pool.store.fill(chunk)?.taken();
            sparse.push((
                own.count(),
                CHUNK_BLOCKS.saturating_sub(taken.saturating_add(own.count())),
                chunk,
            ));
        }
        sparse.sort_unstable();
        let mut room: u64 = sparse.iter().map(|(_, free, _)| u64::from(*free)).sum();
        let (mut moved, mut freed) = (0, 0);
        let mut chunks = Vec::new();
        for (own, free, chunk) in sparse {
            room -= u64::from(free);
            moved += u64::from(own);
            if freed >= surplus || moved > room || chunks.len() == chunks_max {
                break;
            }
            freed += u64::from(free);
            chunks.push(chunk);
        }
        self.leases.begin_vacating(&chunks);
        Ok(Vacating {
            leases: &self.leases,
            chunks,
        })
    }

    /// Takes free blocks of chunks that the holder has leased, and leases none. They read as zero,
    /// and the medium was not asked for their memory ([`Holder::provide`]).
    ///
    /// # Errors
    /// [`crate::Error::PoolFull`] when the leases have no room. Nothing was taken then.
    pub fn alloc_in_leases(&self, count: u32) -> Result<Vec<BlockNo>> {
        self.leases.alloc_in_leases(count)
    }
}
