//! A VM of the model.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use nvvmm_snapshot::{
    BLOCK_SIZE_BYTES, BlockNo, CHUNK_BLOCKS, ChunkIndex, ChunkMap, Error, Holder, LeafBlocks,
    NewMap, NewSnapshot, Pool, SnapshotId, SnapshotKind,
};

use crate::{MEMORY_BYTES, Memory, Saved, or_full};

/// Frames that become a process image: those of a chunk that have blocks, of so many from the first
/// on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Capture {
    pub(crate) chunk: u32,
    pub(crate) first: u32,
    pub(crate) frames: u32,
    /// A page of the image is so many behind the one before.
    pub(crate) apart: u32,
}

/// A VM: what its memory must be, and which blocks hold it.
pub(crate) struct Vm {
    pub(crate) holder: Holder,
    pub(crate) process: usize,
    pub(crate) memory: Memory,
    pub(crate) map: BTreeMap<u32, LeafBlocks>,
    pub(crate) mine: HashSet<BlockNo>,
    pub(crate) base: Option<SnapshotId>,
    /// Process images that it pins: frames of its memory may be pages of theirs.
    images: HashSet<SnapshotId>,
    pub(crate) changed: HashSet<u32>,
}

impl Vm {
    pub(crate) fn new(pool: &Arc<Pool>, process: usize) -> Vm {
        Vm {
            holder: pool.hold("vm").unwrap(),
            process,
            memory: Memory::new(),
            map: BTreeMap::new(),
            mine: HashSet::new(),
            base: None,
            images: HashSet::new(),
            changed: HashSet::new(),
        }
    }

    fn store(&mut self, chunk: u32, frame: u32, block: BlockNo, with: u8) {
        self.holder.write_block(block, &[with; 4096]).unwrap();
        self.memory.insert((chunk, frame), with);
        self.mine.insert(block);
        self.put((chunk, frame), block);
    }

    /// Makes a block the frame's; the one before is given back if it is mine.
    fn put(&mut self, (chunk, frame): (u32, u32), block: BlockNo) {
        let leaf = self.map.entry(chunk).or_default();
        let old = leaf.get(frame);
        leaf.set(frame, Some(block));
        self.changed.insert(chunk);
        if let Some(old) = old.filter(|old| *old != block && self.mine.remove(old)) {
            self.holder.free_blocks(&[old]);
        }
    }

    pub(crate) fn write(&mut self, chunk: u32, frame: u32, frames: u32, with: u8, beside: bool) {
        let aside = if beside {
            or_full(self.holder.lease_chunk())
        } else {
            None
        };
        for frame in frame..(frame + frames).min(CHUNK_BLOCKS) {
            let block = self.map.get(&chunk).and_then(|leaf| leaf.get(frame));
            let block = match block.filter(|block| self.mine.contains(block)) {
                Some(block) => block,
                None => match aside.filter(|aside| self.holder.alloc_at(*aside, frame)) {
                    Some(aside) => aside.block(frame),
                    None => match or_full(self.holder.alloc_blocks(1)) {
                        Some(blocks) => blocks[0],
                        None => break,
                    },
                },
            };
            self.store(chunk, frame, block, with);
        }
        if let Some(aside) = aside {
            self.holder.end_set_aside(aside);
        }
    }

    pub(crate) fn write_whole(&mut self, chunk: u32, with: u8) {
        let Some(fresh) = or_full(self.holder.alloc_chunk()) else {
            return;
        };
        for frame in 0..CHUNK_BLOCKS {
            self.store(chunk, frame, fresh.block(frame), with);
        }
    }

    pub(crate) fn drop_chunk(&mut self, chunk: u32) {
        let Some(leaf) = self.map.remove(&chunk) else {
            return;
        };
        let mine: Vec<BlockNo> = leaf
            .iter_present()
            .map(|(_, block)| block)
            .filter(|block| self.mine.remove(block))
            .collect();
        self.holder.free_blocks(&mine);
        self.memory.retain(|(at, _), _| *at != chunk);
        self.changed.insert(chunk);
    }

    pub(crate) fn snapshot(&mut self, name: &str, reserve: bool) -> Result<Saved, Error> {
        let mut changed: Vec<u32> = self.changed.iter().copied().collect();
        changed.sort_unstable();
        let map_of = |chunk: &u32| self.map.get(chunk).cloned().unwrap_or_default();
        let changes: Vec<(ChunkIndex, ChunkMap)> = changed
            .iter()
            .map(|chunk| {
                (
                    ChunkIndex::new(*chunk),
                    ChunkMap::Frames(Arc::new(map_of(chunk))),
                )
            })
            .collect();
        let state = format!("{name} {:?}", self.memory.len())
            .repeat(200)
            .into_bytes();
        let blocks =
            self.holder
                .commit_blocks_needed(MEMORY_BYTES, changes.len() as u32, state.len());
        let reservation = self.holder.reserve(if reserve { blocks } else { 0 })?;
        let new = NewSnapshot {
            kind: SnapshotKind::Vm,
            name,
            parent: self.base,
            base: self.base,
            maps: vec![NewMap::memory(MEMORY_BYTES, &changes)],
            state: &state,
            frames_new: self.mine.len() as u64,
        };
        let id = self.holder.commit_snapshot(new, reservation)?.id;
        match self.base.replace(id) {
            Some(base) if self.images.is_empty() => self.holder.unpin(base).unwrap(),
            _ => self.holder.unpin_others(id).unwrap(),
        }
        self.images.clear();
        let shared: HashSet<BlockNo> = self
            .map
            .values()
            .flat_map(|leaf| leaf.iter_present().map(|(_, block)| block))
            .collect();
        self.mine.retain(|block| !shared.contains(block));
        assert!(
            self.mine.is_empty(),
            "the model lost track of blocks: {:?}",
            self.mine
        );
        self.changed.clear();
        Ok(Saved {
            id,
            kind: SnapshotKind::Vm,
            memory: self.memory.clone(),
            state,
        })
    }

    /// Frames become pages of a process image, the last one first.
    pub(crate) fn capture(&mut self, name: &str, capture: Capture) -> Result<Saved, Error> {
        let frames = capture.first..(capture.first + capture.frames).min(CHUNK_BLOCKS);
        let had = self.map.get(&capture.chunk).cloned().unwrap_or_default();
        let taken: Vec<(u32, BlockNo)> = frames
            .rev()
            .filter_map(|frame| Some((frame, had.get(frame)?)))
            .collect();
        let pages = (0..).step_by(capture.apart as usize);
        let mut leaves: BTreeMap<u32, LeafBlocks> = BTreeMap::new();
        let mut memory = Memory::new();
        for (page, (frame, block)) in pages.zip(&taken) {
            let place = (page / CHUNK_BLOCKS, page % CHUNK_BLOCKS);
            leaves
                .entry(place.0)
                .or_default()
                .set(place.1, Some(*block));
            memory.insert(place, self.memory[&(capture.chunk, *frame)]);
        }
        let changes: Vec<(ChunkIndex, ChunkMap)> = leaves
            .into_iter()
            .map(|(chunk, leaf)| (ChunkIndex::new(chunk), ChunkMap::Frames(Arc::new(leaf))))
            .collect();
        let state = name.repeat(20).into_bytes();
        let new = NewSnapshot {
            kind: SnapshotKind::Process,
            name,
            parent: self.base,
            base: None,
            maps: vec![NewMap::memory(
                u64::from(capture.apart * capture.frames) * BLOCK_SIZE_BYTES,
                &changes,
            )],
            state: &state,
            frames_new: 0,
        };
        let id = self
            .holder
            .commit_snapshot(new, self.holder.reserve(0)?)?
            .id;
        self.images.insert(id);
        for (_, block) in taken {
            self.mine.remove(&block);
        }
        Ok(Saved {
            id,
            kind: SnapshotKind::Process,
            memory,
            state,
        })
    }

    /// Pages of a process image become frames, from one frame of a chunk on and then from the
    /// chunk's first.
    pub(crate) fn adopt(
        &mut self,
        name: &str,
        image: &Saved,
        (chunk, first): (u32, u32),
    ) -> Result<(), Error> {
        let (entry, map) = self.holder.pin(name)?;
        self.images.insert(entry.id);
        for pages in map.iter_present() {
            let (index, pages) = pages?;
            for (page, block) in pages.iter_present() {
                let page = page.get();
                let frame = (first + page) % CHUNK_BLOCKS;
                self.memory
                    .insert((chunk, frame), image.memory[&(index.get(), page)]);
                self.put((chunk, frame), block);
            }
        }
        Ok(())
    }

    pub(crate) fn has_pinned(&self, id: SnapshotId) -> bool {
        self.base == Some(id) || self.images.contains(&id)
    }

    /// Number of snapshots that it pins.
    pub(crate) fn pins(&self) -> u32 {
        self.images.len() as u32 + u32::from(self.base.is_some())
    }

    pub(crate) fn verify(&self, pool: &Pool) {
        let leaves = self.map.iter().flat_map(|(chunk, leaf)| {
            leaf.iter_present()
                .map(move |(frame, block)| ((*chunk, frame.get()), block))
        });
        assert_eq!(read_all(pool, leaves), self.memory);
    }
}

pub(crate) fn read_all(pool: &Pool, frames: impl Iterator<Item = ((u32, u32), BlockNo)>) -> Memory {
    let mut bytes = [0; 4096];
    frames
        .map(|(place, block)| {
            pool.read_block(block, &mut bytes).unwrap();
            assert_eq!(bytes, [bytes[0]; 4096], "{block} is torn");
            (place, bytes[0])
        })
        .collect()
}
