//! Leased chunks: where a holder takes its blocks from, without asking other processes.
//!
//! A block of a chunk that is leased to the holder can be taken when it is not its *own* already
//! and no committed parent refers to it. Only the holder itself turns the latter from no to yes, so
//! no lock among processes is needed.
//!
//! Lock order: the catalog lock before the table of leases.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::leasing::Want;
use crate::catalog_lock::CatalogLock;
use crate::cleaning::Pace;
use crate::error::{Error, Result};
use crate::fault::{FaultPoint, fault_point};
use crate::handle::Pool;
use crate::number::{BlockNo, CHUNK_BLOCKS, ChunkNo, FrameIndex, FrameSet};
use crate::store::by_chunk;

/// The leases of one holder.
pub(crate) struct Leases {
    pub(crate) pool: Arc<Pool>,
    pub(super) slot: u32,
    table: Mutex<LeaseTable>,
}

/// The leased chunks, with those of their blocks that are the holder's own.
#[derive(Default)]
pub(crate) struct LeaseTable {
    pub(super) chunks: BTreeMap<ChunkNo, Lease>,
    /// Chunks that may have a block to take, but those that are set aside.
    pub(super) with_room: BTreeSet<ChunkNo>,
    pub(super) own_total: u32,
    pub(super) closed: bool,
}

#[derive(Default)]
pub(super) struct Lease {
    pub(super) own: FrameSet,
    /// For `alloc_at` only, as long as other chunks have blocks.
    pub(super) set_aside: bool,
    /// About to be given back: blocks are taken of it only when there is nothing else.
    pub(super) vacating: bool,
}

impl Lease {
    fn is_open(&self) -> bool {
        !self.set_aside && !self.vacating
    }
}

impl Leases {
    pub(crate) fn new(pool: Arc<Pool>, slot: u32) -> Leases {
        Leases {
            pool,
            slot,
            table: Mutex::default(),
        }
    }

    pub(crate) fn table(&self) -> MutexGuard<'_, LeaseTable> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes blocks: from chunks that are leased, else from one more chunk, else from those set
    /// aside. The medium is not asked for their memory.
    pub(crate) fn alloc(&self, count: u32) -> Result<Vec<BlockNo>> {
        let mut taken = Vec::with_capacity(count as usize);
        let mut leased = Vec::new();
        let done = self.alloc_into(count as usize, &mut taken, &mut leased);
        if done.is_err() {
            self.free(&taken);
        }
        // Another thread may have freed blocks meanwhile, so that a chunk was leased and then not
        // needed.
        let mut table = self.table();
        for chunk in leased {
            self.give_back_if_empty(&mut table, chunk);
        }
        self.show_usage(&table)?;
        drop(table);
        done.map(|()| taken)
    }

    fn alloc_into(
        &self,
        count: usize,
        taken: &mut Vec<BlockNo>,
        leased: &mut Vec<ChunkNo>,
    ) -> Result<()> {
        loop {
            self.table().take_with_room(&self.pool, count, taken)?;
            if taken.len() == count {
                break;
            }
            if let Some(chunk) = self.lease_at_once(Want::AnyRoom, Lease::default)? {
                leased.push(chunk);
                continue;
            }
            let mut catalog = CatalogLock::take(&self.pool)?;
            if let Some(chunk) = self.lease_of_dead(&mut catalog, Want::AnyRoom, Lease::default)? {
                leased.push(chunk);
                continue;
            }
            let mut table = self.table();
            table.take_anywhere(&self.pool, count, taken)?;
            if taken.len() == count {
                break;
            }
            drop(table);
            let free = self.pool.free_blocks(&catalog)? + taken.len() as u64;
            drop(catalog);
            if !self.help_cleaning(Want::AnyRoom)? {
                return Err(Error::PoolFull {
                    needed: count as u64,
                    free,
                });
            }
        }
        Ok(())
    }

    /// Takes blocks like [`Leases::alloc`], with memory behind them.
    pub(crate) fn alloc_provided(&self, count: u32) -> Result<Vec<BlockNo>> {
        let taken = self.alloc(count)?;
        if self.pool.must_provide()
            && let Err(error) = self.provide(&taken)
        {
            self.free(&taken);
            return Err(error);
        }
        Ok(taken)
    }

    /// Makes sure that the medium has memory for blocks. Freed blocks that wait to be cleaned have
    /// some.
    pub(crate) fn provide(&self, blocks: &[BlockNo]) -> Result<()> {
        let mut sorted = blocks.to_vec();
        sorted.sort_unstable();
        self.with_memory(|| self.pool.store.provide_sorted(&sorted))
    }

    /// Asks the medium for memory. While it has none, blocks are cleaned that have some.
    pub(super) fn with_memory(&self, ask: impl Fn() -> Result<()>) -> Result<()> {
        loop {
            let provided = ask();
            if !matches!(provided, Err(Error::MediumFull { .. }))
                || self.pool.clean_some(1, Pace::Fast)? == 0
            {
                return provided;
            }
        }
    }

    /// Takes one given block, if it can be taken. The medium is not asked for its memory.
    pub(crate) fn alloc_at(&self, chunk: ChunkNo, place: FrameIndex) -> bool {
        let block = chunk.block(place);
        let mut table = self.table();
        let Some(lease) = table.chunks.get_mut(&chunk) else {
            return false;
        };
        if lease.own.contains(place) || !matches!(self.pool.store.refcount(block), Ok(0)) {
            return false;
        }
        lease.own.insert(place);
        table.own_total += 1;
        self.show_usage(&table).is_ok()
    }

    /// Lets `alloc` use a chunk that was set aside, or gives it back.
    pub(crate) fn end_set_aside(&self, chunk: ChunkNo) {
        let mut table = self.table();
        let Some(lease) = table.chunks.get_mut(&chunk) else {
            return;
        };
        lease.set_aside = false;
        if lease.is_open() {
            table.with_room.insert(chunk);
        }
        self.give_back_if_empty(&mut table, chunk);
    }

    /// Takes blocks of chunks that are leased, but those that are set aside or being vacated. The
    /// medium is not asked for their memory.
    pub(crate) fn alloc_in_leases(&self, count: u32) -> Result<Vec<BlockNo>> {
        let mut taken = Vec::with_capacity(count as usize);
        let done = self
            .table()
            .take_with_room(&self.pool, count as usize, &mut taken)
            .and_then(|()| match u32::try_from(taken.len()) {
                Ok(found) if found < count => Err(Error::PoolFull {
                    needed: u64::from(count),
                    free: u64::from(found),
                }),
                _ => Ok(()),
            });
        if let Err(error) = done {
            self.free(&taken);
            return Err(error);
        }
        self.show_usage(&self.table())?;
        Ok(taken)
    }

    pub(crate) fn begin_vacating(&self, chunks: &[ChunkNo]) {
        let mut table = self.table();
        for chunk in chunks {
            if let Some(lease) = table.chunks.get_mut(chunk) {
                lease.vacating = true;
                table.with_room.remove(chunk);
            }
        }
    }

    pub(crate) fn end_vacating(&self, chunks: &[ChunkNo]) {
        let mut table = self.table();
        for chunk in chunks {
            if let Some(lease) = table.chunks.get_mut(chunk) {
                lease.vacating = false;
                if lease.is_open() {
                    table.with_room.insert(*chunk);
                }
            }
        }
    }

    /// Zeroes own blocks and releases them.
    pub(crate) fn free(&self, blocks: &[BlockNo]) {
        let mut own: Vec<BlockNo> = {
            let table = self.table();
            blocks
                .iter()
                .copied()
                .filter(|block| table.is_own(*block))
                .collect()
        };
        if own.len() != blocks.len() {
            tracing::error!(
                not_own = blocks.len() - own.len(),
                "asked to free blocks that are not this holder's"
            );
        }
        own.sort_unstable();
        own.dedup();
        if let Err(error) = self.pool.store.punch_sorted(&own) {
            // They stay own ones: nobody may get them with the bytes that are in them.
            tracing::error!(%error, "could not zero freed blocks of the pool");
            return;
        }
        fault_point(FaultPoint::BlocksZeroed);
        self.release(&own);
    }

    /// Ends that blocks are the holder's own: they are committed, or zeroed.
    pub(crate) fn release(&self, blocks: &[BlockNo]) {
        let mut table = self.table();
        for blocks in by_chunk(blocks) {
            let chunk = blocks[0].chunk();
            let Some(lease) = table.chunks.get_mut(&chunk) else {
                continue;
            };
            let gone = blocks
                .iter()
                .map(|block| u32::from(lease.own.remove(block.index_in_chunk())))
                .sum::<u32>();
            if gone == 0 {
                continue;
            }
            let (open, empty) = (lease.is_open(), lease.own.is_empty());
            table.own_total -= gone;
            if open {
                table.with_room.insert(chunk);
            }
            if empty {
                self.give_back_if_empty(&mut table, chunk);
            }
        }
        if let Err(error) = self.show_usage(&table) {
            tracing::error!(%error, "could not update the holder's slot");
        }
    }

    pub(super) fn give_back_if_empty(&self, table: &mut LeaseTable, chunk: ChunkNo) {
        if !table
            .chunks
            .get(&chunk)
            .is_some_and(|lease| lease.own.is_empty() && !lease.set_aside)
        {
            return;
        }
        table.chunks.remove(&chunk);
        table.with_room.remove(&chunk);
        if let Err(error) = self.end_lease(chunk) {
            tracing::error!(%error, %chunk, "could not give a lease back");
        }
    }

    fn end_lease(&self, chunk: ChunkNo) -> Result<()> {
        let store = &self.pool.store;
        if store.fill(chunk)?.taken() == 0 {
            store.release_empty_chunk(chunk)?;
        }
        store.set_lease_owner(chunk, None)
    }

    /// Makes blocks the holder's own that a committed snapshot has until now. Their chunks are
    /// leased to the holder. A thread that looks for blocks does not get them once nothing refers
    /// to them.
    pub(crate) fn adopt(&self, chunk: ChunkNo, blocks: &FrameSet) -> Result<()> {
        let mut table = self.table();
        let lease = table.chunks.entry(chunk).or_default();
        let mut added = 0;
        for place in blocks.places() {
            added += u32::from(lease.own.insert(place));
        }
        let room = lease.is_open();
        table.own_total += added;
        if room {
            table.with_room.insert(chunk);
        }
        self.show_usage(&table)
    }

    /// Gives everything back. Nothing can be taken afterwards.
    pub(crate) fn close(&self) -> Result<()> {
        let mut table = self.table();
        table.closed = true;
        let mut done = Ok(());
        for (chunk, lease) in std::mem::take(&mut table.chunks) {
            let own: Vec<BlockNo> = lease.own.places().map(|place| chunk.block(place)).collect();
            // What fails stays leased until the holder counts as dead.
            let ended = self
                .pool
                .store
                .punch_sorted(&own)
                .and_then(|()| self.end_lease(chunk));
            done = done.and(ended);
        }
        table.with_room.clear();
        table.own_total = 0;
        done
    }

    /// The own blocks of every leased chunk.
    pub(crate) fn own(&self) -> BTreeMap<ChunkNo, FrameSet> {
        self.table()
            .chunks
            .iter()
            .map(|(chunk, lease)| (*chunk, lease.own))
            .collect()
    }

    pub(super) fn show_usage(&self, table: &LeaseTable) -> Result<()> {
        self.pool
            .store
            .set_holder_usage(self.slot, table.chunks.len() as u32, table.own_total)
    }
}

impl LeaseTable {
    pub(crate) fn is_own(&self, block: BlockNo) -> bool {
        self.chunks
            .get(&block.chunk())
            .is_some_and(|lease| lease.own.contains(block.index_in_chunk()))
    }

    /// Blocks of leases that are not the holder's own: some may be in a snapshot.
    pub(crate) fn unused_at_most(&self) -> u64 {
        (self.chunks.len() as u64 * u64::from(CHUNK_BLOCKS))
            .saturating_sub(u64::from(self.own_total))
    }

    fn take_with_room(
        &mut self,
        pool: &Pool,
        count: usize,
        taken: &mut Vec<BlockNo>,
    ) -> Result<()> {
        while taken.len() < count
            && let Some(chunk) = self.with_room.first().copied()
        {
            if !self.take_from(pool, chunk, count, taken)? {
                self.with_room.remove(&chunk);
            }
        }
        Ok(())
    }

    /// Looks into every lease: a block may have become free since, and those set aside are better
    /// than none.
    fn take_anywhere(&mut self, pool: &Pool, count: usize, taken: &mut Vec<BlockNo>) -> Result<()> {
        let mut chunks: Vec<(bool, ChunkNo)> = self
            .chunks
            .iter()
            .map(|(chunk, lease)| (!lease.is_open(), *chunk))
            .collect();
        chunks.sort_unstable();
        for (_, chunk) in chunks {
            self.take_from(pool, chunk, count, taken)?;
        }
        Ok(())
    }

    /// Takes free blocks of one chunk until there are `count`. True when the chunk may have more.
    fn take_from(
        &mut self,
        pool: &Pool,
        chunk: ChunkNo,
        count: usize,
        taken: &mut Vec<BlockNo>,
    ) -> Result<bool> {
        let Some(lease) = self.chunks.get_mut(&chunk) else {
            return Ok(false);
        };
        let taken_before = lease.own;
        for index in taken_before.iter_absent() {
            if taken.len() == count {
                return Ok(true);
            }
            let block = chunk.block(index);
            if pool.store.refcount(block)? == 0 {
                lease.own.insert(index);
                self.own_total += 1;
                taken.push(block);
            }
        }
        Ok(false)
    }
}
