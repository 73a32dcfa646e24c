//! Chunks that are received in any order, while a VM runs on the incomplete file.

use std::collections::HashSet;

use super::receiver::{Receiver, map_of};
use super::root::computed_root;
use crate::chunk_map::ChunkMap;
use crate::error::Result;
use crate::frame_map::FrameMap;
use crate::identity::ContentRoot;
use crate::number::ChunkIndex;
use crate::stream::ChunkRecord;

impl Receiver {
    /// Has the incomplete file keep the state, and nothing but chunks that are `present`.
    pub(super) fn begin_in_any_order(
        &mut self,
        state: &[u8],
        present: &HashSet<ChunkIndex>,
    ) -> Result<()> {
        self.early_state = state.to_vec();
        let target = self.target()?;
        let mut emptied = Vec::new();
        for chunk in target.start.iter().flat_map(FrameMap::iter_present) {
            let (index, _) = chunk?;
            if !present.contains(&index) {
                emptied.push((index, ChunkMap::Hole));
            }
        }
        self.targets[self.at].changes.extend(emptied);
        self.keep().map(drop)
    }

    /// Stores a chunk of memory, in any order. Its content is in no root yet.
    pub(super) fn chunk_in_any_order(&mut self, record: &ChunkRecord) -> Result<()> {
        let before = map_of(self.target()?.start.as_ref(), record.index)?;
        self.counts.received += u64::from(record.written.count());
        let now = self.frames(record, &before, &ChunkMap::Hole)?;
        if now != before {
            self.targets[self.at].changes.push((record.index, now));
        }
        Ok(())
    }

    /// Commits all that has arrived, and computes the root of it.
    pub(super) fn root_of_all(&mut self) -> Result<ContentRoot> {
        let kept = self.keep()?;
        let inode = self.holder.pinned_inode(kept)?;
        computed_root(&self.pool, &inode)
    }
}
