//! Guest RAM goes back to a snapshot, under a machine that stays.
//!
//! Only chunks that differ are touched. These are the chunks that the next snapshot would list as
//! changed, and those in which the snapshot that the VM is based on has other blocks than the one
//! that it goes back to. Every other chunk has the blocks that it is to have.

use std::ops::Range;

use nvvmm_snapshot::{ChunkIndex, ChunkMap, FrameMap};

use super::{CowError, RamOrigin};

/// The memory of a pinned snapshot that a VM goes back to.
#[derive(Debug)]
pub struct RewindTo {
    frames: FrameMap,
    frames_mapped: u64,
    /// Chunks whose blocks are not those of the VM's base, by rising index.
    differing: Vec<ChunkIndex>,
    is_base: bool,
}

impl RewindTo {
    /// Reads the whole map of the snapshot, and compares it with that of the VM's base. `None`
    /// stands for a base without any block. The guest may run.
    ///
    /// So damage is found before anything is changed, and the map knows all of its inner nodes,
    /// which [`RamOrigin::chunk`] needs.
    ///
    /// # Errors
    /// A map cannot be read.
    pub fn new(
        frames: FrameMap,
        frames_mapped: u64,
        base: Option<&FrameMap>,
    ) -> Result<Self, CowError> {
        let is_base = base.is_some_and(|base| base.snapshot() == frames.snapshot());
        let differing = match is_base {
            true => {
                let chunks = frames.iter_present();
                { chunks }.try_for_each(|chunk| chunk.map(drop))?;
                Vec::new()
            }
            false => differing(&frames, base)?,
        };
        Ok(Self {
            frames,
            frames_mapped,
            differing,
            is_base,
        })
    }

    /// True if the VM is based on the snapshot: all blocks of chunks that are mapped have been
    /// mapped before, and so have memory.
    pub(super) fn is_base(&self) -> bool {
        self.is_base
    }

    /// Frames that have a block.
    pub(super) fn frames_mapped(&self) -> u64 {
        self.frames_mapped
    }

    /// The blocks of a chunk.
    pub(super) fn chunk(&self, index: ChunkIndex) -> Result<ChunkMap, CowError> {
        Ok(self.frames.chunk(index)?)
    }

    /// `changed` chunks and those that differ from the base, by rising index.
    pub(super) fn chunks_to_put_back(&self, changed: Vec<ChunkIndex>) -> Vec<ChunkIndex> {
        let mut all = changed;
        all.extend(&self.differing);
        all.sort_unstable();
        all.dedup();
        all
    }

    /// The content of chunks that are not mapped.
    pub(super) fn into_origin(self) -> RamOrigin {
        RamOrigin::Snapshot {
            frames: self.frames,
            frames_mapped: self.frames_mapped,
        }
    }
}

/// Chunks in which the maps differ, by rising index.
fn differing(to: &FrameMap, base: Option<&FrameMap>) -> Result<Vec<ChunkIndex>, CowError> {
    let mut differing = Vec::new();
    let mut there = base.into_iter().flat_map(FrameMap::iter_present);
    let mut next = there.next().transpose()?;
    for chunk in to.iter_present() {
        let (index, map) = chunk?;
        while let Some((behind, _)) = next.take_if(|(other, _)| *other < index) {
            differing.push(behind);
            next = there.next().transpose()?;
        }
        match next.take_if(|(other, _)| *other == index) {
            None => differing.push(index),
            Some((_, other)) => {
                if other != map {
                    differing.push(index);
                }
                next = there.next().transpose()?;
            }
        }
    }
    while let Some((behind, _)) = next {
        differing.push(behind);
        next = there.next().transpose()?;
    }
    Ok(differing)
}

/// A stretch of guest RAM that gets something else behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stretch {
    /// Its bytes of RAM.
    pub bytes: Range<usize>,
    /// Offset in the pool of the first byte; `None` for empty memory.
    pub pool_offset: Option<u64>,
}

/// Stretches by rising address. Neighbours that one mapping can hold become one.
#[derive(Debug, Default)]
pub(super) struct Stretches(Vec<Stretch>);

impl Stretches {
    /// Adds a stretch behind all others.
    pub fn add(&mut self, next: Stretch) {
        if let Some(last) = self.0.last_mut()
            && last.bytes.end == next.bytes.start
            && next.pool_offset == last.pool_offset.map(|at| at + last.bytes.len() as u64)
        {
            last.bytes.end = next.bytes.end;
            return;
        }
        self.0.push(next);
    }

    /// The stretches.
    pub fn iter(&self) -> impl Iterator<Item = &Stretch> {
        self.0.iter()
    }

    /// Bytes of RAM that have blocks, or that have none, as ranges without neighbours.
    pub fn ranges(&self, with_blocks: bool) -> Vec<Range<usize>> {
        let mut ranges: Vec<Range<usize>> = Vec::new();
        for stretch in &self.0 {
            if stretch.pool_offset.is_some() != with_blocks {
                continue;
            }
            match ranges.last_mut() {
                Some(last) if last.end == stretch.bytes.start => last.end = stretch.bytes.end,
                _ => ranges.push(stretch.bytes.clone()),
            }
        }
        ranges
    }
}

#[cfg(test)]
#[path = "rewind_test.rs"]
mod rewind_test;
