//! Removes snapshots: their names at once, their blocks when the last pin goes.

use serde::Serialize;

use super::{BlockSource, CatalogEdit, CatalogLock, Commit};
use crate::catalog::Listed;
use crate::error::Result;
use crate::fault::{FaultPoint, fault_point};
use crate::layout::inode::Inode;
use crate::number::SnapshotId;

/// The result of a removal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Removed {
    /// Number of blocks that snapshots do not use any more.
    pub blocks_freed: u64,
    /// True when a VM uses the snapshot: its name is gone, its blocks become free when that VM
    /// ends.
    pub deferred: bool,
}

impl Commit<'_, '_> {
    /// Has the commit remove a snapshot's name, and the snapshot if no living holder pins it. True
    /// when one does.
    pub(crate) fn remove(&mut self, listed: &Listed, edit: &mut CatalogEdit) -> Result<bool> {
        let pinned = !self.lock.holders_pinning(listed.inode.id)?.is_empty();
        let left = if pinned {
            let orphan = Inode {
                orphan: true,
                ..Inode::clone(&listed.inode)
            };
            edit.orphans_change += 1;
            Some(self.put_inode(listed.slot, &orphan)?)
        } else {
            None
        };
        edit.slots.push((listed.slot, left));
        edit.snapshots_change -= 1;
        Ok(pinned)
    }
}

impl CatalogLock<'_> {
    /// Removes a snapshot's name, and its blocks if no living holder pins it.
    pub(crate) fn remove(&mut self, listed: &Listed) -> Result<Removed> {
        fault_point(FaultPoint::RemoveDecided);
        let mut edit = CatalogEdit::default();
        let mut commit = Commit::begin(self, BlockSource::unleased())?;
        let deferred = commit.remove(listed, &mut edit)?;
        let superblock = commit.prepare(&edit)?;
        let blocks_freed = if deferred { 0 } else { commit.blocks_gained() };
        commit.switch(superblock)?;
        commit.settle(|_| false);
        Ok(Removed {
            blocks_freed,
            deferred,
        })
    }

    /// Takes inodes out of the catalog; by how many blocks the free space grew.
    fn delete(&mut self, gone: &[&Listed]) -> Result<u64> {
        let orphans = gone.iter().filter(|listed| listed.inode.orphan).count() as i32;
        let edit = CatalogEdit {
            slots: gone.iter().map(|listed| (listed.slot, None)).collect(),
            snapshots_change: orphans - gone.len() as i32,
            orphans_change: -orphans,
            takes_id: false,
        };
        let mut commit = Commit::begin(self, BlockSource::unleased())?;
        let superblock = commit.prepare(&edit)?;
        let blocks_freed = commit.blocks_gained();
        commit.switch(superblock)?;
        commit.settle(|_| false);
        Ok(blocks_freed)
    }

    /// Deletes the orphans that no living holder pins any more. Pins that are `leaving` do not
    /// count. They are cleared after the orphan is deleted: a process that dies in between may
    /// leave a pin of a snapshot that is gone, but never an orphan that is not found again.
    pub(crate) fn sweep_orphans(
        &mut self,
        leaving: impl Fn(u32, SnapshotId) -> bool,
    ) -> Result<()> {
        if self.current()?.superblock.orphans.get() == 0 {
            return Ok(());
        }
        let listing = self.listing()?;
        let mut gone = Vec::new();
        for listed in listing.iter().filter(|listed| listed.inode.orphan) {
            let id = listed.inode.id;
            let pinned = self
                .holders_pinning(id)?
                .into_iter()
                .any(|slot| !leaving(slot, id));
            if !pinned {
                gone.push(listed);
            }
        }
        if !gone.is_empty() {
            fault_point(FaultPoint::SweepDecided);
            self.delete(&gone)?;
        }
        Ok(())
    }
}
