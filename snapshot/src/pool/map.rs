//! The use of each chunk of a pool.

use std::sync::Arc;

use serde::Serialize;

use crate::catalog_lock::CatalogLock;
use crate::error::Result;
use crate::handle::Pool;
use crate::layout::HOLDER_SLOTS;
use crate::layout::inode::Inode;
use crate::number::{BlockNo, CHUNK_BLOCKS, ChunkNo};
use crate::recovery::reclaim_dead_holders;
use crate::refs::{BlockNumbers, references};
use crate::tree::{Frames, Visitor, walk_maps};

/// A pool's chunks, and what its snapshots have of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PoolMap {
    /// Size of the pool.
    pub size_bytes: u64,
    /// Every chunk, in order.
    pub chunks: Vec<ChunkUse>,
    /// Names of the holders that chunks are leased to.
    pub holders: Vec<String>,
    /// The snapshots, by id.
    pub snapshots: Vec<SnapshotSpace>,
}

/// The 512 blocks of a chunk, by what they hold: the counts add up to 512.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ChunkUse {
    /// The pool's own: fixed areas, the catalog, maps, saved states.
    pub metadata: u32,
    /// Memory of one snapshot.
    pub own: u32,
    /// Memory of several snapshots.
    pub shared: u32,
    /// Disks, and what snapshots have of disks.
    pub disks: u32,
    /// Of no snapshot and no disk, and leased to a holder.
    pub leased: u32,
    /// Free for any holder.
    pub free: u32,
    /// The most snapshots that one block is in.
    pub snapshots_max: u32,
    /// The holder that has leased it: an index into the list of holders.
    pub holder: Option<u32>,
}

/// Space that a snapshot takes of a pool, as the list of snapshots has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SnapshotSpace {
    /// Its name.
    pub name: String,
    /// Space that removing it would free, metadata included.
    pub own_bytes: u64,
    /// Memory that it shares with other snapshots.
    pub shared_bytes: u64,
}

/// In how many snapshots each block is.
#[derive(Default)]
struct Sharing(BlockNumbers);

impl Visitor for Sharing {
    fn frames(&mut self, frames: Frames<'_>) -> Result<()> {
        self.0.add_frames(frames);
        Ok(())
    }

    fn reference(&mut self, _: BlockNo) -> Result<bool> {
        Ok(true)
    }
}

/// The same inode with the maps of its disks only, or with all others.
fn with_maps(inode: &Inode, of_disks: bool) -> Inode {
    let mut part = inode.clone();
    part.maps.retain(|map| map.disk().is_some() == of_disks);
    part
}

impl Pool {
    /// The use of each chunk, after recovering what dead holders left.
    ///
    /// # Errors
    /// [`crate::Error::Damaged`], [`crate::Error::Io`].
    pub fn map(&self) -> Result<PoolMap> {
        let mut lock = CatalogLock::take(self)?;
        reclaim_dead_holders(&mut lock)?;
        let listing = lock.listing()?;
        let mut inodes: Vec<Arc<Inode>> = listing
            .iter()
            .map(|listed| Arc::clone(&listed.inode))
            .collect();
        inodes.sort_by_key(|inode| inode.id);
        let (mut memory, mut disks) = (Sharing::default(), Sharing::default());
        for inode in &inodes {
            walk_maps(&self.store, &with_maps(inode, false), &mut memory)?;
            walk_maps(&self.store, &with_maps(inode, true), &mut disks)?;
        }
        let used = [&memory.0, &disks.0];
        let mut snapshots = Vec::new();
        for listed in listing.named() {
            let counted = self.counted(&listed.inode, listed.block)?;
            snapshots.push((
                counted.id,
                SnapshotSpace {
                    name: counted.name,
                    own_bytes: counted.own_bytes.unwrap_or(0),
                    shared_bytes: counted.shared_bytes.unwrap_or(0),
                },
            ));
        }
        snapshots.sort_by_key(|(id, _)| *id);
        let (slots, holders) = self.holder_names()?;
        let chunks = (0..self.store.layout.chunks())
            .map(|chunk| self.chunk_use(chunk, used, &slots))
            .collect::<Result<_>>()?;
        Ok(PoolMap {
            size_bytes: self.store.layout.size_bytes(),
            chunks,
            holders,
            snapshots: snapshots.into_iter().map(|(_, space)| space).collect(),
        })
    }

    /// The slots in use, and the names of those who use them.
    fn holder_names(&self) -> Result<(Vec<u32>, Vec<String>)> {
        let mut used = (Vec::new(), Vec::new());
        for slot in 0..HOLDER_SLOTS {
            if self.store.holder_slot_is_used(slot)? {
                used.0.push(slot);
                used.1.push(self.store.holder_slot(slot)?.name());
            }
        }
        Ok(used)
    }

    /// The use of a chunk, of whose blocks some are in so many memories, or disks.
    fn chunk_use(&self, number: u32, used: [&BlockNumbers; 2], slots: &[u32]) -> Result<ChunkUse> {
        let data = ChunkNo::new(number).filter(|chunk| self.store.layout.is_data_chunk(*chunk));
        let Some(chunk) = data else {
            return Ok(ChunkUse {
                metadata: CHUNK_BLOCKS,
                ..ChunkUse::default()
            });
        };
        let owner = self.store.lease_owner(chunk)?;
        let mut found = ChunkUse {
            holder: owner
                .and_then(|owner| slots.iter().position(|slot| *slot == owner))
                .map(|index| index as u32),
            ..ChunkUse::default()
        };
        let refcounts = self.store.refcounts(chunk)?.map(references);
        let used = used.map(|numbers| numbers.of_chunk(chunk));
        for index in 0..CHUNK_BLOCKS as usize {
            let [in_snapshots, in_disks] = { used.each_ref() }
                .map(|each| each.as_ref().map_or(0, |each| each[index]).max(0) as u32);
            let kind = match (refcounts[index], in_snapshots) {
                (0, _) if owner.is_some() => &mut found.leased,
                (0, _) => &mut found.free,
                (_, 0) if in_disks > 0 => &mut found.disks,
                (_, 0) => &mut found.metadata,
                (_, 1) => &mut found.own,
                _ => &mut found.shared,
            };
            *kind += 1;
            found.snapshots_max = found.snapshots_max.max(in_snapshots);
        }
        Ok(found)
    }
}

#[cfg(test)]
#[path = "map_test.rs"]
mod map_test;
