//! Makes a pool one of the newest format version.

use super::{BlockSource, CatalogEdit, CatalogLock, Commit};
use crate::error::Result;
use crate::layout::FORMAT_VERSION_WAITING;

impl CatalogLock<'_> {
    /// Has freed blocks of the pool wait to be cleaned from now on. Nobody else may have it open:
    /// programs that do not know such blocks refuse it afterwards.
    pub(crate) fn upgrade(&mut self) -> Result<()> {
        let mut commit = Commit::begin(self, BlockSource::unleased())?;
        commit.needs_version(FORMAT_VERSION_WAITING);
        let superblock = commit.prepare(&CatalogEdit::default())?;
        commit.switch(superblock)?;
        commit.settle(|_| false);
        Ok(())
    }
}
