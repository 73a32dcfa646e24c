//! Recovery after a process or the host died.

use crate::catalog_lock::CatalogLock;
use crate::cleaner_lock::CleanerLock;
use crate::error::Result;
use crate::fault::{FaultPoint, fault_point};
use crate::handle::Pool;
use crate::layout::HOLDER_SLOTS;
use crate::layout::node::NodeKind;
use crate::layout::runtime::{DIRTY, DIRTY_OFFSET, RELEASING_OFFSET};
use crate::layout::segment::{OWNER_LOCKED, WAITING};
use crate::layout::superblock::CATALOG_HEIGHT;
use crate::number::{
    BLOCK_SIZE_BYTES, BlockNo, CHUNK_BLOCKS, CHUNK_SIZE_BYTES, ChunkNo, FrameIndex, FrameSet,
};
use crate::refs::{BlockNumbers, references};
use crate::store::{BlockStore, ChunkWords, Fill, WrittenCursor};
use crate::tree::{Frames, NodePlace, Visitor, walk};

impl<'p> CatalogLock<'p> {
    /// Takes the lock. If its last owner died while it changed reference counts, they are derived
    /// anew first.
    pub(crate) fn take(pool: &'p Pool) -> Result<CatalogLock<'p>> {
        let mut lock = CatalogLock::take_unrecovered(pool)?;
        if pool.store.region.load_u32(DIRTY_OFFSET)? == DIRTY {
            tracing::warn!(
                pool = %pool.path().display(),
                "a process died inside a commit: recovering reference counts"
            );
            rebuild(&mut lock)?;
        }
        end_dead_release(&lock)?;
        Ok(lock)
    }
}

/// Ends the lease of a cleaner that died while it gave a chunk's memory back. A living one is let
/// be.
pub(crate) fn end_dead_release(lock: &CatalogLock<'_>) -> Result<()> {
    let store = lock.store();
    if store.region.load_u32(RELEASING_OFFSET)? == 0 {
        return Ok(());
    }
    let Some(_cleaner) = CleanerLock::try_take(lock.pool)? else {
        return Ok(());
    };
    let word = store.region.load_u32(RELEASING_OFFSET)?;
    let chunk = word.checked_sub(1).and_then(ChunkNo::new);
    if let Some(chunk) = chunk.filter(|chunk| store.layout.is_data_chunk(*chunk))
        && store.lease_owner(chunk)? == Some(OWNER_LOCKED)
    {
        store.set_lease_owner(chunk, None)?;
    }
    store.region.store_u32(RELEASING_OFFSET, 0)
}

/// The reference counts that the committed catalog asks for.
pub(crate) fn derive_refs(lock: &CatalogLock<'_>) -> Result<BlockNumbers> {
    struct Count(BlockNumbers);
    impl Visitor for Count {
        fn frames(&mut self, frames: Frames<'_>) -> Result<()> {
            self.0.add_frames(frames);
            Ok(())
        }

        fn reference(&mut self, block: BlockNo) -> Result<bool> {
            Ok(self.0.add(block, 1) == 0)
        }
    }
    let store = lock.store();
    let root = lock.current()?.superblock.catalog_root(&store.layout)?;
    let mut count = Count(BlockNumbers::default());
    walk(
        store,
        root,
        NodePlace::root(NodeKind::Catalog, CATALOG_HEIGHT),
        &mut count,
    )?;
    Ok(count.0)
}

/// Derives all reference counts anew. What is free by them outside of living holders' leases, and
/// may hold something, waits to be cleaned; in a pool of an old version it is zeroed.
pub(crate) fn rebuild(lock: &mut CatalogLock<'_>) -> Result<()> {
    let store = lock.store();
    let _cleaner = CleanerLock::take(lock.pool)?;
    lock.forget();
    let derived = derive_refs(lock)?;
    lock.confirm_superblock()?;
    fault_point(FaultPoint::RecoverConfirmed);
    store.region.store_u32(DIRTY_OFFSET, DIRTY)?;
    let mut written_data = WrittenCursor::until(store.region.len_bytes());
    for segment in store.layout.segments() {
        // What is behind the tables is not worth asking for.
        let mut written_tables = WrittenCursor::until(segment.block_table_end());
        for chunk in (segment.first_chunk..segment.end_chunk()).filter_map(ChunkNo::new) {
            let table_start = store.layout.block_table_offset(chunk)?;
            let table = table_start..table_start + BLOCK_SIZE_BYTES;
            let counts = derived.of_chunk(chunk);
            let is_counted = counts.is_some() || written_tables.overlaps(&*store.region, table)?;
            if store.cleans_later {
                count_anew(store, chunk, counts, is_counted, &mut written_data)?;
                continue;
            }
            if is_counted {
                rebuild_chunk(store, chunk, counts)?;
            } else if store.fill(chunk)? != Fill::default() {
                store.set_fill(chunk, Fill::default())?;
            }
            if segment.is_data_chunk(chunk) {
                free_unleased(store, chunk, &mut written_data)?;
            }
        }
    }
    let mut leftover = Vec::new();
    let spare = store.layout.spare_bytes();
    for block in WrittenCursor::until(spare.end).blocks_in(&*store.region, spare)? {
        if store.refcount(block)? == 0 && !store.is_zero(block)? {
            leftover.push(block);
        }
    }
    store.punch_sorted(&leftover)?;
    fault_point(FaultPoint::RecoverCounted);
    store.region.store_u32(RELEASING_OFFSET, 0)?;
    store.region.store_u32(DIRTY_OFFSET, 0)
}

/// Sets a chunk's counts, and has wait what is free of it and may hold something. Holders go on
/// meanwhile: they take blocks of their leases, and lease chunks that nobody has leased.
fn count_anew(
    store: &BlockStore,
    chunk: ChunkNo,
    derived: Option<[i32; CHUNK_BLOCKS as usize]>,
    is_counted: bool,
    written: &mut WrittenCursor,
) -> Result<()> {
    let is_data = store.layout.is_data_chunk(chunk);
    let bytes = chunk.byte_offset()..chunk.byte_offset() + CHUNK_SIZE_BYTES;
    let owner = store.lease_owner(chunk)?;
    let is_touched = is_counted
        || store.fill(chunk)? != Fill::default()
        || owner.is_some()
        || (is_data && written.overlaps(&*store.region, bytes.clone())?);
    if !is_touched {
        return Ok(());
    }
    // Only a holder that may live takes blocks of it. Nobody else can lease it from here on.
    let is_held = match owner {
        Some(slot) => slot < HOLDER_SLOTS && store.holder_slot_is_used(slot)?,
        None => is_data && !store.try_lease(chunk, OWNER_LOCKED)?,
    };
    let before = store.refcounts(chunk)?;
    let mut after = derived
        .unwrap_or([0; CHUNK_BLOCKS as usize])
        .map(|count| u32::try_from(count).unwrap_or(0));
    if is_data {
        let mut may_hold = before.map(|count| count != 0);
        if !is_held {
            for block in written.blocks_in(&*store.region, bytes)? {
                may_hold[block.index_in_chunk().as_usize()] = true;
            }
        }
        for (count, may_hold) in after.iter_mut().zip(may_hold) {
            if *count == 0 && may_hold {
                *count = WAITING;
            }
        }
    }
    store.clear_digests(chunk, |place| references(after[place.as_usize()]) == 0)?;
    store.change_refcounts(chunk, &before, &after)?;
    let fill = Fill::of(&after);
    store.set_fill(chunk, fill)?;
    if fill.waiting > 0 {
        store.waiting_chunks.add(chunk);
    }
    if !is_held && is_data {
        store.set_lease_owner(chunk, None)?;
    }
    Ok(())
}

/// Zeroes what is free of a chunk, unless a holder has leased it that may live.
fn free_unleased(store: &BlockStore, chunk: ChunkNo, written: &mut WrittenCursor) -> Result<()> {
    let owner = store.lease_owner(chunk)?;
    if let Some(slot) = owner
        && slot < HOLDER_SLOTS
        && store.holder_slot_is_used(slot)?
    {
        return Ok(());
    }
    store.punch_unreferenced(chunk, written)?;
    if owner.is_some() {
        store.set_lease_owner(chunk, None)?;
    }
    Ok(())
}

fn rebuild_chunk(
    store: &BlockStore,
    chunk: ChunkNo,
    derived: Option<[i32; CHUNK_BLOCKS as usize]>,
) -> Result<()> {
    let after: ChunkWords = derived
        .unwrap_or([0; CHUNK_BLOCKS as usize])
        .map(|count| u32::try_from(count).unwrap_or(0));
    let before = store.refcounts(chunk)?;
    store.clear_digests(chunk, |place| after[place.as_usize()] == 0)?;
    let is_freed = |block: &BlockNo| {
        let index = block.index_in_chunk().as_usize();
        before[index] != 0 && after[index] == 0 && store.layout.is_usable(*block)
    };
    let freed: Vec<BlockNo> = chunk.blocks().filter(is_freed).collect();
    store.punch_sorted(&freed)?;
    store.change_refcounts(chunk, &before, &after)?;
    store.set_fill(chunk, Fill::of(&after))
}

/// Reclaims leases and pins of dead holders, and the orphans that only those pins kept.
pub(crate) fn reclaim_dead_holders(lock: &mut CatalogLock<'_>) -> Result<()> {
    let store = lock.store();
    let mut dead = Vec::new();
    for slot in 0..HOLDER_SLOTS {
        if store.holder_slot_is_used(slot)? && !lock.holder_lives(slot)? {
            dead.push(slot);
        }
    }
    if dead.is_empty() {
        return Ok(());
    }
    let mut leased = Vec::new();
    for chunk in store.layout.data_chunks() {
        if store
            .lease_owner(chunk)?
            .is_some_and(|owner| dead.contains(&owner))
        {
            leased.push(chunk);
        }
    }
    if store.cleans_later {
        for chunk in leased {
            let_free_wait(store, chunk)?;
            fault_point(FaultPoint::ReclaimFreed);
            store.set_lease_owner(chunk, None)?;
        }
    } else {
        zero_leased(store, &leased)?;
    }
    fault_point(FaultPoint::ReclaimLeasesEnded);
    lock.sweep_orphans(|_, _| false)?;
    for slot in dead {
        tracing::info!(
            slot,
            holder = store.holder_slot(slot)?.name(),
            "reclaimed what a dead holder left"
        );
        store.clear_holder_slot(slot)?;
    }
    fault_point(FaultPoint::ReclaimSlotsFree);
    Ok(())
}

/// Has all free blocks of a dead holder's chunk wait: they may hold anything.
fn let_free_wait(store: &BlockStore, chunk: ChunkNo) -> Result<()> {
    let counts = store.refcounts(chunk)?;
    let mut free = FrameSet::EMPTY;
    for place in FrameIndex::all().filter(|place| counts[place.as_usize()] == 0) {
        free.insert(place);
    }
    store.let_wait(chunk, &free)
}

/// Zeroes all free blocks of dead holders' chunks, in a pool of an old version, and ends the
/// leases.
fn zero_leased(store: &BlockStore, leased: &[ChunkNo]) -> Result<()> {
    for neighbours in leased.chunk_by(|left, right| left.get() + 1 == right.get()) {
        let first = neighbours[0].byte_offset();
        let mut written = WrittenCursor::until(first + neighbours.len() as u64 * CHUNK_SIZE_BYTES);
        for chunk in neighbours {
            store.punch_unreferenced(*chunk, &mut written)?;
            fault_point(FaultPoint::ReclaimFreed);
            if store.used_blocks(*chunk)? == 0 {
                store.release_empty_chunk(*chunk)?;
            }
            store.set_lease_owner(*chunk, None)?;
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "recovery_test.rs"]
mod recovery_test;
