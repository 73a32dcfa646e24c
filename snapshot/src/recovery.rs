//! What is done after a process or the host died.

use crate::catalog::CatalogLock;
use crate::error::Result;
use crate::fault::{FaultPoint, fault_point};
use crate::layout::HOLDER_SLOTS;
use crate::layout::node::NodeKind;
use crate::layout::runtime::{DIRTY, DIRTY_OFFSET};
use crate::layout::superblock::CATALOG_HEIGHT;
use crate::number::{BLOCK_SIZE_BYTES, BlockNo, CHUNK_SIZE_BYTES, ChunkNo};
use crate::refs::BlockNumbers;
use crate::store::{BlockStore, WrittenCursor};
use crate::tree::{Place, Visitor, walk};

/// The reference counts that the committed catalog asks for.
pub(crate) fn derive_refs(lock: &CatalogLock<'_>) -> Result<BlockNumbers> {
    struct Count(BlockNumbers);
    impl Visitor for Count {
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
        Place::root(NodeKind::Catalog, CATALOG_HEIGHT),
        &mut count,
    )?;
    Ok(count.0)
}

/// Derives all reference counts anew, and zeroes what is free by them outside of living holders' leases.
pub(crate) fn rebuild(lock: &mut CatalogLock<'_>) -> Result<()> {
    let store = lock.store();
    lock.forget();
    let derived = derive_refs(lock)?;
    lock.confirm_superblock()?;
    fault_point(FaultPoint::RecoverConfirmed);
    store.region.store_u32(DIRTY_OFFSET, DIRTY)?;
    let mut written_tables = WrittenCursor::default();
    let mut written_data = WrittenCursor::default();
    for chunk in (0..store.layout.chunks()).filter_map(ChunkNo::new) {
        let table_start = store.layout.block_table_offset(chunk)?;
        let table = table_start..table_start + BLOCK_SIZE_BYTES;
        if derived.of_chunk(chunk).is_some() || written_tables.overlaps(&*store.region, table)? {
            rebuild_chunk(store, chunk, &derived)?;
        } else if store.used_blocks(chunk)? != 0 {
            store.set_used_blocks(chunk, 0)?;
        }
        if !store.layout.is_data_chunk(chunk) {
            continue;
        }
        let owner = store.lease_owner(chunk)?;
        let leased = match owner {
            Some(slot) => slot < HOLDER_SLOTS && store.holder_slot_is_used(slot)?,
            None => false,
        };
        let data = chunk.byte_offset()..chunk.byte_offset() + CHUNK_SIZE_BYTES;
        if !leased && written_data.overlaps(&*store.region, data)? {
            store.punch_unreferenced(chunk)?;
        }
        if !leased && owner.is_some() {
            store.set_lease_owner(chunk, None)?;
        }
    }
    let mut stale = Vec::new();
    for block in store.written_blocks(store.layout.spare_bytes())? {
        if store.refcount(block)? == 0 && !store.is_zero(block)? {
            stale.push(block);
        }
    }
    store.punch_sorted(&stale)?;
    fault_point(FaultPoint::RecoverCounted);
    store.region.store_u32(DIRTY_OFFSET, 0)
}

fn rebuild_chunk(store: &BlockStore, chunk: ChunkNo, derived: &BlockNumbers) -> Result<()> {
    let mut used = 0;
    for block in chunk.blocks() {
        let count = u32::try_from(derived.get(block)).unwrap_or(0);
        used += u32::from(count > 0);
        if count == 0 {
            store.clear_digest(block)?;
        }
        if store.refcount(block)? == count {
            continue;
        }
        if count == 0 && store.layout.is_usable(block) {
            store.punch_sorted(&[block])?;
        }
        store.set_refcount(block, count)?;
    }
    store.set_used_blocks(chunk, used)
}

/// Takes back what dead holders left: leases, and pins with the orphans that only they kept.
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
    for chunk in store.layout.data_chunks() {
        let Some(owner) = store.lease_owner(chunk)? else {
            continue;
        };
        if dead.contains(&owner) {
            store.punch_unreferenced(chunk)?;
            fault_point(FaultPoint::ReclaimZeroed);
            if store.used_blocks(chunk)? == 0 {
                store.release_empty_chunk(chunk)?;
            }
            store.set_lease_owner(chunk, None)?;
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
