//! Recovery after a process or the host died.

use crate::catalog_lock::CatalogLock;
use crate::error::Result;
use crate::fault::{FaultPoint, fault_point};
use crate::handle::Pool;
use crate::layout::HOLDER_SLOTS;
use crate::layout::node::NodeKind;
use crate::layout::runtime::{DIRTY, DIRTY_OFFSET};
use crate::layout::superblock::CATALOG_HEIGHT;
use crate::number::{BLOCK_SIZE_BYTES, BlockNo, CHUNK_BLOCKS, CHUNK_SIZE_BYTES, ChunkNo};
use crate::refs::{BlockNumbers, used};
use crate::store::{BlockStore, ChunkWords, WrittenCursor};
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
        Ok(lock)
    }
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

/// Derives all reference counts anew, and zeroes what is free by them outside of living holders'
/// leases.
pub(crate) fn rebuild(lock: &mut CatalogLock<'_>) -> Result<()> {
    let store = lock.store();
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
            if counts.is_some() || written_tables.overlaps(&*store.region, table)? {
                rebuild_chunk(store, chunk, counts)?;
            } else if store.used_blocks(chunk)? != 0 {
                store.set_used_blocks(chunk, 0)?;
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
    store.region.store_u32(DIRTY_OFFSET, 0)
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
    store.set_used_blocks(chunk, used(&after))
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
    for neighbours in leased.chunk_by(|left, right| left.get() + 1 == right.get()) {
        let first = neighbours[0].byte_offset();
        let mut written = WrittenCursor::until(first + neighbours.len() as u64 * CHUNK_SIZE_BYTES);
        for chunk in neighbours {
            store.punch_unreferenced(*chunk, &mut written)?;
            fault_point(FaultPoint::ReclaimZeroed);
            if store.used_blocks(*chunk)? == 0 {
                store.release_empty_chunk(*chunk)?;
            }
            store.set_lease_owner(*chunk, None)?;
        }
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

#[cfg(test)]
#[path = "recovery_test.rs"]
mod recovery_test;
