//! The disks of a snapshot to be committed.

use super::commit::NewMap;
use crate::catalog::Listing;
use crate::catalog_lock::{Commit, set_map};
use crate::chunk_map::ChunkMap;
use crate::error::{Error, Result};
use crate::layout::inode::{FileMap, Inode};
use crate::name::DiskName;
use crate::number::{BlockNo, ChunkIndex, SnapshotId};

/// A disk that a snapshot has, and what its head has logged.
pub(crate) struct DiskFold<'a> {
    /// The disk's name in the snapshot.
    pub(crate) name: DiskName,
    pub(crate) disk: SnapshotId,
    /// The id of the head; none for what the holder pins.
    pub(crate) head: Option<u64>,
    /// The last record that the snapshot has.
    pub(crate) upto: u64,
    /// Differences from the disk's map. Blocks that are named here are durable.
    pub(crate) changes: Vec<(ChunkIndex, ChunkMap)>,
    /// The map of the disk before.
    pub(crate) map: FileMap,
    /// Called with the disk's map when it is the committed one.
    pub(crate) switched: Box<dyn Fn(&FileMap) + 'a>,
}

impl DiskFold<'_> {
    /// A disk that the holder pins, or one of a snapshot that it pins.
    pub(crate) fn of_pinned(id: SnapshotId, map: &FileMap, name: DiskName) -> DiskFold<'static> {
        DiskFold {
            name,
            disk: id,
            head: None,
            upto: 0,
            changes: Vec::new(),
            map: *map,
            switched: Box::new(|_| ()),
        }
    }

    /// Blocks of metadata that it takes at most.
    pub(super) fn blocks_needed(&self) -> u32 {
        match self.head {
            Some(_) => disk_blocks_needed(self.map.size_bytes(), self.changes.len()),
            None => 0,
        }
    }
}

/// Blocks of metadata that a commit takes at most for a disk of this size of which so many chunks
/// have changed: those of the map, an inode, a leaf of the catalog.
pub(crate) fn disk_blocks_needed(size_bytes: u64, changed_chunks: usize) -> u32 {
    let changed = u32::try_from(changed_chunks).unwrap_or(u32::MAX);
    let map = NewMap::blocks_needed(size_bytes, changed);
    u32::try_from(map + 2).unwrap_or(u32::MAX)
}

/// Disks that have what their heads have logged.
pub(super) struct FoldedDisks {
    maps: Vec<FileMap>,
    /// Their inodes for the catalog.
    slots: Vec<(u32, Option<BlockNo>)>,
}

/// Has disks have what their heads have logged.
pub(super) fn fold_disks(
    commit: &mut Commit<'_, '_>,
    disks: &[DiskFold<'_>],
    listing: &Listing,
) -> Result<FoldedDisks> {
    let (mut maps, mut slots) = (Vec::new(), Vec::new());
    for disk in disks {
        let listed = listing.by_id(disk.disk).filter(|listed| {
            let has_map = listed.inode.maps.contains(&disk.map);
            has_map && (disk.head.is_none() || listed.inode.head().map(|head| head.id) == disk.head)
        });
        let Some(listed) = listed else {
            return Err(Error::damaged(format!("disk '{}' has changed", disk.name)));
        };
        if disk.head.is_none() {
            maps.push(disk.map);
            continue;
        }
        let map = commit.fold(&disk.map, &disk.changes)?;
        let mut inode = Inode::clone(&listed.inode);
        set_map(&mut inode, map);
        inode.advance_head(disk.upto);
        slots.push((listed.slot, Some(commit.put_inode(listed.slot, &inode)?)));
        maps.push(map);
    }
    Ok(FoldedDisks { maps, slots })
}

impl FoldedDisks {
    /// Gives a snapshot's inode their maps.
    pub(super) fn add_to(&self, inode: &mut Inode, disks: &[DiskFold<'_>]) {
        for (map, disk) in self.maps.iter().zip(disks) {
            inode.maps.push(map.renamed(disk.name));
            inode.frames_mapped += map.frames();
        }
    }

    /// The changes of the catalog, with that of a snapshot.
    pub(super) fn slots_and(&self, slot: u32, block: BlockNo) -> Vec<(u32, Option<BlockNo>)> {
        let mut slots = self.slots.clone();
        slots.push((slot, Some(block)));
        slots
    }

    /// The commit is the newest. To be called before anything is freed that the maps before had.
    pub(super) fn switched(&self, disks: &[DiskFold<'_>]) {
        for (map, disk) in self.maps.iter().zip(disks) {
            (disk.switched)(map);
        }
    }
}
