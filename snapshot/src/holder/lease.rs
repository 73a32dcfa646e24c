//! Leased chunks: where a holder takes its blocks from, without asking other processes.
//!
//! A block of a chunk that is leased to the holder can be taken when it is not its *own* already
//! and no committed parent refers to it. Only the holder itself turns the latter from no to yes, so
//! no lock among processes is needed.
//!
//! Lock order: the catalog lock before the table of leases.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::catalog_lock::CatalogLock;
use crate::error::{Error, Result};
use crate::fault::{FaultPoint, fault_point};
use crate::handle::Pool;
use crate::number::{BlockNo, CHUNK_BLOCKS, ChunkNo, FrameIndex, FrameSet};
use crate::recovery::reclaim_dead_holders;
use crate::store::by_chunk;

/// The leases of one holder.
pub(crate) struct Leases {
    pub(crate) pool: Arc<Pool>,
    slot: u32,
    table: Mutex<LeaseTable>,
}

/// The leased chunks, with those of their blocks that are the holder's own.
#[derive(Default)]
pub(crate) struct LeaseTable {
    chunks: BTreeMap<ChunkNo, Lease>,
    /// Chunks that may have a block to take, but those that are set aside.
    with_room: BTreeSet<ChunkNo>,
    own_total: u32,
    closed: bool,
}

#[derive(Default)]
struct Lease {
    own: FrameSet,
    /// For `alloc_at` only, as long as other chunks have blocks.
    set_aside: bool,
    /// About to be given back: blocks are taken of it only when there is nothing else.
    vacating: bool,
}

impl Lease {
    fn is_open(&self) -> bool {
        !self.set_aside && !self.vacating
    }
}

/// Chunks that are looked at for a partly used one when an empty one is known.
const SEARCH_CHUNKS_MAX: u32 = 65_536;

/// The use that a chunk may have to be leased.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Want {
    /// All 512 blocks free.
    Empty,
    /// Some block free, rather in a chunk that is used already.
    AnyRoom,
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

    /// Leases an empty chunk and takes all of it, or sets it aside.
    pub(crate) fn lease_empty(&self, set_aside: bool) -> Result<ChunkNo> {
        let chunk = self.lease_unprovided(set_aside)?;
        if !set_aside
            && self.pool.must_provide()
            && let Err(error) = self.provide(&chunk.blocks().collect::<Vec<_>>())
        {
            // Nothing was ever in them, but some may have got memory.
            self.free(&chunk.blocks().collect::<Vec<_>>());
            return Err(error);
        }
        Ok(chunk)
    }

    /// The same, without asking the medium for memory: that takes time, in which others need the
    /// lock.
    pub(crate) fn lease_unprovided(&self, set_aside: bool) -> Result<ChunkNo> {
        let mut catalog = CatalogLock::take(&self.pool)?;
        let lease = Lease {
            own: if set_aside {
                FrameSet::EMPTY
            } else {
                FrameSet::FULL
            },
            set_aside,
            vacating: false,
        };
        let chunk = self.lease(&mut catalog, Want::Empty, lease)?;
        let Some(chunk) = chunk else {
            let free = self.pool.free_blocks(&catalog)?;
            return Err(Error::PoolFull {
                needed: u64::from(CHUNK_BLOCKS),
                free,
            });
        };
        Ok(chunk)
    }

    /// Leases one more chunk, if there is one. What is taken of it is so from the first moment:
    /// another thread looks for blocks in every lease that there is.
    fn lease(
        &self,
        catalog: &mut CatalogLock<'_>,
        want: Want,
        lease: Lease,
    ) -> Result<Option<ChunkNo>> {
        let mut found = self.find_chunk(want)?;
        if found.is_none() {
            reclaim_dead_holders(catalog)?;
            found = self.find_chunk(want)?;
        }
        let Some(chunk) = found else { return Ok(None) };
        let store = &self.pool.store;
        store.provide_tables(chunk)?;
        if want == Want::Empty {
            let counts = store.refcounts(chunk)?;
            if let Some((block, _)) = chunk.blocks().zip(counts).find(|(_, count)| *count != 0) {
                return Err(Error::damaged(format!(
                    "{chunk} says it is unused, but {block} is in use"
                )));
            }
        }
        let mut table = self.table();
        if table.closed {
            return Err(Error::invalid("the holder has been closed"));
        }
        store.set_lease_owner(chunk, Some(self.slot))?;
        fault_point(FaultPoint::LeaseTaken);
        table.own_total += lease.own.count();
        if want == Want::AnyRoom {
            table.with_room.insert(chunk);
        }
        table.chunks.insert(chunk, lease);
        // Before the catalog lock goes: a check must not find a lease that its holder does not
        // know.
        self.show_usage(&table)?;
        Ok(Some(chunk))
    }

    /// Looks for a chunk to lease, from where the last search ended: consecutive leases are
    /// neighbours if they can be.
    fn find_chunk(&self, want: Want) -> Result<Option<ChunkNo>> {
        let store = &self.pool.store;
        let count = store.layout.chunks();
        let start = self.pool.next_chunk() % count;
        let mut empty = None;
        let mut steps = count;
        for step in 0..count {
            if step >= steps {
                break;
            }
            let number = (u64::from(start) + u64::from(step)) % u64::from(count);
            let chunk =
                ChunkNo::new(number as u32).filter(|chunk| store.layout.is_data_chunk(*chunk));
            let Some(chunk) = chunk else { continue };
            if store.lease_owner(chunk)?.is_some() {
                continue;
            }
            let used = store.used_blocks(chunk)?;
            if used == 0 && empty.is_none() {
                empty = Some(chunk);
                steps = if want == Want::Empty {
                    0
                } else {
                    count.min(step + SEARCH_CHUNKS_MAX)
                };
            }
            if want == Want::AnyRoom && used > 0 && used < CHUNK_BLOCKS {
                return Ok(Some(chunk));
            }
        }
        if let Some(chunk) = empty {
            self.pool.set_next_chunk(chunk.get() + 1);
        }
        Ok(empty)
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
            let mut catalog = CatalogLock::take(&self.pool)?;
            if let Some(chunk) = self.lease(&mut catalog, Want::AnyRoom, Lease::default())? {
                leased.push(chunk);
                continue;
            }
            let mut table = self.table();
            table.take_anywhere(&self.pool, count, taken)?;
            if taken.len() == count {
                break;
            }
            let free = self.pool.free_blocks(&catalog)? + taken.len() as u64;
            return Err(Error::PoolFull {
                needed: count as u64,
                free,
            });
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

    /// Makes sure that the medium has memory for blocks.
    pub(crate) fn provide(&self, blocks: &[BlockNo]) -> Result<()> {
        let mut sorted = blocks.to_vec();
        sorted.sort_unstable();
        self.pool.store.provide_sorted(&sorted)
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

    fn give_back_if_empty(&self, table: &mut LeaseTable, chunk: ChunkNo) {
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
        if store.used_blocks(chunk)? == 0 {
            store.release_empty_chunk(chunk)?;
        }
        store.set_lease_owner(chunk, None)
    }

    /// Makes blocks the holder's own that a committed snapshot had until now. No other holder has
    /// leased their chunks.
    pub(crate) fn adopt(
        &self,
        table: &mut LeaseTable,
        chunk: ChunkNo,
        blocks: &FrameSet,
    ) -> Result<()> {
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
        self.show_usage(table)
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

    fn show_usage(&self, table: &LeaseTable) -> Result<()> {
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

    pub(crate) fn is_leased(&self, chunk: ChunkNo) -> bool {
        self.chunks.contains_key(&chunk)
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
