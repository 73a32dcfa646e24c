//! Stale chunks: whole chunks with old bytes in them, kept for copies.
//!
//! Freeing a chunk zeroes it, and taking a fresh one zeroes it again, before a copy overwrites all
//! of it. A holder whose commits remove snapshots, as those of a ring do, frees as many chunks as
//! it needs for the next copies. It keeps these chunks: they are its own from the moment that their
//! last reference goes. If its process dies, they are zeroed like all leased chunks.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::Holder;
use crate::catalog_lock::Commit;
use crate::error::Result;
use crate::number::{BlockNo, ChunkNo, FrameSet};

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

impl Stale {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Holder {
    /// Takes a chunk that is to be overwritten as a whole, at once, by [`Holder::copy_chunk`]: all
    /// its blocks are the holder's own, with memory behind them. Unlike those of
    /// [`Holder::alloc_chunk`] they may hold anything.
    ///
    /// # Errors
    /// As those of [`Holder::alloc_chunk`].
    pub fn alloc_chunk_for_copy(&self) -> Result<ChunkNo> {
        let chunk = {
            let mut kept = self.stale.kept();
            kept.taken += 1;
            kept.used = true;
            kept.chunks.pop()
        };
        // The catalog lock, which this takes, comes before that of what is kept.
        let Some(chunk) = chunk else {
            return self.leases.lease_empty(false);
        };
        // Parts of it may never have been written, and so have no memory.
        let blocks: Vec<BlockNo> = chunk.blocks().collect();
        if let Err(error) = self.provide(&blocks) {
            self.leases.free(&blocks);
            return Err(error);
        }
        Ok(chunk)
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
