//! A pool as its users see it.

mod check;
mod create;
mod device;
mod grow;
mod status;

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use serde::Serialize;

pub use check::CheckReport;
pub use create::CreateOptions;
#[cfg(test)]
pub(crate) use create::format;
pub use grow::{GrowOptions, Grown};
pub use status::{HolderStatus, PoolStatus};

use crate::catalog::{CatalogLock, CatalogMemory, Listing, Removed};
use crate::error::{Error, Result};
use crate::fault::{FaultPoint, fault_point};
use crate::file_lock::{self, LockMode, LockPlace};
use crate::layout::inode::{Inode, map_height};
use crate::layout::node::NodeKind;
use crate::layout::runtime::{CLEAN, CLEAN_OFFSET, DIRTY, DIRTY_OFFSET};
use crate::number::{BLOCK_SIZE_BYTES, BlockNo, CHUNK_BLOCKS, SnapshotId};
use crate::recovery::reclaim_dead_holders;
use crate::refs::RefChanges;
use crate::region::{Durability, DurabilityLimit, Medium};
use crate::store::BlockStore;
use crate::tree::{Place, Visitor, walk};

/// An open pool. Any number of processes, and of `Pool` values in a process, may have the same pool open.
pub struct Pool {
    path: PathBuf,
    file: File,
    medium: Medium,
    durability: DurabilityLimit,
    uuid: [u8; 16],
    overcommit: AtomicBool,
    pub(crate) store: BlockStore,
    pub(crate) catalog: Mutex<CatalogMemory>,
    next_chunk: AtomicU32,
    /// Opening went well: until then, closing must not say that the pool is in order.
    in_order: AtomicBool,
}

/// A snapshot, as the catalog lists it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SnapshotEntry {
    /// Its id.
    pub id: SnapshotId,
    /// Its name.
    pub name: String,
    /// The snapshot that it was taken after; that one may be gone.
    pub parent: Option<SnapshotId>,
    /// When it was committed, in nanoseconds since 1970.
    pub created_unix_ns: u64,
    /// Size of the guest's memory.
    pub memory_bytes: u64,
    /// Frames that have a block; the others read as zero.
    pub frames_mapped: u64,
    /// Frames that were written since the snapshot before.
    pub frames_new: u64,
    /// Size of the machine's saved state.
    pub state_bytes: u64,
    /// Space that removing it would free, metadata included. None where it was not counted.
    pub own_bytes: Option<u64>,
    /// Memory that it shares with other snapshots. None where it was not counted.
    pub shared_bytes: Option<u64>,
}

impl Pool {
    /// The pool's file, to map: block `b` is at byte `b * 4096`.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Where the pool is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The kind of medium that the pool is on.
    pub fn medium(&self) -> Medium {
        self.medium
    }

    /// What committed snapshots survive: every commit is as durable as the pool can make it.
    pub fn durability(&self) -> &DurabilityLimit {
        &self.durability
    }

    /// Refuses where the pool cannot be that durable.
    ///
    /// # Errors
    /// [`Error::NotDurable`].
    pub fn require_durability(&self, asked: Durability) -> Result<()> {
        if asked <= self.durability.strongest {
            return Ok(());
        }
        let limit = self.durability.clone();
        Err(Error::NotDurable { asked, limit })
    }

    /// Size of the pool, as far as this process has seen it grow.
    pub fn size_bytes(&self) -> u64 {
        self.store.layout.size_bytes()
    }

    /// Whether the pool may promise more than its medium has.
    pub fn overcommit(&self) -> bool {
        self.overcommit.load(Ordering::Relaxed)
    }

    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    pub(crate) fn next_chunk(&self) -> u32 {
        self.next_chunk.load(Ordering::Relaxed)
    }

    pub(crate) fn set_next_chunk(&self, chunk: u32) {
        self.next_chunk.store(chunk, Ordering::Relaxed);
    }

    /// Copies a block out: of a snapshot that is pinned, or one that is mine.
    ///
    /// # Errors
    /// [`Error::Damaged`] when the pool has no such block.
    pub fn read_block(&self, block: BlockNo, into: &mut [u8; BLOCK_SIZE_BYTES as usize]) -> Result<()> {
        self.store.read_block(block, into)
    }

    /// All snapshots, by id, with their own and shared sizes.
    ///
    /// # Errors
    /// [`Error::Damaged`], [`Error::Io`].
    pub fn snapshots(&self) -> Result<Vec<SnapshotEntry>> {
        let mut lock = CatalogLock::take(self)?;
        let listing = lock.listing()?;
        let mut entries = Vec::new();
        for listed in listing.named() {
            entries.push(self.counted(&listed.inode, listed.block)?);
        }
        entries.sort_by_key(|entry| entry.id);
        Ok(entries)
    }

    /// The snapshot of this name, with its own and shared size.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Damaged`], [`Error::Io`].
    pub fn find(&self, name: &str) -> Result<SnapshotEntry> {
        let mut lock = CatalogLock::take(self)?;
        let listing = lock.listing()?;
        match listing.by_name(name) {
            Some(listed) => self.counted(&listed.inode, listed.block),
            None => Err(self.not_found(name, &listing)),
        }
    }

    /// Removes a snapshot. If a living holder pins it, its name goes now and its blocks when the last pin goes.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Damaged`], [`Error::Io`].
    pub fn remove(&self, name: &str) -> Result<Removed> {
        let mut lock = CatalogLock::take(self)?;
        reclaim_dead_holders(&mut lock)?;
        let listing = lock.listing()?;
        match listing.by_name(name) {
            Some(listed) => lock.remove(listed),
            None => Err(self.not_found(name, &listing)),
        }
    }

    /// The machine's state that was saved with a snapshot.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Damaged`] when its checksum does not fit.
    pub fn read_state(&self, id: SnapshotId) -> Result<Vec<u8>> {
        let mut lock = CatalogLock::take(self)?;
        let listing = lock.listing()?;
        let Some(listed) = listing.by_id(id) else {
            return Err(self.not_found(&id.to_string(), &listing));
        };
        self.state_of(&listed.inode)
    }

    pub(crate) fn state_of(&self, inode: &Inode) -> Result<Vec<u8>> {
        let mut state = vec![0; inode.state_bytes as usize];
        for (piece, block) in state
            .chunks_mut(BLOCK_SIZE_BYTES as usize)
            .zip(&inode.state_blocks)
        {
            self.store.region.read(block.byte_offset(), piece)?;
        }
        if crc32fast::hash(&state) != inode.state_checksum {
            return Err(Error::damaged(format!(
                "the saved state of snapshot '{}' has a wrong checksum",
                inode.name
            )));
        }
        Ok(state)
    }

    /// Blocks that no snapshot has and nobody has leased.
    pub(crate) fn free_blocks(&self, _lock: &CatalogLock<'_>) -> Result<u64> {
        let mut free = 0;
        for chunk in self.store.layout.data_chunks() {
            if self.store.lease_owner(chunk)?.is_none() {
                free += u64::from(CHUNK_BLOCKS.saturating_sub(self.store.used_blocks(chunk)?));
            }
        }
        Ok(free)
    }

    pub(crate) fn not_found(&self, name: &str, listing: &Listing) -> Error {
        let names = listing.named().map(|listed| listed.inode.name.as_str());
        Error::NotFound {
            name: name.to_owned(),
            pool: self.path.clone(),
            near: crate::name::near_names(name, names),
        }
    }

    /// An entry with what removing the snapshot would free. The caller has the catalog lock.
    fn counted(&self, inode: &Inode, block: BlockNo) -> Result<SnapshotEntry> {
        struct Footprint<'s> {
            store: &'s BlockStore,
            refs: RefChanges,
            metadata_freed: u64,
            in_metadata: bool,
        }
        impl Visitor for Footprint<'_> {
            fn reference(&mut self, block: BlockNo) -> Result<bool> {
                let freed = self.refs.drop_one(self.store, block)?;
                self.metadata_freed += u64::from(self.in_metadata && freed);
                Ok(freed)
            }

            fn node(&mut self) {
                self.metadata_freed += 1;
            }
        }
        let refs = RefChanges::default();
        let mut footprint = Footprint {
            store: &self.store,
            refs,
            metadata_freed: 0,
            in_metadata: true,
        };
        for block in std::iter::once(&block).chain(&inode.state_blocks) {
            footprint.reference(*block)?;
        }
        footprint.in_metadata = false;
        let place = Place::root(NodeKind::Memory, map_height(inode.memory_bytes)?);
        walk(&self.store, inode.map_root, place, &mut footprint)?;
        let freed = footprint.refs.freed().len() as u64;
        let own_frames = freed.saturating_sub(footprint.metadata_freed);
        Ok(SnapshotEntry {
            own_bytes: Some(freed * BLOCK_SIZE_BYTES),
            shared_bytes: Some(inode.frames_mapped.saturating_sub(own_frames) * BLOCK_SIZE_BYTES),
            ..SnapshotEntry::of(inode)
        })
    }
}

impl SnapshotEntry {
    pub(crate) fn of(inode: &Inode) -> SnapshotEntry {
        SnapshotEntry {
            id: inode.id,
            name: inode.name.clone(),
            parent: inode.parent,
            created_unix_ns: inode.created_unix_ns,
            memory_bytes: inode.memory_bytes,
            frames_mapped: inode.frames_mapped,
            frames_new: inode.frames_new,
            state_bytes: u64::from(inode.state_bytes),
            own_bytes: None,
            shared_bytes: None,
        }
    }
}

impl Drop for Pool {
    /// The last one to close the pool notes that it was closed in order.
    fn drop(&mut self) {
        let close = || -> Result<()> {
            if !self.in_order.load(Ordering::Relaxed)
                || !file_lock::try_lock(&self.file, LockPlace::Open, LockMode::Exclusive)?
            {
                return Ok(());
            }
            let lock = CatalogLock::take_unrecovered(self)?;
            if self.store.region.load_u32(DIRTY_OFFSET)? != DIRTY {
                let region = &lock.store().region;
                for segment in self.store.layout.segments() {
                    let (first, blocks) = segment.fixed_blocks();
                    region.flush(first.byte_offset(), blocks * BLOCK_SIZE_BYTES)?;
                }
                region.fence()?;
                fault_point(FaultPoint::CloseFlushed);
                region.store_u32(CLEAN_OFFSET, CLEAN)?;
                region.flush(CLEAN_OFFSET, 4)?;
                region.fence()?;
            }
            Ok(())
        };
        if let Err(error) = close() {
            tracing::warn!(%error, pool = %self.path.display(), "could not close the pool in order: it is checked when opened");
        }
    }
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Pool")
            .field("path", &self.path)
            .field("medium", &self.medium)
            .finish_non_exhaustive()
    }
}
