//! Stale chunks: whole chunks with old bytes in them, kept for copies.
//!
//! Freeing a chunk zeroes it, and taking a fresh one zeroes it again, before a copy overwrites all
//! of it. A holder whose commits remove snapshots, as those of a ring do, frees as many chunks as
//! it needs for the next copies. It keeps these chunks: they are its own from the moment that their
//! last reference goes. If its process dies, they are zeroed like all leased chunks.
//!
//! On a tmpfs fresh chunks are kept, too: those that the kernel has made one page each. To make one
//! may take milliseconds, so several are made before they are needed.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::Holder;
use crate::catalog_lock::Commit;
use crate::error::{Error, Result};
use crate::number::{BlockNo, CHUNK_SIZE_BYTES, ChunkNo, FrameSet};
use crate::region::Medium;

/// Chunks kept at most: 128 MiB.
const KEPT_MAX: usize = 64;

/// Chunks that a holder keeps for copies.
#[derive(Debug, Default)]
pub(super) struct Stale(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    chunks: Vec<ChunkNo>,
    /// Chunks taken for copies since the last commit: the next ones are likely to be as many.
    taken: usize,
    /// True when a chunk was used since this was last read.
    used: bool,
}

/// A chunk that is about to be overwritten by a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkForCopy {
    /// Its number.
    pub chunk: ChunkNo,
    /// True if it is one page of the medium, with memory behind it. Then [`Holder::copy_chunk`] is
    /// the fastest copy.
    pub one_page: bool,
}

impl Stale {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Holder {
    /// Takes a chunk that is to be overwritten as a whole, at once: all its blocks are the holder's
    /// own. Unlike those of [`Holder::alloc_chunk`] they may hold anything. Where it is one page it
    /// has memory, for [`Holder::copy_chunk`]; else pwrite(2) asks the medium for that.
    ///
    /// # Errors
    /// As those of [`Holder::alloc_chunk`].
    pub fn alloc_chunk_for_copy(&self) -> Result<ChunkForCopy> {
        let chunk = {
            let mut kept = self.stale.kept();
            kept.taken += 1;
            kept.used = true;
            kept.chunks.pop()
        };
        // The catalog lock, which this takes, comes before that of what is kept.
        let Some(chunk) = chunk else {
            if self.pool.medium() == Medium::Tmpfs {
                let chunk = self.leases.lease_unprovided(false)?;
                let one_page = false;
                return Ok(ChunkForCopy { chunk, one_page });
            }
            let chunk = self.leases.lease_empty(false)?;
            let one_page = self.pool.medium().page_bytes() == CHUNK_SIZE_BYTES;
            return Ok(ChunkForCopy { chunk, one_page });
        };
        let one_page = self.pool.medium().page_bytes() == CHUNK_SIZE_BYTES
            || self.pool.store.is_one_page(chunk);
        // Parts of it may never have been written, and so have no memory.
        if one_page {
            let blocks: Vec<BlockNo> = chunk.blocks().collect();
            if let Err(error) = self.provide(&blocks) {
                self.leases.free(&blocks);
                return Err(error);
            }
        }
        Ok(ChunkForCopy { chunk, one_page })
    }

    /// Makes `count` chunks ready for copies unless some are kept for them, each as one page of a
    /// tmpfs. Makes fewer, or none, where they cannot be had.
    ///
    /// # Errors
    /// [`crate::Error::PoolLocked`], [`crate::Error::Damaged`].
    pub fn make_ready(&self, count: usize) -> Result<()> {
        let region = &self.pool.store.region;
        if !self.stale.kept().chunks.is_empty() || !region.may_make_one_page() {
            return Ok(());
        }
        let count = region.pages_at_once(count.min(KEPT_MAX));
        let mut fresh = Vec::new();
        let leased = loop {
            if fresh.len() >= count {
                break Ok(());
            }
            match self.leases.lease_unprovided(false) {
                Ok(chunk) => fresh.push(chunk),
                Err(Error::PoolFull { .. }) => break Ok(()),
                Err(other) => break Err(other),
            }
        };
        fresh.sort_unstable();
        let mut ready = Vec::new();
        for run in fresh.chunk_by(|left, right| left.get() + 1 == right.get()) {
            if matches!(
                self.pool.store.make_one_page(run[0], run.len() as u32),
                Ok(true)
            ) {
                ready.extend_from_slice(run);
            } else {
                let blocks: Vec<BlockNo> = run.iter().flat_map(|chunk| chunk.blocks()).collect();
                self.leases.free(&blocks);
            }
        }
        let mut kept = self.stale.kept();
        // Chunks are taken from the end: neighbours in the order of their numbers.
        kept.chunks.splice(0..0, ready.into_iter().rev());
        kept.used = true;
        leased
    }

    /// Gives back the chunks that are kept for copies, unless some were used since this was last
    /// called and the pool has several times as many wholly free ones left. True when it gave back
    /// any.
    ///
    /// # Errors
    /// [`crate::Error::Damaged`].
    pub fn give_back_stale(&self) -> Result<bool> {
        let mut kept = self.stale.kept();
        if kept.chunks.is_empty() {
            return Ok(false);
        }
        let used = std::mem::take(&mut kept.used);
        if used && self.pool.empty_chunks()? as usize >= kept.chunks.len() * 4 {
            return Ok(false);
        }
        let chunks = std::mem::take(&mut kept.chunks);
        drop(kept);
        let blocks: Vec<BlockNo> = chunks.iter().flat_map(|chunk| chunk.blocks()).collect();
        self.leases.free(&blocks);
        Ok(true)
    }

    /// Settles a commit, and keeps what it has made free of whole chunks as far as copies are
    /// likely to need it.
    pub(super) fn settle_and_keep(&self, commit: Commit<'_, '_>) {
        if let Err(error) = self.keep_freed(commit) {
            tracing::error!(%error, "could not keep what a commit has freed");
        }
    }

    fn keep_freed(&self, commit: Commit<'_, '_>) -> Result<()> {
        let room = {
            let mut kept = self.stale.kept();
            let wanted = std::mem::take(&mut kept.taken).min(KEPT_MAX);
            wanted.saturating_sub(kept.chunks.len())
        };
        if room == 0 {
            commit.settle(|_| false);
            return Ok(());
        }
        // They are own ones before their last reference goes: no thread of this process takes a
        // block of them.
        let mut chunks = BTreeSet::new();
        let mut adopted = Ok(());
        for chunk in commit.freed_chunks() {
            if chunks.len() == room || adopted.is_err() {
                break;
            }
            adopted = self.adopt_freed(chunk).map(|own| {
                if own {
                    chunks.insert(chunk);
                }
            });
        }
        commit.settle(|block| chunks.contains(&block.chunk()));
        self.stale.kept().chunks.extend(chunks);
        adopted
    }

    /// Leases a chunk and makes it the holder's own, unless it is leased. True when it did.
    fn adopt_freed(&self, chunk: ChunkNo) -> Result<bool> {
        let free = self.pool.store.lease_owner(chunk)?.is_none();
        let leased = free && self.leases.lease_to_adopt(chunk)?;
        if leased {
            self.leases.adopt(chunk, &FrameSet::FULL)?;
        }
        Ok(leased)
    }
}
