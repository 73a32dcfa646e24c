//! The use of a pool, and its users.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use serde::Serialize;

use crate::catalog_lock::CatalogLock;
use crate::durability::DurabilityLimit;
use crate::error::{Error, Result};
use crate::handle::Pool;
use crate::identity::uuid_text;
use crate::layout::{FORMAT_VERSION, HOLDER_SLOTS};
use crate::number::CHUNK_BLOCKS;
use crate::recovery::reclaim_dead_holders;
use crate::region::{EngineKind, Medium};

/// The state of a pool. Blocks have 4 KiB; `metadata + snapshot + leased + free = total`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PoolStatus {
    /// Its path.
    pub path: PathBuf,
    /// Its uuid, as text.
    pub uuid: String,
    /// The kind of medium it is on.
    pub medium: Medium,
    /// The copy-on-write engine of VMs on it.
    pub cow_engine: EngineKind,
    /// Why they do it so.
    pub cow_engine_reason: &'static str,
    /// The durability of committed snapshots.
    pub durability: DurabilityLimit,
    /// True when it may promise more than its medium has.
    pub overcommit: bool,
    /// Its size.
    pub size_bytes: u64,
    /// Bytes that it takes of its medium now.
    pub medium_bytes: u64,
    /// All its blocks.
    pub total_blocks: u64,
    /// Blocks of the fixed areas: superblocks, tables, reference counts, spare blocks.
    pub metadata_blocks: u64,
    /// Blocks of snapshots and disks, their maps and the catalog included.
    pub snapshot_blocks: u64,
    /// Blocks in chunks that are leased to holders, and in no snapshot.
    pub leased_blocks: u64,
    /// Blocks that anyone can have.
    pub free_blocks: u64,
    /// Snapshots that have a name.
    pub snapshots: u32,
    /// Snapshots that were removed and are still in use.
    pub orphans: u32,
    /// Of the snapshots, those that were received in part: nothing can be done with them but to
    /// receive the rest, or remove them.
    pub incomplete: u32,
    /// Disks, without those of snapshots.
    pub disks: u32,
    /// Commits made so far.
    pub generation: u64,
    /// Its users.
    pub holders: Vec<HolderStatus>,
}

/// A living holder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HolderStatus {
    /// Its name.
    pub name: String,
    /// Its process.
    pub pid: u32,
    /// The start of the process, in clock ticks after boot.
    pub start_time_ticks: u64,
    /// Chunks that it has leased.
    pub leased_chunks: u32,
    /// Blocks that it has taken of them.
    pub blocks_in_use: u32,
    /// Snapshots that it pins.
    pub pinned: Vec<u64>,
}

impl Pool {
    /// The version of the pool's format. Whoever opens a pool alone makes it one of the newest
    /// version.
    ///
    /// # Errors
    /// [`Error::InUse`] for one of an older version, which others have open; [`Error::Damaged`],
    /// [`Error::Io`].
    pub fn newest_version(&self) -> Result<u32> {
        let version = CatalogLock::take(self)?.current()?.superblock.version.get();
        match version >= FORMAT_VERSION {
            true => Ok(version),
            false => Err(Error::InUse {
                path: self.path.clone(),
            }),
        }
    }

    /// The use and the users of the pool, after recovering what dead holders left.
    ///
    /// # Errors
    /// [`Error::Damaged`], [`Error::Io`].
    pub fn status(&self) -> Result<PoolStatus> {
        let mut lock = CatalogLock::take(self)?;
        reclaim_dead_holders(&mut lock)?;
        let store = &self.store;
        let (mut snapshot_blocks, mut leased_blocks, mut free_blocks) = (0, 0, 0);
        for chunk in store.layout.data_chunks() {
            let used = store.used_blocks(chunk)?.min(CHUNK_BLOCKS);
            snapshot_blocks += u64::from(used);
            let rest = u64::from(CHUNK_BLOCKS - used);
            match store.lease_owner(chunk)? {
                Some(_) => leased_blocks += rest,
                None => free_blocks += rest,
            }
        }
        let mut holders = Vec::new();
        for slot in 0..HOLDER_SLOTS {
            if !store.holder_slot_is_used(slot)? {
                continue;
            }
            let holder = store.holder_slot(slot)?;
            holders.push(HolderStatus {
                name: holder.name(),
                pid: holder.pid.get(),
                start_time_ticks: holder.start_time_ticks.get(),
                leased_chunks: holder.leases.get(),
                blocks_in_use: holder.blocks_in_use.get(),
                pinned: holder.pinned().map(|id| id.get()).collect(),
            });
        }
        let listing = lock.listing()?;
        let incomplete = listing
            .named()
            .filter(|listed| listed.inode.incomplete)
            .count() as u32;
        let disks = listing.disks().count() as u32;
        let superblock = &lock.current()?.superblock;
        let metadata = self
            .file()
            .metadata()
            .map_err(Error::io("looking at the pool's file"))?;
        Ok(PoolStatus {
            path: self.path().to_owned(),
            uuid: uuid_text(&self.uuid),
            medium: self.medium,
            cow_engine: self.medium.cow_engine(),
            cow_engine_reason: self.medium.cow_engine_reason(),
            durability: self.durability.clone(),
            overcommit: self.overcommit(),
            size_bytes: store.layout.size_bytes(),
            medium_bytes: if self.medium == Medium::Devdax {
                store.layout.size_bytes()
            } else {
                metadata.blocks() * 512
            },
            total_blocks: store.layout.blocks(),
            metadata_blocks: store.layout.fixed_blocks(),
            snapshot_blocks,
            leased_blocks,
            free_blocks,
            snapshots: superblock.snapshots.get(),
            orphans: superblock.orphans.get(),
            incomplete,
            disks,
            generation: superblock.generation.get(),
            holders,
        })
    }
}
