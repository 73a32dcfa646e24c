//! Heads of disks whose holders are dead: what they logged counts from now on.
//!
//! A head's log ends in one of two ways. Its holder folds it into the map and ends it in order. Or
//! the holder dies: whoever takes back its leases first makes durable what it logged, then has the
//! blocks counted that the log refers to, and clears the nonce of its slot. The next one to attach
//! the disk folds the log.

use crate::catalog_lock::CatalogLock;
use crate::error::Result;
use crate::head_log::{Duty, cut_off, flush_for_dead, is_done, replay};
use crate::layout::HOLDER_SLOTS;
use crate::layout::inode::{HeadPlace, Inode};
use crate::layout::runtime::{DIRTY, DIRTY_OFFSET};
use crate::number::{BlockNo, FrameSet};
use crate::store::{BlockStore, by_chunk};

/// A head, and the size of its disk.
type Head = (HeadPlace, u64);

fn head_of(inode: &Inode) -> Result<Option<Head>> {
    let size_bytes = inode.disk_map().map_or(0, |map| map.size_bytes());
    Ok(inode.head().map(|head| (head.clone(), size_bytes)))
}

/// The heads of all disks for which `wanted` says so.
fn heads(
    lock: &mut CatalogLock<'_>,
    wanted: impl Fn(&HeadPlace) -> Result<bool>,
) -> Result<Vec<Head>> {
    let mut found = Vec::new();
    if !lock.store().keeps_disks {
        return Ok(found);
    }
    let listing = lock.listing()?;
    for listed in listing.disks() {
        if let Some(head) = head_of(&listed.inode)?
            && wanted(&head.0)?
        {
            found.push(head);
        }
    }
    Ok(found)
}

/// Ends all logs behind what was flushed: the host went down since they were written. To be called
/// before anything else is derived from them.
pub(crate) fn cut_off_unflushed(lock: &mut CatalogLock<'_>) -> Result<()> {
    let store = lock.store();
    if !is_done(Duty::CutOff) {
        return Ok(());
    }
    for (head, size_bytes) in heads(lock, |_| Ok(true))? {
        cut_off(store, &head, size_bytes)?;
    }
    Ok(())
}

/// Has the logs of dead holders' heads count, where all counts are about to be derived anew. The
/// dirty word is set afterwards if there are any.
pub(crate) fn count_all_dead(lock: &mut CatalogLock<'_>) -> Result<()> {
    let mut dead = Vec::new();
    for slot in 0..HOLDER_SLOTS {
        if lock.store().holder_slot_is_used(slot)? && !lock.holder_lives(slot)? {
            dead.push(slot);
        }
    }
    let heads = dead_heads(lock, &dead)?;
    if heads.is_empty() {
        return Ok(());
    }
    let store = lock.store();
    make_durable(store, &heads)?;
    store.region.store_u32(DIRTY_OFFSET, DIRTY)?;
    clear_nonces(store, &heads)
}

/// Has the logs of these dead holders' heads count, and nothing else changes.
pub(crate) fn count_dead(lock: &mut CatalogLock<'_>, dead: &[u32]) -> Result<()> {
    let heads = dead_heads(lock, dead)?;
    if heads.is_empty() {
        return Ok(());
    }
    let store = lock.store();
    make_durable(store, &heads)?;
    store.region.store_u32(DIRTY_OFFSET, DIRTY)?;
    for (head, size_bytes) in &heads {
        let mut blocks = replay(store, head, *size_bytes)?.overlay.blocks();
        blocks.sort_unstable();
        for blocks in by_chunk(&blocks) {
            count(store, blocks)?;
        }
    }
    clear_nonces(store, &heads)?;
    store.region.store_u32(DIRTY_OFFSET, 0)
}

fn dead_heads(lock: &mut CatalogLock<'_>, dead: &[u32]) -> Result<Vec<Head>> {
    if dead.is_empty() {
        return Ok(Vec::new());
    }
    let store = lock.store();
    heads(lock, |head| {
        Ok(dead.contains(&head.slot) && store.is_held(head)?)
    })
}

/// From here on blocks may be reused that unflushed records took out of a map: a power cut must not
/// bring those back.
fn make_durable(store: &BlockStore, heads: &[Head]) -> Result<()> {
    let mut heads = heads.iter();
    heads.try_for_each(|(head, size_bytes)| flush_for_dead(store, head, *size_bytes))
}

fn clear_nonces(store: &BlockStore, heads: &[Head]) -> Result<()> {
    heads
        .iter()
        .try_for_each(|(head, _)| store.clear_nonce(head.slot))
}

/// Gives blocks of a chunk, which leases have protected so far, the count 1.
fn count(store: &BlockStore, blocks: &[BlockNo]) -> Result<()> {
    let chunk = blocks[0].chunk();
    let before = store.refcounts(chunk)?;
    let (mut after, mut counted) = (before, FrameSet::EMPTY);
    for block in blocks {
        let place = block.index_in_chunk();
        if before[place.as_usize()] == 0 {
            after[place.as_usize()] = 1;
            counted.insert(place);
        }
    }
    store.clear_digests(chunk, |place| counted.contains(place))?;
    store.change_fill(chunk, counted.count() as i32, 0)?;
    store.change_refcounts(chunk, &before, &after)
}
