//! Steps of a VM.

use std::sync::Arc;

use super::contents::Saved;
use super::expected::{captured, image_bytes, state};
use super::model::Vm;
use super::steps::From;
use crate::{
    BlockNo, ChunkIndex, ChunkMap, DiskHead, Error, NewMap, NewSnapshot, SnapshotId, SnapshotKind,
};

impl Vm {
    pub(super) fn restore(&mut self, name: &str) -> crate::Result<()> {
        let (entry, map) = self.holder.pin(name)?;
        for chunk in map.iter_present() {
            let (index, chunk) = chunk?;
            self.map.insert(index.get(), chunk.to_leaf());
        }
        self.memory_bytes = entry.memory_bytes;
        self.base = Some(entry.id);
        self.pins.push(entry.id);
        Ok(())
    }

    pub(super) fn write(
        &mut self,
        (chunk, first): (u32, u32),
        frames: u32,
        from: From,
        tag: u64,
    ) -> crate::Result<()> {
        if let From::WholeChunk | From::ForCopy = from {
            let is_filled = matches!(from, From::ForCopy);
            let whole = if is_filled {
                self.holder.alloc_chunk_for_copy()?.chunk
            } else {
                self.holder.alloc_chunk()?
            };
            return (0..512).try_for_each(|frame| {
                let block = whole.block(frame);
                if !is_filled {
                    self.emptied(block)?;
                }
                self.release_frame((chunk, frame));
                self.store((chunk, frame), block, tag + u64::from(frame))
            });
        }
        for frame in first..first + frames {
            let tag = tag + u64::from(frame - first);
            let own = self
                .block(chunk, frame)
                .filter(|block| self.own.contains(block));
            let block = match own {
                Some(block) => block,
                None => self.fresh_block(frame, from)?,
            };
            self.store((chunk, frame), block, tag)?;
        }
        Ok(())
    }

    fn fresh_block(&mut self, frame: u32, from: From) -> crate::Result<BlockNo> {
        if let From::Beside = from {
            let aside = match self.aside {
                Some(aside) => aside,
                None => self.holder.lease_chunk()?,
            };
            self.aside = Some(aside);
            if self.holder.alloc_at(aside, frame) {
                return self.emptied(aside.block(frame));
            }
            self.holder.end_set_aside(aside);
            self.aside = None;
        }
        let block = self.holder.alloc_blocks(1)?[0];
        self.emptied(block)
    }

    /// A block that was just taken: nobody may see in it what another VM wrote.
    fn emptied(&self, block: BlockNo) -> crate::Result<BlockNo> {
        let mut bytes = [0; 4096];
        self.holder.pool().read_block(block, &mut bytes)?;
        if bytes == [0; 4096] {
            Ok(block)
        } else {
            Err(Error::damaged(format!("{block} was free, and holds bytes")))
        }
    }

    fn release_frame(&mut self, (chunk, frame): (u32, u32)) {
        if let Some(block) = self.block(chunk, frame)
            && self.own.remove(&block)
        {
            self.holder.free_blocks(&[block]);
        }
    }

    pub(super) fn free(&mut self, chunk: u32) -> crate::Result<()> {
        if self.map.contains_key(&chunk) {
            for frame in 0..512 {
                self.release_frame((chunk, frame));
                self.frames.remove(&(chunk, frame));
            }
            self.map.insert(chunk, crate::LeafBlocks::new());
            self.changed.insert(chunk);
        }
        Ok(())
    }

    pub(super) fn snapshot(
        &mut self,
        name: &str,
        state: &[u8],
        reserve: u32,
        replaced: Option<&str>,
    ) -> crate::Result<()> {
        let replaced = replaced.map(|name| self.holder.pool().find(name));
        let replaced = replaced.transpose()?.map(|entry| entry.id);
        let changed = self
            .changed
            .iter()
            .filter_map(|chunk| Some((*chunk, self.map.get(chunk)?)));
        let changes: Vec<(ChunkIndex, ChunkMap)> = changed
            .map(|(chunk, leaf)| {
                (
                    ChunkIndex::new(chunk),
                    ChunkMap::Frames(Arc::new(leaf.clone())),
                )
            })
            .collect();
        let new = NewSnapshot {
            kind: SnapshotKind::Vm,
            name,
            parent: self.base,
            base: self.base,
            maps: vec![NewMap::memory(self.memory_bytes, &changes)],
            state,
            frames_new: 0,
        };
        let reservation = self.holder.reserve(reserve)?;
        let cuts = self.drives.iter().map(|drive| drive.head.cut());
        let cuts = cuts.collect::<crate::Result<Vec<_>>>()?;
        let committed =
            self.holder
                .commit_with_disks(new, cuts, replaced.as_slice(), reservation)?;
        self.base = Some(committed.id);
        self.pins.push(committed.id);
        self.changed.clear();
        self.own.clear();
        self.images.clear();
        Ok(())
    }

    pub(super) fn capture(
        &mut self,
        name: &str,
        (first, pages): (usize, usize),
        reserve: u32,
    ) -> crate::Result<()> {
        let taken = captured(self, first, pages);
        let mut leaf = crate::LeafBlocks::new();
        for ((_, page), (chunk, frame)) in &taken {
            leaf.set(*page, self.block(*chunk, *frame));
        }
        let changes = [(ChunkIndex::new(0), ChunkMap::Frames(Arc::new(leaf)))];
        let new = NewSnapshot {
            kind: SnapshotKind::Process,
            name,
            parent: self.base,
            base: None,
            maps: vec![NewMap::memory(image_bytes(pages), &changes)],
            state: &state(name, 300),
            frames_new: 0,
        };
        let reservation = self.holder.reserve(reserve)?;
        let committed = self.holder.commit_snapshot(new, reservation)?;
        self.images.insert(committed.id);
        self.pins.push(committed.id);
        for (_, (chunk, frame)) in taken {
            if let Some(block) = self.block(chunk, frame) {
                self.own.remove(&block);
            }
        }
        Ok(())
    }

    pub(super) fn adopt(&mut self, name: &str, image: &Saved, chunk: u32) -> crate::Result<()> {
        let (entry, map) = self.holder.pin(name)?;
        if !self.pins.contains(&entry.id) {
            self.pins.push(entry.id);
        }
        self.images.insert(entry.id);
        let pages = map.chunk(0)?;
        for (frame, block) in pages.iter_present() {
            let frame = frame.get();
            self.release_frame((chunk, frame));
            self.map.entry(chunk).or_default().set(frame, Some(block));
            self.frames
                .insert((chunk, frame), image.frames[&(0, frame)]);
            self.changed.insert(chunk);
        }
        Ok(())
    }

    pub(super) fn pin(&mut self, name: &str) -> crate::Result<()> {
        let (entry, _) = self.holder.pin(name)?;
        if !self.pins.contains(&entry.id) {
            self.pins.push(entry.id);
        }
        Ok(())
    }

    /// The disks go back to what they were at a snapshot; the memory stays.
    pub(super) fn rewind_disks(&mut self, name: &str) -> crate::Result<()> {
        let (entry, _) = self.holder.pin(name)?;
        if !self.pins.contains(&entry.id) {
            self.pins.push(entry.id);
        }
        let drives = self.drives.iter();
        let heads: Vec<_> = drives
            .map(|drive| (&*drive.head, drive.name.as_str()))
            .collect();
        DiskHead::rewind_all(&heads, entry.id)
    }

    /// A pin that the VM's memory does not need.
    pub(super) fn unpin(&mut self, pin: usize) -> crate::Result<()> {
        let spare = |id: &SnapshotId| Some(*id) != self.base && !self.images.contains(id);
        if let Some(id) = self.pins.iter().copied().filter(spare).nth(pin) {
            self.holder.unpin(id)?;
            self.pins.retain(|pinned| *pinned != id);
        }
        Ok(())
    }

    /// All pins but that of the base, which has all of the memory that the VM did not write since.
    pub(super) fn unpin_others(&mut self) -> crate::Result<()> {
        let Some(base) = self.base.filter(|_| self.images.is_empty()) else {
            return Err(Error::NotPinned { id: 0 });
        };
        self.holder.unpin_others(base)?;
        self.pins.retain(|pinned| *pinned == base);
        Ok(())
    }

    /// Takes the snapshot that the memory is exactly that of.
    pub(super) fn consume(&mut self) -> crate::Result<()> {
        let Some(id) = self.base.filter(|_| self.changed.is_empty()) else {
            return Err(Error::NotPinned { id: 0 });
        };
        let consumed = self.holder.consume(id)?;
        for chunk in consumed.memory() {
            let taken = chunk
                .map
                .iter_present()
                .filter(|(frame, _)| chunk.taken.contains(*frame));
            self.own.extend(taken.map(|(_, block)| block));
            // The rest has holes where blocks were taken.
            self.changed.insert(chunk.index.get());
        }
        self.base = consumed.rest;
        if consumed.rest.is_none() {
            self.pins.retain(|pinned| *pinned != id);
        }
        Ok(())
    }
}
