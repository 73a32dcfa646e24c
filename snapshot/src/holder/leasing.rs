//! Leasing chunks.
//!
//! A chunk is leased by one atomic exchange of its owner in the chunk table. So no guest waits for
//! the catalog lock to get blocks, as long as the pool has any. In a pool of an old version chunks
//! are leased under the catalog lock.

use super::lease::{Lease, Leases};
use crate::catalog_lock::CatalogLock;
use crate::cleaning::Pace;
use crate::error::{Error, Result};
use crate::fault::{FaultPoint, fault_point};
use crate::number::{CHUNK_BLOCKS, ChunkNo, FrameSet};
use crate::recovery::reclaim_dead_holders;

/// Chunks that are looked at for a partly used one when an empty one is known.
const SEARCH_CHUNKS_MAX: u32 = 65_536;

/// The use that a chunk may have to be leased.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Want {
    /// All 512 blocks free.
    Empty,
    /// Some block free, rather in a chunk that is used already.
    AnyRoom,
}

impl Leases {
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

    /// The same, without asking the medium for memory.
    pub(crate) fn lease_unprovided(&self, set_aside: bool) -> Result<ChunkNo> {
        let lease = || Lease {
            own: if set_aside {
                FrameSet::EMPTY
            } else {
                FrameSet::FULL
            },
            set_aside,
            vacating: false,
        };
        loop {
            if let Some(chunk) = self.lease_at_once(Want::Empty, lease)? {
                return Ok(chunk);
            }
            let mut catalog = CatalogLock::take(&self.pool)?;
            if let Some(chunk) = self.lease_of_dead(&mut catalog, Want::Empty, lease)? {
                return Ok(chunk);
            }
            let free = self.pool.free_blocks(&catalog)?;
            drop(catalog);
            if !self.help_cleaning(Want::Empty)? {
                return Err(Error::PoolFull {
                    needed: u64::from(CHUNK_BLOCKS),
                    free,
                });
            }
        }
    }

    /// Leases one more chunk without the catalog lock, if there is one and the pool's version
    /// allows it.
    pub(super) fn lease_at_once(
        &self,
        want: Want,
        lease: impl Fn() -> Lease,
    ) -> Result<Option<ChunkNo>> {
        if !self.pool.store.cleans_later {
            return Ok(None);
        }
        self.lease(want, lease)
    }

    /// Leases one more chunk, if there is one once dead holders have none.
    pub(super) fn lease_of_dead(
        &self,
        catalog: &mut CatalogLock<'_>,
        want: Want,
        lease: impl Fn() -> Lease,
    ) -> Result<Option<ChunkNo>> {
        if let Some(chunk) = self.lease(want, &lease)? {
            return Ok(Some(chunk));
        }
        reclaim_dead_holders(catalog)?;
        self.lease(want, lease)
    }

    /// Leases one more chunk, if there is one. What is taken of it is so from the first moment:
    /// another thread looks for blocks in every lease that there is.
    fn lease(&self, want: Want, lease: impl Fn() -> Lease) -> Result<Option<ChunkNo>> {
        let store = &self.pool.store;
        while let Some(chunk) = self.find_chunk(want)? {
            self.with_memory(|| store.provide_tables(chunk))?;
            let mut table = self.table();
            if table.closed {
                return Err(Error::invalid("the holder has been closed"));
            }
            // Before the lease: a check must not find one that its holder does not know.
            let leases = table.chunks.len() as u32 + 1;
            store.set_holder_usage(self.slot, leases, table.own_total)?;
            if !store.try_lease(chunk, self.slot)? {
                continue;
            }
            fault_point(FaultPoint::LeaseTaken);
            // Until now others could lease it and use blocks of it.
            let taken = store.fill(chunk)?.taken();
            if taken >= CHUNK_BLOCKS || (want == Want::Empty && taken > 0) {
                store.set_lease_owner(chunk, None)?;
                continue;
            }
            if want == Want::Empty {
                let counts = store.refcounts(chunk)?;
                if let Some((block, _)) = chunk.blocks().zip(counts).find(|(_, count)| *count != 0)
                {
                    store.set_lease_owner(chunk, None)?;
                    return Err(Error::damaged(format!(
                        "{chunk} says it is unused, but {block} is in use"
                    )));
                }
            }
            let lease = lease();
            table.own_total += lease.own.count();
            if want == Want::AnyRoom {
                table.with_room.insert(chunk);
            }
            table.chunks.insert(chunk, lease);
            self.show_usage(&table)?;
            return Ok(Some(chunk));
        }
        self.show_usage(&self.table())?;
        Ok(None)
    }

    /// Cleans freed blocks of a chunk that this holder could use then, at once. False when there
    /// is none: the pool is full.
    pub(super) fn help_cleaning(&self, want: Want) -> Result<bool> {
        let store = &self.pool.store;
        for chunk in store.layout.data_chunks() {
            let fill = store.fill(chunk)?;
            let owner = store.lease_owner(chunk)?;
            let helps = match want {
                Want::Empty => fill.used == 0 && owner.is_none(),
                Want::AnyRoom => owner.is_none_or(|slot| slot == self.slot),
            };
            if fill.waiting == 0 || !helps {
                continue;
            }
            let cleaned = self.pool.clean_chunk(chunk, Pace::Fast)?;
            // Or another one has.
            if cleaned > 0 || store.fill(chunk)?.waiting < fill.waiting {
                return Ok(true);
            }
        }
        Ok(false)
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
            let taken = store.fill(chunk)?.taken();
            if taken == 0 && empty.is_none() {
                empty = Some(chunk);
                steps = if want == Want::Empty {
                    0
                } else {
                    count.min(step + SEARCH_CHUNKS_MAX)
                };
            }
            if want == Want::AnyRoom && taken > 0 && taken < CHUNK_BLOCKS {
                return Ok(Some(chunk));
            }
        }
        if let Some(chunk) = empty {
            self.pool.set_next_chunk(chunk.get() + 1);
        }
        Ok(empty)
    }

    /// Leases a chunk of which blocks are to be adopted, if nobody else has. True when this holder
    /// has it.
    pub(crate) fn lease_to_adopt(&self, chunk: ChunkNo) -> Result<bool> {
        let mut table = self.table();
        if table.chunks.contains_key(&chunk) {
            return Ok(true);
        }
        let leased = self.pool.store.try_lease(chunk, self.slot)?;
        if leased {
            table.chunks.insert(chunk, Lease::default());
            self.show_usage(&table)?;
        }
        Ok(leased)
    }

    /// Gives chunks back of which nothing was adopted.
    pub(crate) fn end_unused(&self, chunks: impl IntoIterator<Item = ChunkNo>) {
        let mut table = self.table();
        for chunk in chunks {
            self.give_back_if_empty(&mut table, chunk);
        }
    }
}
