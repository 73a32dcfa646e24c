//! The space that a reception may take.
//!
//! Where others use the pool, a part of its free space stays free for them: a sixteenth of the pool
//! and at least 64 MiB, but not more than a quarter of it. A stream that says that it needs more
//! than the rest is refused before anything lands. One that takes more is ended when it does.

use std::sync::Arc;

use crate::catalog_lock::CatalogLock;
use crate::error::{Error, Result};
use crate::handle::Pool;
use crate::layout::HOLDER_SLOTS;
use crate::number::{BLOCK_SIZE_BYTES, CHUNK_BLOCKS};
use crate::region::available_bytes;

/// Least reserve in a pool that is large enough.
const RESERVE_BLOCKS: u64 = (64 << 20) / BLOCK_SIZE_BYTES;
/// Parts of the pool that the reserve is at least and at most.
const RESERVE_PARTS: u64 = 16;
const RESERVE_PARTS_MAX: u64 = 4;
/// Blocks of maps and other metadata that come beside what is stored between two looks: a chunk.
const METADATA_BLOCKS: u64 = CHUNK_BLOCKS as u64;
/// Blocks that may be taken between two looks at the pool when nobody else uses it.
const STEP_BLOCKS: u64 = 4096;

/// The blocks that others keep, of a pool with so many.
fn reserve_of(pool_blocks: u64) -> u64 {
    let most = pool_blocks / RESERVE_PARTS_MAX;
    (pool_blocks / RESERVE_PARTS).max(RESERVE_BLOCKS).min(most)
}

/// The space of a pool at one moment.
#[derive(Debug, Clone, Copy)]
struct Space {
    place: &'static str,
    free: u64,
    reserve: u64,
}

impl Space {
    /// Looks at the pool as the holder of a slot.
    fn of(pool: &Pool, slot: u32) -> Result<Space> {
        let lock = CatalogLock::take(pool)?;
        let mut has_others = false;
        for other in (0..HOLDER_SLOTS).filter(|other| *other != slot) {
            has_others = has_others
                || lock.store().holder_slot_is_used(other)? && lock.holder_lives(other)?;
        }
        let space = Space {
            place: "the pool",
            free: pool.free_blocks(&lock)?,
            reserve: if has_others {
                reserve_of(lock.store().layout.blocks())
            } else {
                0
            },
        };
        drop(lock);
        if !pool.overcommit() {
            return Ok(space);
        }
        let on_medium = available_bytes(pool.file(), pool.medium())? / BLOCK_SIZE_BYTES;
        Ok(match on_medium < space.free {
            true => Space {
                place: "the pool's medium",
                free: on_medium,
                ..space
            },
            false => space,
        })
    }

    fn usable(&self) -> u64 {
        self.free.saturating_sub(self.reserve)
    }

    fn too_small(&self, needed: u64) -> Error {
        Error::NoRoom {
            place: self.place,
            needed_bytes: needed.saturating_mul(BLOCK_SIZE_BYTES),
            free_bytes: self.free * BLOCK_SIZE_BYTES,
            reserve_bytes: self.reserve * BLOCK_SIZE_BYTES,
        }
    }
}

/// The allowance of a reception.
pub(super) struct Room {
    pool: Arc<Pool>,
    /// The reception's own holder.
    slot: u32,
    limit_bytes: Option<u64>,
    /// Blocks that were stored.
    taken: u64,
    /// Blocks that may be stored before the next look at the pool.
    left: u64,
    has_others: bool,
}

impl Room {
    /// Checks that `needed` blocks have room, as far as the stream says it. Nothing is taken.
    ///
    /// # Errors
    /// [`Error::NoRoom`], [`Error::OverLimit`].
    pub(super) fn begin(
        pool: &Arc<Pool>,
        slot: u32,
        limit_bytes: Option<u64>,
        needed: u64,
    ) -> Result<Room> {
        let space = Space::of(pool, slot)?;
        let mut room = Room {
            pool: Arc::clone(pool),
            slot,
            limit_bytes,
            taken: 0,
            left: 0,
            has_others: space.reserve > 0,
        };
        room.check_limit(needed)?;
        if space.usable() < needed {
            return Err(space.too_small(needed));
        }
        room.allow(&space);
        Ok(room)
    }

    /// Takes room for blocks that are about to be stored.
    ///
    /// # Errors
    /// [`Error::NoRoom`], [`Error::OverLimit`].
    pub(super) fn take(&mut self, blocks: u64) -> Result<()> {
        self.check_limit(blocks)?;
        if self.left < blocks {
            let space = Space::of(&self.pool, self.slot)?;
            self.allow(&space);
            // Alone in the pool it may take all, also the rest of the chunks that it has leased.
            let needed = blocks + METADATA_BLOCKS;
            if self.has_others && space.usable() < needed {
                return Err(space.too_small(needed));
            }
        }
        self.left = self.left.saturating_sub(blocks);
        self.taken += blocks;
        Ok(())
    }

    /// True when others used the pool at the last look.
    pub(super) fn has_others(&self) -> bool {
        self.has_others
    }

    fn allow(&mut self, space: &Space) {
        self.has_others = space.reserve > 0;
        // Others take blocks, too: what they take between two looks is a part of the reserve.
        let step = match self.has_others {
            true => (space.reserve / 4).max(METADATA_BLOCKS),
            false => STEP_BLOCKS,
        };
        self.left = space.usable().saturating_sub(METADATA_BLOCKS).min(step);
    }

    fn check_limit(&self, more: u64) -> Result<()> {
        let needed_bytes = self
            .taken
            .saturating_add(more)
            .saturating_mul(BLOCK_SIZE_BYTES);
        match self.limit_bytes {
            Some(limit_bytes) if needed_bytes > limit_bytes => Err(Error::OverLimit {
                needed_bytes,
                limit_bytes,
            }),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
#[path = "room_test.rs"]
mod room_test;
