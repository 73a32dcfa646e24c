//! Commits that change one disk.

use super::{BlockSource, CatalogEdit, CatalogLock, Commit};
use crate::catalog::Listed;
use crate::chunk_map::ChunkMap;
use crate::error::{Error, Result};
use crate::head_log::{flush_data, replay};
use crate::layout::inode::{FileMap, Inode};
use crate::number::ChunkIndex;
use crate::overlay::Overlay;
use crate::store::BlockStore;
use crate::tree::{self, NodePlace};

/// The chunks of a map with changes, as a commit needs them.
pub(crate) fn changes_of(
    store: &BlockStore,
    map: &FileMap,
    overlay: &Overlay,
) -> Result<Vec<(ChunkIndex, ChunkMap)>> {
    let changed = overlay.iter().map(|(index, chunk)| {
        let below = tree::lookup(store, map.root, NodePlace::root_of(map), index)?;
        Ok((index, chunk.over(&below)))
    });
    changed.collect()
}

impl<'p> Commit<'_, 'p> {
    /// The map of a disk with changes, whose blocks are durable once the commit is prepared.
    pub(crate) fn fold(
        &mut self,
        map: &FileMap,
        changes: &[(ChunkIndex, ChunkMap)],
    ) -> Result<FileMap> {
        let updated = tree::update(self, map.root, NodePlace::root_of(map), changes)?;
        let frames = map.frames().saturating_add_signed(updated.entries_change);
        Ok(map.with_root(updated.root).with_frames(frames))
    }
}

/// Gives a disk's inode another map.
pub(crate) fn set_map(inode: &mut Inode, map: FileMap) {
    inode.frames_mapped = map.frames();
    inode.maps = vec![map];
}

impl<'p> CatalogLock<'p> {
    /// Replaces the inode of a disk by one that `change` makes of it. `switched` is called with it
    /// when it is the committed one, and before anything is freed.
    pub(crate) fn change_disk(
        &mut self,
        listed: &Listed,
        takes_id: bool,
        change: impl FnOnce(&mut Commit<'_, 'p>, &mut Inode) -> Result<()>,
        switched: impl FnOnce(&Inode),
    ) -> Result<()> {
        let mut inode = Inode::clone(&listed.inode);
        let mut commit = Commit::begin(self, BlockSource::unleased())?;
        change(&mut commit, &mut inode)?;
        let block = commit.put_inode(listed.slot, &inode)?;
        let edit = CatalogEdit {
            slots: vec![(listed.slot, Some(block))],
            takes_id,
            ..CatalogEdit::default()
        };
        let superblock = commit.prepare(&edit)?;
        commit.switch(superblock)?;
        switched(&inode);
        commit.settle(|_| false);
        Ok(())
    }

    /// Adds a disk, whose inode has the next id, with changes of its map. Blocks that are named
    /// there are durable.
    pub(crate) fn add_disk(
        &mut self,
        slot: u32,
        inode: &Inode,
        changes: &[(ChunkIndex, ChunkMap)],
    ) -> Result<()> {
        let mut inode = Inode::clone(inode);
        let mut commit = Commit::begin(self, BlockSource::unleased())?;
        let map = commit.fold(inode.disk_map()?, changes)?;
        set_map(&mut inode, map);
        let block = commit.put_inode(slot, &inode)?;
        let edit = CatalogEdit {
            slots: vec![(slot, Some(block))],
            takes_id: true,
            ..CatalogEdit::default()
        };
        let superblock = commit.prepare(&edit)?;
        commit.switch(superblock)?;
        commit.settle(|_| false);
        Ok(())
    }

    /// Removes a disk.
    pub(crate) fn remove_disk(&mut self, slot: u32) -> Result<()> {
        let mut commit = Commit::begin(self, BlockSource::unleased())?;
        let edit = CatalogEdit {
            slots: vec![(slot, None)],
            ..CatalogEdit::default()
        };
        let superblock = commit.prepare(&edit)?;
        commit.switch(superblock)?;
        commit.settle(|_| false);
        Ok(())
    }

    /// Ends the head of a disk whose holder is dead: the map has what it logged.
    pub(crate) fn fold_dead_head(&mut self, listed: &Listed) -> Result<()> {
        let (store, map) = (self.store(), *listed.inode.disk_map()?);
        let Some(head) = listed.inode.head() else {
            return Ok(());
        };
        if store.is_held(head)? {
            return Err(Error::damaged(
                "the head of a living holder cannot be ended",
            ));
        }
        let overlay = replay(store, head, map.size_bytes())?.overlay;
        let mut blocks = overlay.blocks();
        blocks.sort_unstable();
        store.clear_digests_durably(&blocks)?;
        flush_data(store, &blocks)?;
        let changes = changes_of(store, &map, &overlay)?;
        let ended = |commit: &mut Commit<'_, 'p>, inode: &mut Inode| {
            set_map(inode, commit.fold(&map, &changes)?);
            inode.disk = Some(Default::default());
            Ok(())
        };
        self.change_disk(listed, false, ended, |_| ())
    }
}
