//! Reference counts: how many committed parents refer to a block.

use std::collections::BTreeMap;

use crate::error::{Error, Result};
use crate::layout::node::Entry;
use crate::layout::segment::WAITING;
use crate::number::{BlockNo, CHUNK_BLOCKS, ChunkNo, FrameIndex};
use crate::store::{BlockStore, ChunkWords, Fill};
use crate::tree::{Frames, NodePlace, Visitor, walk};

/// A number for each block, zero where none was set.
#[derive(Debug, Default)]
pub(crate) struct BlockNumbers {
    chunks: BTreeMap<ChunkNo, Numbers>,
}

/// The numbers of a chunk's blocks. Most of a guest's memory is whole chunks, which every snapshot
/// refers to as such: that is one addition and not 512.
#[derive(Debug, Default)]
struct Numbers {
    /// The number that each block has besides its own.
    of_all: i32,
    of_each: Option<Box<[i32; CHUNK_BLOCKS as usize]>>,
}

impl Numbers {
    fn get(&self, place: FrameIndex) -> i32 {
        let each = self.of_each.as_ref();
        let own = each.map_or(0, |each| each[place.as_usize()]);
        self.of_all.saturating_add(own)
    }

    fn each(&mut self) -> &mut [i32; CHUNK_BLOCKS as usize] {
        self.of_each
            .get_or_insert_with(|| Box::new([0; CHUNK_BLOCKS as usize]))
    }

    fn to_array(&self) -> [i32; CHUNK_BLOCKS as usize] {
        let each = self
            .of_each
            .as_deref()
            .unwrap_or(&[0; CHUNK_BLOCKS as usize]);
        each.map(|own| self.of_all.saturating_add(own))
    }
}

impl BlockNumbers {
    pub(crate) fn get(&self, block: BlockNo) -> i32 {
        self.chunks
            .get(&block.chunk())
            .map_or(0, |numbers| numbers.get(block.index_in_chunk()))
    }

    /// Adds to a block's number; what it was before.
    pub(crate) fn add(&mut self, block: BlockNo, change: i32) -> i32 {
        let numbers = self.chunks.entry(block.chunk()).or_default();
        let before = numbers.get(block.index_in_chunk());
        let own = &mut numbers.each()[block.index_in_chunk().as_usize()];
        *own = own.saturating_add(change);
        before
    }

    /// Adds one for each frame.
    pub(crate) fn add_frames(&mut self, frames: Frames<'_>) {
        match frames {
            Frames::Chunk(chunk) => self.add_chunk(chunk, 1),
            Frames::Leaf(blocks) => self.add_leaf(blocks.numbers()),
        }
    }

    fn add_chunk(&mut self, chunk: ChunkNo, change: i32) {
        let numbers = self.chunks.entry(chunk).or_default();
        numbers.of_all = numbers.of_all.saturating_add(change);
    }

    fn add_leaf(&mut self, blocks: &[u32]) {
        let follows = |left: &u32, right: &u32| {
            *left != 0 && left.wrapping_add(1) == *right && !right.is_multiple_of(CHUNK_BLOCKS)
        };
        let mut found: Option<(ChunkNo, &mut [i32; CHUNK_BLOCKS as usize])> = None;
        // Neighbours in memory are neighbours in the pool as a rule.
        for run in blocks.chunk_by(follows).filter(|run| run[0] != 0) {
            let first = BlockNo::new(run[0]);
            let each = match found {
                Some((chunk, each)) if chunk == first.chunk() => each,
                _ => self.chunks.entry(first.chunk()).or_default().each(),
            };
            let start = first.index_in_chunk().as_usize();
            for own in &mut each[start..start + run.len()] {
                *own = own.saturating_add(1);
            }
            found = Some((first.chunk(), each));
        }
    }

    /// The chunks with the numbers of their blocks, in order.
    fn chunks(&self) -> impl Iterator<Item = (ChunkNo, [i32; CHUNK_BLOCKS as usize])> {
        self.chunks
            .iter()
            .map(|(chunk, numbers)| (*chunk, numbers.to_array()))
    }

    /// The numbers of one chunk's blocks.
    pub(crate) fn of_chunk(&self, chunk: ChunkNo) -> Option<[i32; CHUNK_BLOCKS as usize]> {
        self.chunks.get(&chunk).map(Numbers::to_array)
    }
}

/// Changes that a commit makes to the counts, and the blocks that become free by it.
#[derive(Debug, Default)]
pub(crate) struct RefChanges {
    changes: BlockNumbers,
    freed: Vec<BlockNo>,
}

impl RefChanges {
    /// One more reference.
    pub(crate) fn add(&mut self, block: BlockNo) {
        self.changes.add(block, 1);
    }

    /// One more reference to each of these.
    pub(crate) fn add_frames(&mut self, frames: Frames<'_>) {
        self.changes.add_frames(frames);
    }

    /// One reference less. True when it was the last, and the block becomes free.
    ///
    /// References that a commit adds must be added before any is dropped.
    pub(crate) fn drop_one(&mut self, store: &BlockStore, block: BlockNo) -> Result<bool> {
        let count = references(store.refcount(block)?);
        let is_last = self.is_last(block, count, self.changes.get(block))?;
        self.changes.add(block, -1);
        Ok(is_last)
    }

    /// One reference less to each of these.
    pub(crate) fn drop_frames(&mut self, store: &BlockStore, frames: Frames<'_>) -> Result<()> {
        let chunk = match frames {
            Frames::Chunk(chunk) => chunk,
            Frames::Leaf(blocks) => {
                let mut present = blocks.iter_present();
                return present.try_for_each(|(_, block)| self.drop_one(store, block).map(drop));
            }
        };
        let counts = store.refcounts(chunk)?;
        let changes = self.changes.of_chunk(chunk);
        // Nearly all chunks are of one snapshot only.
        if changes.is_none() && counts.iter().all(|count| *count == 1) {
            self.freed.extend(chunk.blocks());
            self.changes.add_chunk(chunk, -1);
            return Ok(());
        }
        let changes = changes.as_ref().unwrap_or(&[0; CHUNK_BLOCKS as usize]);
        for ((block, count), change) in chunk.blocks().zip(counts).zip(changes) {
            self.is_last(block, references(count), *change)?;
        }
        self.changes.add_chunk(chunk, -1);
        Ok(())
    }

    /// Drops the reference to what an entry of a tree refers to, and all that only it referred to.
    pub(crate) fn drop_tree(
        &mut self,
        store: &BlockStore,
        entry: Entry,
        place: NodePlace,
    ) -> Result<()> {
        struct Drops<'a>(&'a BlockStore, &'a mut RefChanges);
        impl Visitor for Drops<'_> {
            fn frames(&mut self, frames: Frames<'_>) -> Result<()> {
                self.1.drop_frames(self.0, frames)
            }

            fn reference(&mut self, block: BlockNo) -> Result<bool> {
                self.1.drop_one(self.0, block)
            }
        }
        walk(store, entry, place, &mut Drops(store, self))
    }

    /// True when a block has one reference left, which is dropped: then it becomes free.
    fn is_last(&mut self, block: BlockNo, count: u32, change: i32) -> Result<bool> {
        let count = i64::from(count) + i64::from(change);
        if count <= 0 {
            return Err(Error::damaged(format!(
                "{block} is referred to, but its reference count is {count}"
            )));
        }
        if count == 1 {
            self.freed.push(block);
        }
        Ok(count == 1)
    }

    /// The blocks that become free.
    pub(crate) fn freed(&self) -> &[BlockNo] {
        &self.freed
    }

    /// The blocks that become free and are not in `kept`, sorted.
    pub(crate) fn freed_sorted(&self, kept: impl Fn(BlockNo) -> bool) -> Vec<BlockNo> {
        let mut freed: Vec<BlockNo> = self
            .freed
            .iter()
            .copied()
            .filter(|block| !kept(*block))
            .collect();
        freed.sort_unstable();
        freed
    }

    /// Changes the counts on the pool. What becomes free waits to be cleaned, but what is `kept` by
    /// a holder, and spare blocks, which read as zero by now.
    ///
    /// In a pool of an old version nothing waits: what becomes free must read as zero by now, as a
    /// holder takes it at once.
    pub(crate) fn apply(&self, store: &BlockStore, kept: &impl Fn(BlockNo) -> bool) -> Result<()> {
        let waits = |block: BlockNo| {
            store.cleans_later && store.layout.is_data_chunk(block.chunk()) && !kept(block)
        };
        for (chunk, changes) in self.changes.chunks() {
            let before = store.refcounts(chunk)?;
            let mut after: ChunkWords = before;
            for ((block, count), change) in chunk.blocks().zip(&mut after).zip(changes) {
                if change == 0 {
                    continue;
                }
                *count = references(*count).saturating_add_signed(change);
                if *count == 0 && waits(block) {
                    *count = WAITING;
                }
            }
            self.apply_to(store, chunk, &before, &after)?;
        }
        Ok(())
    }

    fn apply_to(
        &self,
        store: &BlockStore,
        chunk: ChunkNo,
        before: &ChunkWords,
        after: &ChunkWords,
    ) -> Result<()> {
        let is_freed =
            |index: usize| references(before[index]) > 0 && references(after[index]) == 0;
        if (0..before.len()).any(is_freed) {
            store.clear_digests(chunk, |place| is_freed(place.as_usize()))?;
        }
        let (fill_before, fill) = (Fill::of(before), Fill::of(after));
        let change = |before: u32, after: u32| after as i32 - before as i32;
        // First, so that the numbers of a chunk are never less than what waits in it.
        store.change_fill(
            chunk,
            change(fill_before.used, fill.used),
            change(fill_before.waiting, fill.waiting),
        )?;
        store.change_refcounts(chunk, before, after)?;
        if fill.waiting > fill_before.waiting {
            store.waiting_chunks.add(chunk);
        }
        if !store.cleans_later
            && fill.used == 0
            && fill_before.used != 0
            && store.lease_owner(chunk)?.is_none()
        {
            store.release_empty_chunk(chunk)?;
        }
        Ok(())
    }
}

/// Number of references to a block with this count.
pub(crate) fn references(count: u32) -> u32 {
    if count == WAITING { 0 } else { count }
}

#[cfg(test)]
#[path = "refs_test.rs"]
mod refs_test;
