//! Frames and blocks that one snapshot, or one process image, gets of the VM.

use std::collections::HashSet;

use nvvmm_snapshot::{BlockNo, ChunkIndex, ChunkMap, FrameIndex, FrameSet};

use super::frames::set_of;

/// Frames that one snapshot shares: the chunks that changed since the last one, as they were at its
/// instant.
#[derive(Debug, Default)]
pub struct ShareSet {
    changes: Vec<(ChunkIndex, ChunkMap)>,
    own: Vec<FrameSet>,
    copied: Vec<FrameSet>,
}

impl ShareSet {
    /// Adds a chunk: its blocks, and the frames of it that were the VM's own until now. Chunks come
    /// in rising order.
    pub(super) fn push(&mut self, index: ChunkIndex, map: ChunkMap, own: FrameSet) {
        self.push_copied(index, map, own, FrameSet::EMPTY);
    }

    /// Adds a chunk like [`ShareSet::push`]. The blocks of the frames in `copied`, which are own
    /// ones, are copies that the guest does not use itself.
    pub(super) fn push_copied(
        &mut self,
        index: ChunkIndex,
        map: ChunkMap,
        own: FrameSet,
        copied: FrameSet,
    ) {
        self.changes.push((index, map));
        self.own.push(own);
        self.copied.push(copied);
    }

    /// Chunks that differ from the last snapshot, by rising index.
    pub fn changes(&self) -> &[(ChunkIndex, ChunkMap)] {
        &self.changes
    }

    /// Blocks that were the VM's own until now.
    pub fn own_blocks(&self) -> impl Iterator<Item = BlockNo> {
        self.iter()
            .flat_map(|(_, map, own)| own.iter().filter_map(|frame| map.block(frame)))
    }

    /// Frames that were the VM's own until now.
    pub fn frames_new(&self) -> u64 {
        self.own.iter().map(|own| u64::from(own.count())).sum()
    }

    /// The part that is in none of `kept`: blocks that were the VM's own and become its own again.
    pub fn without(self, kept: &HashSet<BlockNo>) -> Self {
        let mut rest = Self::default();
        for ((index, map), own) in self.changes.into_iter().zip(self.own) {
            let is_left = |frame: &FrameIndex| {
                map.block(*frame)
                    .is_some_and(|block| !kept.contains(&block))
            };
            let left = set_of(own.places().filter(is_left));
            if !left.is_empty() {
                rest.push(index, map, left);
            }
        }
        rest
    }

    /// Chunks, their blocks, and the frames that were the VM's own.
    pub(super) fn iter(&self) -> impl Iterator<Item = (ChunkIndex, &ChunkMap, &FrameSet)> {
        let chunks = self.changes.iter().zip(&self.own);
        chunks.map(|((index, map), own)| (*index, map, own))
    }

    /// Chunks, their blocks, the frames that were the VM's own, and those of them that are copies.
    pub(super) fn iter_copied(
        &self,
    ) -> impl Iterator<Item = (ChunkIndex, &ChunkMap, &FrameSet, &FrameSet)> {
        let chunks = self.iter().zip(&self.copied);
        chunks.map(|((index, map, own), copied)| (index, map, own, copied))
    }
}
