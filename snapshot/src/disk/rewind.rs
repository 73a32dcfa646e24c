//! Disks that go back to what they were at a snapshot.

use std::sync::MutexGuard;

use super::flush::take_durable;
use super::head::{DiskHead, locked};
use super::with_room;
use crate::catalog_lock::{BlockSource, CatalogEdit, CatalogLock, Commit, set_map};
use crate::error::{Error, Result};
use crate::layout::inode::{FileMap, Inode};
use crate::number::{BlockNo, SnapshotId};

/// A head that goes back.
struct Back<'h> {
    head: &'h DiskHead,
    /// Name of its disk in the snapshot.
    drive: &'h str,
    /// The last record before it goes back.
    upto: u64,
    _folding: MutexGuard<'h, ()>,
}

impl<'h> Back<'h> {
    fn begin(head: &'h DiskHead, drive: &'h str) -> Result<Back<'h>> {
        let folding = locked(&head.folding);
        let mut state = head.change();
        head.check(&state, 0, 0)?;
        if !state.cuts.is_empty() {
            return Err(Error::invalid("a snapshot of the disk is being made"));
        }
        state.cut();
        Ok(Back {
            head,
            drive,
            upto: state.last,
            _folding: folding,
        })
    }

    /// The map of the snapshot is the committed one. What was written before is dropped.
    fn switched(&self, map: &FileMap) -> Vec<BlockNo> {
        let head = self.head;
        let mut state = head.change();
        state.frames = crate::FrameMap::new(&head.pool, head.disk, map);
        state.map = *map;
        let (gone, later) = std::mem::take(&mut state.layers)
            .into_iter()
            .partition(|layer| layer.upto <= self.upto);
        state.layers = later;
        state.folded = state.folded.max(self.upto);
        state.flushed = state.flushed.max(self.upto);
        let mut blocks = take_durable(&mut state.freed, self.upto);
        let gone: Vec<super::head::Layer> = gone;
        gone.iter()
            .for_each(|layer| blocks.extend(layer.overlay.blocks()));
        drop(state);
        head.leaves.forget_all();
        blocks
    }
}

impl DiskHead {
    /// Has disks be as they were at a snapshot, which somebody pins: by one commit, and by
    /// reference. Each is named with the name that it has in the snapshot. What was written to them
    /// since is lost, unless another snapshot has it.
    ///
    /// # Errors
    /// [`Error::NoDisk`], [`Error::PoolFull`], [`Error::Io`]: nothing has changed then.
    pub fn rewind_all(heads: &[(&DiskHead, &str)], snapshot: SnapshotId) -> Result<()> {
        let mut heads = heads.to_vec();
        // Always in the same order, as each has a lock.
        heads.sort_by_key(|(head, _)| head.disk);
        let Some((first, _)) = heads.first() else {
            return Ok(());
        };
        let pool = &first.pool;
        let backs = heads.iter().map(|(head, drive)| Back::begin(head, drive));
        let backs = backs.collect::<Result<Vec<_>>>()?;
        let gone = with_room(pool, || rewind_by_one_commit(&backs, snapshot))?;
        for (back, blocks) in backs.iter().zip(gone) {
            back.head.leases.free(&blocks);
        }
        Ok(())
    }
}

/// Gives the own blocks of each head that are not used any more.
fn rewind_by_one_commit(backs: &[Back<'_>], snapshot: SnapshotId) -> Result<Vec<Vec<BlockNo>>> {
    let Some(first) = backs.first() else {
        return Ok(Vec::new());
    };
    let pool = &first.head.pool;
    let mut lock = CatalogLock::take(pool)?;
    let listing = lock.listing()?;
    let of = listing.by_id(snapshot);
    let of = of.ok_or(Error::NotPinned { id: snapshot.get() })?;
    let mut inodes = Vec::new();
    for back in backs {
        let listed = back.head.listed(&mut lock)?;
        let map = pool
            .disk_map_of(&of.inode, back.drive)?
            .renamed(back.head.name);
        let mut inode = Inode::clone(&listed.inode);
        set_map(&mut inode, map);
        inode.advance_head(back.upto);
        inodes.push((listed.slot, inode, map));
    }
    let mut commit = Commit::begin(&mut lock, BlockSource::unleased())?;
    let mut edit = CatalogEdit::default();
    for (slot, inode, _) in &inodes {
        let block = commit.put_inode(*slot, inode)?;
        edit.slots.push((*slot, Some(block)));
    }
    let superblock = commit.prepare(&edit)?;
    commit.switch(superblock)?;
    let backs = backs.iter().zip(&inodes);
    let gone = backs
        .map(|(back, (_, _, map))| back.switched(map))
        .collect();
    commit.settle(|_| false);
    Ok(gone)
}
