//! Disks: files of the pool that VMs read and write block by block.
//!
//! A disk is an inode with one map. Whoever writes to it is its [`DiskHead`]; until a commit has
//! them, changes of the map are in the head's log. A snapshot has the maps of its disks besides
//! that of its memory. A copy of a disk is another inode with the same map.

mod flush;
mod fold;
mod head;
mod import;
mod leaves;
mod reader;
mod rewind;

use std::sync::Arc;

pub use fold::DiskCut;
pub use head::DiskHead;
pub use import::DiskImport;
pub use reader::DiskReader;
use serde::Serialize;

use crate::catalog::{Listed, Listing};
use crate::catalog_lock::{CatalogLock, Commit, set_map};
use crate::chunk_map::ChunkMap;
use crate::cleaning::Pace;
use crate::clock::unix_ns;
use crate::error::{Error, Result};
use crate::handle::Pool;
use crate::identity::Identity;
use crate::layout::inode::{DiskPart, FileMap, Inode, MapKind, SnapshotKind};
use crate::layout::node::Entry;
use crate::name::{DiskName, near_names};
use crate::number::{BLOCK_SIZE_BYTES, ChunkIndex, SnapshotId};
use crate::recovery::reclaim_dead_holders;

/// Times that freed blocks are cleaned for a commit that found no block.
const CLEANINGS_MAX: u32 = 8;

/// A disk, as the catalog lists it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DiskEntry {
    /// Its id: no other disk or snapshot of the pool ever has it.
    pub id: SnapshotId,
    /// Its name.
    pub name: String,
    /// Its size; a multiple of 512.
    pub size_bytes: u64,
    /// Blocks of 4 KiB that it has; the others read as zero. Those that its writer has taken since
    /// the last commit are not counted.
    pub blocks: u64,
    /// The time at which it was made, in nanoseconds since 1970.
    pub created_unix_ns: u64,
    /// The identity that it has in any pool.
    pub identity: Identity,
    /// True when it came from elsewhere.
    pub foreign: bool,
    /// Name and process of the holder that writes to it.
    pub writer: Option<String>,
    /// Space that removing it would free, metadata included. None where it was not counted.
    pub own_bytes: Option<u64>,
}

/// Calls `act` again as long as it finds no block, and freed ones could be cleaned for it.
pub(crate) fn with_room<T>(pool: &Pool, act: impl Fn() -> Result<T>) -> Result<T> {
    let mut tries = 0;
    loop {
        let done = act();
        tries += 1;
        if !matches!(done, Err(Error::PoolFull { .. } | Error::MediumFull { .. }))
            || tries > CLEANINGS_MAX
            || pool.clean_some(1, Pace::Fast)? == 0
        {
            return done;
        }
    }
}

impl Pool {
    /// Makes an empty disk: all of it reads as zero, and takes no space.
    ///
    /// # Errors
    /// [`Error::InvalidName`]; [`Error::InvalidDisk`] for a size that is no multiple of 512, or
    /// above 32 TiB; [`Error::DiskNameTaken`], [`Error::NoDisksYet`], [`Error::PoolFull`].
    pub fn create_disk(&self, name: &str, size_bytes: u64) -> Result<DiskEntry> {
        let map = FileMap::new(MapKind::Disk(DiskName::new(name)?), size_bytes, Entry::Hole)?;
        with_room(self, || {
            let mut lock = CatalogLock::take(self)?;
            let listing = lock.listing()?;
            self.add_disk(&mut lock, &listing, (name, &map), &[], false)
        })
    }

    /// All disks, by name. What removing them would free is not counted.
    ///
    /// # Errors
    /// [`Error::Damaged`], [`Error::Io`].
    pub fn disks(&self) -> Result<Vec<DiskEntry>> {
        let mut lock = CatalogLock::take(self)?;
        reclaim_dead_holders(&mut lock)?;
        let listing = lock.listing()?;
        let entries = listing.disks().map(|listed| self.disk_entry(&listed.inode));
        let mut entries = entries.collect::<Result<Vec<_>>>()?;
        entries.sort_by(|left, right| left.name.cmp(&right.name));
        Ok(entries)
    }

    /// The disk of this name.
    ///
    /// # Errors
    /// [`Error::NoDisk`], [`Error::Damaged`], [`Error::Io`].
    pub fn disk(&self, name: &str) -> Result<DiskEntry> {
        let mut lock = CatalogLock::take(self)?;
        reclaim_dead_holders(&mut lock)?;
        let listing = lock.listing()?;
        let listed = self.listed_disk(name, &listing)?;
        Ok(DiskEntry {
            own_bytes: self.own_bytes(&listed.inode, listed.block)?,
            ..self.disk_entry(&listed.inode)?
        })
    }

    /// Gives a disk another name.
    ///
    /// # Errors
    /// [`Error::InvalidName`], [`Error::NoDisk`], [`Error::DiskNameTaken`], [`Error::DiskInUse`],
    /// [`Error::PoolFull`].
    pub fn rename_disk(&self, name: &str, new: &str) -> Result<()> {
        let new_name = DiskName::new(new)?;
        with_room(self, || {
            let mut lock = CatalogLock::take(self)?;
            let (listing, listed) = self.unused_disk(&mut lock, name)?;
            require_free_name(&listing, new)?;
            let renamed = |_: &mut Commit<'_, '_>, inode: &mut Inode| {
                inode.name = new.to_owned();
                set_map(inode, inode.disk_map()?.renamed(new_name));
                Ok(())
            };
            lock.change_disk(&listed, false, renamed, |_| ())
        })
    }

    /// Removes a disk. Snapshots and copies keep what they have of it. Returns when the freed
    /// blocks are clean.
    ///
    /// # Errors
    /// [`Error::NoDisk`], [`Error::DiskInUse`].
    pub fn remove_disk(&self, name: &str) -> Result<()> {
        with_room(self, || {
            let mut lock = CatalogLock::take(self)?;
            let (_, listed) = self.free_disk(&mut lock, name)?;
            self.require_no_reader(&lock, &listed)?;
            lock.remove_disk(listed.slot)
        })?;
        if let Err(error) = self.clean() {
            tracing::warn!(%error, "could not clean all freed blocks: the pool's next user does");
        }
        Ok(())
    }

    /// Makes a disk larger. What is added reads as zero.
    ///
    /// # Errors
    /// [`Error::InvalidDisk`] for a size that is less than it has, or that no disk can have;
    /// [`Error::NoDisk`], [`Error::DiskInUse`], [`Error::PoolFull`].
    pub fn resize_disk(&self, name: &str, size_bytes: u64) -> Result<()> {
        with_room(self, || {
            let mut lock = CatalogLock::take(self)?;
            let (_, listed) = self.unused_disk(&mut lock, name)?;
            resize(&mut lock, &listed, size_bytes, |_| ())
        })
    }

    /// Makes a copy of a disk, by reference and at once.
    ///
    /// # Errors
    /// [`Error::NoDisk`]; [`Error::DiskInUse`] while somebody writes to it; [`Error::InvalidName`],
    /// [`Error::DiskNameTaken`], [`Error::PoolFull`].
    pub fn copy_disk(&self, name: &str, copy: &str) -> Result<DiskEntry> {
        DiskName::new(copy)?;
        with_room(self, || {
            let mut lock = CatalogLock::take(self)?;
            let (listing, listed) = self.settled_disk(&mut lock, name)?;
            let (map, foreign) = (listed.inode.disk_map()?, listed.inode.foreign);
            self.add_disk(&mut lock, &listing, (copy, map), &[], foreign)
        })
    }

    /// Makes a disk of one that a snapshot has, by reference and at once.
    ///
    /// # Errors
    /// [`Error::NotFound`] (the snapshot), [`Error::NoDisk`], [`Error::InvalidName`],
    /// [`Error::DiskNameTaken`], [`Error::PoolFull`].
    pub fn copy_disk_of(&self, snapshot: &str, disk: &str, copy: &str) -> Result<DiskEntry> {
        DiskName::new(copy)?;
        with_room(self, || {
            let mut lock = CatalogLock::take(self)?;
            let listing = lock.listing()?;
            let inode = self.inode_named(snapshot, &listing)?;
            let map = self.disk_map_of(&inode, disk)?;
            self.add_disk(&mut lock, &listing, (copy, map), &[], inode.foreign)
        })
    }

    /// Adds a disk with a map and changes of it, whose blocks are durable.
    fn add_disk(
        &self,
        lock: &mut CatalogLock<'_>,
        listing: &Listing,
        (name, map): (&str, &FileMap),
        changes: &[(ChunkIndex, ChunkMap)],
        foreign: bool,
    ) -> Result<DiskEntry> {
        if !self.store.keeps_disks {
            return Err(Error::NoDisksYet);
        }
        self.require_name()?;
        require_free_name(listing, name)?;
        let id = SnapshotId::new(lock.current()?.superblock.next_snapshot_id.get())
            .ok_or_else(|| Error::damaged("the superblock's next snapshot id is 0"))?;
        let map = map.renamed(DiskName::new(name)?);
        let inode = Inode {
            id,
            kind: SnapshotKind::Vm,
            name: name.to_owned(),
            parent: None,
            created_unix_ns: unix_ns(),
            disk: Some(DiskPart::default()),
            maps: vec![map],
            orphan: false,
            incomplete: false,
            foreign,
            identity: Identity::random()?,
            content_root: None,
            frames_mapped: map.frames(),
            frames_new: 0,
            state_bytes: 0,
            state_checksum: 0,
            state_blocks: Vec::new(),
        };
        lock.add_disk(listing.free_slot()?, &inode, changes)?;
        let listing = lock.listing()?;
        let added = listing.by_id(id).map(|listed| &listed.inode);
        self.disk_entry(added.unwrap_or(&Arc::new(inode)))
    }

    /// The disk of this name, to which nobody writes. What a dead writer has logged is in its map.
    pub(crate) fn settled_disk(
        &self,
        lock: &mut CatalogLock<'_>,
        name: &str,
    ) -> Result<(Arc<Listing>, Listed)> {
        let (_, listed) = self.free_disk(lock, name)?;
        if listed.inode.head().is_some() {
            lock.fold_dead_head(&listed)?;
        }
        let listing = lock.listing()?;
        let listed = self.listed_disk(name, &listing)?.clone();
        Ok((listing, listed))
    }

    /// The same, and nobody reads it.
    pub(crate) fn unused_disk(
        &self,
        lock: &mut CatalogLock<'_>,
        name: &str,
    ) -> Result<(Arc<Listing>, Listed)> {
        let (listing, listed) = self.settled_disk(lock, name)?;
        self.require_no_reader(lock, &listed)?;
        Ok((listing, listed))
    }

    /// The disk of this name, to which nobody writes, and which nobody reads.
    fn free_disk(&self, lock: &mut CatalogLock<'_>, name: &str) -> Result<(Arc<Listing>, Listed)> {
        reclaim_dead_holders(lock)?;
        let listing = lock.listing()?;
        let listed = self.listed_disk(name, &listing)?.clone();
        match self.disk_entry(&listed.inode)?.writer {
            None => Ok((listing, listed)),
            Some(holder) => {
                let name = name.to_owned();
                Err(Error::DiskInUse { name, holder })
            }
        }
    }

    fn require_no_reader(&self, lock: &CatalogLock<'_>, listed: &Listed) -> Result<()> {
        let Some(slot) = lock.holders_pinning(listed.inode.id)?.first().copied() else {
            return Ok(());
        };
        let (name, holder) = (listed.inode.name.clone(), self.holder_text(slot)?);
        Err(Error::DiskInUse { name, holder })
    }

    fn holder_text(&self, slot: u32) -> Result<String> {
        let slot = self.store.holder_slot(slot)?;
        Ok(format!("'{}' (process {})", slot.name(), slot.pid))
    }

    fn listed_disk<'l>(&self, name: &str, listing: &'l Listing) -> Result<&'l Listed> {
        listing.disk(name).ok_or_else(|| {
            self.no_disk(
                name,
                listing.disks().map(|listed| listed.inode.name.as_str()),
            )
        })
    }

    /// The map of a snapshot's disk.
    fn disk_map_of<'i>(&self, inode: &'i Inode, name: &str) -> Result<&'i FileMap> {
        inode.disk_named(name).ok_or_else(|| {
            let names = inode.disk_maps().filter_map(FileMap::disk);
            self.no_disk(name, names.map(DiskName::as_str))
        })
    }

    fn no_disk<'n>(&self, name: &str, names: impl Iterator<Item = &'n str>) -> Error {
        Error::NoDisk {
            name: name.to_owned(),
            pool: self.path.clone(),
            near: near_names(name, names),
        }
    }

    fn disk_entry(&self, inode: &Inode) -> Result<DiskEntry> {
        let writer = match inode.head() {
            Some(head) if self.store.is_held(head)? => Some(self.holder_text(head.slot)?),
            _ => None,
        };
        Ok(DiskEntry {
            id: inode.id,
            name: inode.name.clone(),
            size_bytes: inode.disk_map()?.size_bytes(),
            blocks: inode.frames_mapped,
            created_unix_ns: inode.created_unix_ns,
            identity: inode.identity,
            foreign: inode.foreign,
            writer,
            own_bytes: None,
        })
    }
}

fn require_free_name(listing: &Listing, name: &str) -> Result<()> {
    match listing.disk(name) {
        None => Ok(()),
        Some(_) => Err(Error::DiskNameTaken {
            name: name.to_owned(),
        }),
    }
}

/// Makes a disk larger. The caller has the catalog lock.
pub(crate) fn resize(
    lock: &mut CatalogLock<'_>,
    listed: &Listed,
    size_bytes: u64,
    switched: impl FnOnce(&Inode),
) -> Result<()> {
    let (inode, map) = (&listed.inode, *listed.inode.disk_map()?);
    let taller = FileMap::new(map.kind, size_bytes, Entry::Hole)?;
    if size_bytes < map.size_bytes() {
        let has = map.size_bytes();
        return Err(Error::invalid_disk(
            &inode.name,
            format!("it has {has} bytes, and can only be made larger"),
        ));
    }
    let resized = |commit: &mut Commit<'_, '_>, inode: &mut Inode| {
        let root = commit.make_taller(map.root, map.height(), taller.height())?;
        set_map(inode, taller.with_root(root).with_frames(map.frames()));
        Ok(())
    };
    lock.change_disk(listed, false, resized, switched)
}

/// Number of frames of a disk of this size.
pub(crate) fn frames_of(size_bytes: u64) -> u64 {
    size_bytes.div_ceil(BLOCK_SIZE_BYTES)
}

#[cfg(test)]
#[path = "head_test.rs"]
mod head_test;

#[cfg(test)]
#[path = "catalog_test.rs"]
mod catalog_test;
