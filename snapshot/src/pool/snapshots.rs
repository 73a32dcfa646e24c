//! The snapshots of a pool as its users see them.

use std::sync::Arc;

use serde::Serialize;

use crate::catalog::Listing;
use crate::catalog_lock::{CatalogLock, Removed};
use crate::error::{Error, Result};
use crate::handle::Pool;
use crate::identity::{ContentRoot, Identity};
use crate::layout::inode::{FileMap, Inode, MapKind, SnapshotKind};
use crate::number::{BLOCK_SIZE_BYTES, BlockNo, SnapshotId};
use crate::recovery::reclaim_dead_holders;
use crate::refs::RefChanges;
use crate::store::BlockStore;
use crate::tree::{Frames, Visitor, walk_maps};

/// A snapshot, as the catalog lists it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SnapshotEntry {
    /// Its id.
    pub id: SnapshotId,
    /// Its kind: of a VM, or of processes.
    pub kind: SnapshotKind,
    /// Its name.
    pub name: String,
    /// The snapshot that it was taken after; that one may be gone.
    pub parent: Option<SnapshotId>,
    /// The time of its commit, in nanoseconds since 1970.
    pub created_unix_ns: u64,
    /// Size of its memory.
    pub memory_bytes: u64,
    /// All that it has a map of, its memory included.
    #[serde(skip)]
    pub maps: Vec<MapEntry>,
    /// Frames of its memory that have a block; the others read as zero.
    pub frames_mapped: u64,
    /// Frames that were written since the snapshot before.
    pub frames_new: u64,
    /// Size of the machine's saved state.
    pub state_bytes: u64,
    /// The identity that it has in any pool.
    pub identity: Identity,
    /// True when only a part was received: the only uses are to receive the rest, or to remove it.
    pub incomplete: bool,
    /// True when it came from elsewhere, or was taken of a VM that did, and was not
    /// [adopted](Pool::adopt): nothing of the host that it names may be used.
    pub foreign: bool,
    /// The root of the hash tree over its memory and state, where that was computed.
    pub content_root: Option<ContentRoot>,
    /// Space that removing it would free, metadata included. None where it was not counted.
    pub own_bytes: Option<u64>,
    /// Memory that it shares with other snapshots. None where it was not counted.
    pub shared_bytes: Option<u64>,
}

impl SnapshotEntry {
    /// A snapshot of a VM's disks without the VM: it has no saved state, and no memory. Of one that
    /// was received in part nobody knows.
    pub fn has_disks_only(&self) -> bool {
        let mut maps = self.maps.iter();
        let has_disks = maps.any(|map| matches!(map.kind, MapKind::Disk(_)));
        self.kind == SnapshotKind::Vm && self.state_bytes == 0 && has_disks && !self.incomplete
    }
}

/// A map of a snapshot, as the catalog lists it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct MapEntry {
    /// The kind of what is mapped.
    pub kind: MapKind,
    /// Its size.
    pub size_bytes: u64,
    /// Frames of it that have a block.
    pub frames: u64,
}

impl From<&FileMap> for MapEntry {
    fn from(map: &FileMap) -> MapEntry {
        MapEntry {
            kind: map.kind,
            size_bytes: map.size_bytes(),
            frames: map.frames(),
        }
    }
}

fn maps_of(inode: &Inode) -> Vec<MapEntry> {
    let mut maps: Vec<MapEntry> = inode.maps.iter().map(MapEntry::from).collect();
    if let Some(memory) = maps.iter_mut().find(|map| map.kind == MapKind::Memory) {
        memory.frames = inode.frames_of_memory();
    }
    maps
}

impl SnapshotEntry {
    pub(crate) fn of(inode: &Inode) -> SnapshotEntry {
        SnapshotEntry {
            id: inode.id,
            kind: inode.kind,
            name: inode.name.clone(),
            parent: inode.parent,
            created_unix_ns: inode.created_unix_ns,
            memory_bytes: inode.memory().map_or(0, FileMap::size_bytes),
            maps: maps_of(inode),
            frames_mapped: inode.frames_of_memory(),
            frames_new: inode.frames_new,
            state_bytes: u64::from(inode.state_bytes),
            identity: inode.identity,
            incomplete: inode.incomplete,
            foreign: inode.foreign,
            content_root: inode.content_root,
            own_bytes: None,
            shared_bytes: None,
        }
    }
}

impl Pool {
    /// All snapshots, by id, with their own and shared sizes, each of a moment of its own.
    ///
    /// # Errors
    /// [`Error::Damaged`], [`Error::Io`].
    pub fn snapshots(&self) -> Result<Vec<SnapshotEntry>> {
        let listing = CatalogLock::take(self)?.listing()?;
        let mut entries = Vec::new();
        for listed in listing.named() {
            // The lock anew for each: to count the blocks of a large one takes long.
            let mut lock = CatalogLock::take(self)?;
            let now = lock.listing()?;
            // It may have been removed meanwhile.
            if let Some(listed) = now.by_id(listed.inode.id)
                && !listed.inode.orphan
            {
                entries.push(self.counted(&listed.inode, listed.block)?);
            }
        }
        entries.sort_by_key(|entry| entry.id);
        Ok(entries)
    }

    /// All snapshots, by id. Their own and shared sizes are not counted.
    ///
    /// # Errors
    /// [`Error::Damaged`], [`Error::Io`].
    pub fn entries(&self) -> Result<Vec<SnapshotEntry>> {
        let mut lock = CatalogLock::take(self)?;
        let listing = lock.listing()?;
        let mut entries: Vec<SnapshotEntry> = listing
            .named()
            .map(|listed| SnapshotEntry::of(&listed.inode))
            .collect();
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

    /// Removes a snapshot. If a living holder pins it, its name goes now and its blocks when the
    /// last pin goes. Returns when the freed blocks are clean; nobody waits for that meanwhile.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Damaged`], [`Error::Io`].
    pub fn remove(&self, name: &str) -> Result<Removed> {
        let mut removed = self.remove_only(name);
        if matches!(removed, Err(Error::PoolFull { .. })) {
            // Blocks for the catalog may wait to be cleaned.
            self.clean_all()?;
            removed = self.remove_only(name);
        }
        if let Err(error) = self.clean() {
            tracing::warn!(%error, "could not clean all freed blocks: the pool's next user does");
        }
        removed
    }

    pub(crate) fn remove_only(&self, name: &str) -> Result<Removed> {
        let mut lock = CatalogLock::take(self)?;
        reclaim_dead_holders(&mut lock)?;
        let listing = lock.listing()?;
        match listing.by_name(name) {
            Some(listed) => lock.remove(listed),
            None => Err(self.not_found(name, &listing)),
        }
    }

    /// Ends that a snapshot is foreign: its owner trusts what it says. False when it was not.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Incomplete`], [`Error::Damaged`], [`Error::Io`].
    pub fn adopt(&self, name: &str) -> Result<bool> {
        let mut lock = CatalogLock::take(self)?;
        let listing = lock.listing()?;
        let Some(listed) = listing.by_name(name) else {
            return Err(self.not_found(name, &listing));
        };
        if !listed.complete()?.foreign {
            return Ok(false);
        }
        let adopted = Inode {
            foreign: false,
            ..Inode::clone(&listed.inode)
        };
        lock.amend(listed, &adopted)?;
        Ok(true)
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

    /// The inode of the snapshot of this name, of which all must be there.
    pub(crate) fn inode_named(&self, name: &str, listing: &Listing) -> Result<Arc<Inode>> {
        match listing.by_name(name) {
            Some(listed) => listed.complete().map(Arc::clone),
            None => Err(self.not_found(name, listing)),
        }
    }

    pub(crate) fn not_found(&self, name: &str, listing: &Listing) -> Error {
        let names = listing.named().map(|listed| listed.inode.name.as_str());
        Error::NotFound {
            name: name.to_owned(),
            pool: self.path.clone(),
            near: crate::name::near_names(name, names),
        }
    }

    /// Bytes that removing a disk would free. The caller has the catalog lock.
    pub(crate) fn own_bytes(&self, inode: &Inode, block: BlockNo) -> Result<Option<u64>> {
        Ok(self.counted(inode, block)?.own_bytes)
    }

    /// An entry with what removing the snapshot would free. The caller has the catalog lock.
    pub(super) fn counted(&self, inode: &Inode, block: BlockNo) -> Result<SnapshotEntry> {
        struct Footprint<'s> {
            store: &'s BlockStore,
            refs: RefChanges,
            metadata_freed: u64,
            in_metadata: bool,
        }
        impl Visitor for Footprint<'_> {
            fn frames(&mut self, frames: Frames<'_>) -> Result<()> {
                self.refs.drop_frames(self.store, frames)
            }

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
        walk_maps(&self.store, inode, &mut footprint)?;
        let freed = footprint.refs.freed().len() as u64;
        let own_frames = freed.saturating_sub(footprint.metadata_freed);
        Ok(SnapshotEntry {
            own_bytes: Some(freed * BLOCK_SIZE_BYTES),
            shared_bytes: Some(inode.frames_mapped.saturating_sub(own_frames) * BLOCK_SIZE_BYTES),
            ..SnapshotEntry::of(inode)
        })
    }
}
