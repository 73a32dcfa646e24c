//! Reference counts: how many committed parents refer to a block.

use std::collections::BTreeMap;

use crate::error::{Error, Result};
use crate::number::{BlockNo, CHUNK_BLOCKS, ChunkNo};
use crate::store::BlockStore;

/// A number for each block, zero where none was set.
#[derive(Debug, Default)]
pub(crate) struct BlockNumbers {
    chunks: BTreeMap<ChunkNo, Box<[i32; CHUNK_BLOCKS as usize]>>,
}

impl BlockNumbers {
    pub(crate) fn get(&self, block: BlockNo) -> i32 {
        self.chunks
            .get(&block.chunk())
            .map_or(0, |numbers| numbers[block.index_in_chunk() as usize])
    }

    /// Adds to a block's number; what it was before.
    pub(crate) fn add(&mut self, block: BlockNo, change: i32) -> i32 {
        let numbers = self
            .chunks
            .entry(block.chunk())
            .or_insert_with(|| Box::new([0; CHUNK_BLOCKS as usize]));
        let number = &mut numbers[block.index_in_chunk() as usize];
        let before = *number;
        *number = before.saturating_add(change);
        before
    }

    /// The chunks with the numbers of their blocks, in order.
    pub(crate) fn chunks(&self) -> impl Iterator<Item = (ChunkNo, &[i32; CHUNK_BLOCKS as usize])> {
        self.chunks.iter().map(|(chunk, numbers)| (*chunk, &**numbers))
    }

    /// The numbers of one chunk's blocks.
    pub(crate) fn of_chunk(&self, chunk: ChunkNo) -> Option<&[i32; CHUNK_BLOCKS as usize]> {
        self.chunks.get(&chunk).map(|numbers| &**numbers)
    }
}

/// How a commit changes the counts, and which blocks become free by it.
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

    /// One reference less. True when it was the last, and the block becomes free.
    ///
    /// References that a commit adds must be added before any is dropped.
    pub(crate) fn drop_one(&mut self, store: &BlockStore, block: BlockNo) -> Result<bool> {
        let count = i64::from(store.refcount(block)?) + i64::from(self.changes.get(block));
        if count <= 0 {
            return Err(Error::damaged(format!(
                "{block} is referred to, but its reference count is {count}"
            )));
        }
        self.changes.add(block, -1);
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
        let mut freed: Vec<BlockNo> = self.freed.iter().copied().filter(|block| !kept(*block)).collect();
        freed.sort_unstable();
        freed
    }

    /// Changes the counts on the pool. What becomes free must read as zero by now: a holder takes it at once.
    pub(crate) fn apply(&self, store: &BlockStore) -> Result<()> {
        for (chunk, numbers) in self.changes.chunks() {
            let mut used = i64::from(store.used_blocks(chunk)?);
            let used_before = used;
            for (block, change) in chunk.blocks().zip(numbers) {
                if *change == 0 {
                    continue;
                }
                let before = store.refcount(block)?;
                let after = before.saturating_add_signed(*change);
                used += i64::from(after > 0) - i64::from(before > 0);
                if after == 0 {
                    store.clear_digest(block)?;
                }
                store.set_refcount(block, after)?;
            }
            let used = used.clamp(0, i64::from(CHUNK_BLOCKS)) as u32;
            if i64::from(used) != used_before {
                store.set_used_blocks(chunk, used)?;
            }
            if used == 0 && used_before != 0 && store.lease_owner(chunk)?.is_none() {
                store.release_empty_chunk(chunk)?;
            }
        }
        Ok(())
    }
}
