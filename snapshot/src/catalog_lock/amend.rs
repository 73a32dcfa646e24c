//! Amends snapshots: the inode is replaced, and nothing else changes.

use super::{BlockSource, CatalogEdit, CatalogLock, Commit};
use crate::catalog::Listed;
use crate::error::Result;
use crate::layout::inode::Inode;

impl CatalogLock<'_> {
    /// Gives a snapshot another inode, which has the same id, the same maps and the same state.
    /// Works in a pool that is full.
    pub(crate) fn amend(&mut self, listed: &Listed, amended: &Inode) -> Result<()> {
        debug_assert_eq!(listed.inode.id, amended.id);
        debug_assert_eq!(listed.inode.maps, amended.maps);
        let mut commit = Commit::begin(self, BlockSource::unleased())?;
        let block = commit.put_inode(listed.slot, amended)?;
        let edit = CatalogEdit {
            slots: vec![(listed.slot, Some(block))],
            ..CatalogEdit::default()
        };
        let superblock = commit.prepare(&edit)?;
        commit.switch(superblock)?;
        commit.settle(|_| false);
        Ok(())
    }
}
