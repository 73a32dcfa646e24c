//! A snapshot's memory, disks and state, read without holding it.
//!
//! Blocks are read without a lock and without a pin, as by a scrub. So a reader delays no other
//! user of the pool, and leaves nothing behind when its process is killed. The bytes are given out
//! only if the snapshot is still there afterwards, with the same maps.

use std::sync::Arc;

use crate::catalog_lock::CatalogLock;
use crate::error::{Error, Result};
use crate::frame_map::FrameMap;
use crate::handle::Pool;
use crate::layout::inode::Inode;
use crate::number::{
    BLOCK_SIZE_BYTES, BlockNo, CHUNK_SIZE_BYTES, ChunkIndex, FrameIndex, SnapshotId,
};
use crate::pool::SnapshotEntry;

/// Reads one snapshot, as long as it is there. Any number of threads may use it.
#[derive(Debug)]
pub struct SnapshotReader {
    pool: Arc<Pool>,
    inode: Arc<Inode>,
    size_bytes: u64,
    map: FrameMap,
}

/// Neighbours in memory whose blocks are neighbours, too.
struct Run {
    first: Option<BlockNo>,
    bytes: usize,
}

impl Pool {
    /// A reader of the snapshot of this name.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Incomplete`], [`Error::Damaged`], [`Error::Io`].
    pub fn reader(self: &Arc<Self>, name: &str) -> Result<SnapshotReader> {
        let listing = CatalogLock::take(self)?.listing()?;
        SnapshotReader::new(self, self.inode_named(name, &listing)?)
    }

    /// A reader of the snapshot with this id. One that was removed and is still pinned can be read.
    ///
    /// # Errors
    /// As [`Pool::reader`].
    pub fn reader_of(self: &Arc<Self>, id: SnapshotId) -> Result<SnapshotReader> {
        let listing = CatalogLock::take(self)?.listing()?;
        match listing.by_id(id) {
            Some(listed) => SnapshotReader::new(self, Arc::clone(listed.complete()?)),
            None => Err(self.not_found(&id.to_string(), &listing)),
        }
    }
}

impl SnapshotReader {
    fn new(pool: &Arc<Pool>, inode: Arc<Inode>) -> Result<Self> {
        Ok(Self {
            pool: Arc::clone(pool),
            size_bytes: inode.memory()?.size_bytes(),
            map: FrameMap::of_memory(pool, &inode)?,
            inode,
        })
    }

    /// A reader of one of the snapshot's disks, in place of its memory. None if there is no disk of
    /// that name.
    pub fn of_disk(&self, name: &str) -> Option<SnapshotReader> {
        let map = self.inode.disk_named(name)?;
        Some(SnapshotReader {
            pool: Arc::clone(&self.pool),
            inode: Arc::clone(&self.inode),
            size_bytes: map.size_bytes(),
            map: FrameMap::new(&self.pool, self.inode.id, map),
        })
    }

    /// Size of what is read: of the memory, or of the disk.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// The catalog's entry of the snapshot. Its own and shared sizes are not counted.
    pub fn entry(&self) -> SnapshotEntry {
        SnapshotEntry::of(&self.inode)
    }

    /// The state that was saved with the snapshot.
    ///
    /// # Errors
    /// As [`SnapshotReader::read`].
    pub fn state(&self) -> Result<Vec<u8>> {
        self.pool.read_state(self.inode.id)
    }

    /// Copies memory, or the disk, out; what was never written is zeros.
    ///
    /// # Errors
    /// [`Error::NotFound`] when the snapshot was removed; [`Error::InvalidSnapshot`] behind the
    /// end; [`Error::Damaged`]; [`Error::Io`].
    pub fn read(&self, offset: u64, into: &mut [u8]) -> Result<()> {
        self.end_of(offset, into.len() as u64)?;
        self.valid(self.read_unguarded(offset, into))
    }

    /// The first byte from `offset` on that is in a block, none when only holes follow.
    ///
    /// # Errors
    /// As [`SnapshotReader::read`].
    pub fn next_data(&self, offset: u64) -> Result<Option<u64>> {
        self.end_of(offset, 0)?;
        self.valid(self.next_data_unguarded(offset))
    }

    /// The first byte from `offset` on that is in no block; the memory's end when only data
    /// follows.
    ///
    /// # Errors
    /// As [`SnapshotReader::read`].
    pub fn next_hole(&self, offset: u64) -> Result<u64> {
        self.end_of(offset, 0)?;
        self.valid(self.next_hole_unguarded(offset))
    }

    /// Checks that the snapshot is still there, and was while it was read. A map that makes no
    /// sense may be one whose blocks are somebody else's by now.
    fn valid<T>(&self, found: Result<T>) -> Result<T> {
        let listing = CatalogLock::take(&self.pool)?.listing()?;
        match listing.still_has(&self.inode) {
            true => found,
            false => Err(self.pool.not_found(&self.inode.name, &listing)),
        }
    }

    fn end_of(&self, offset: u64, len: u64) -> Result<u64> {
        let end = offset.checked_add(len);
        end.filter(|end| *end <= self.size_bytes).ok_or_else(|| {
            Error::invalid(format!(
                "{len} bytes from byte {offset} on are behind the {} bytes of the {}",
                self.size_bytes,
                self.map.kind()
            ))
        })
    }

    fn read_unguarded(&self, offset: u64, into: &mut [u8]) -> Result<()> {
        let (mut at, mut rest) = (offset, into);
        while !rest.is_empty() {
            let in_chunk = (CHUNK_SIZE_BYTES - at % CHUNK_SIZE_BYTES).min(rest.len() as u64);
            let (piece, behind) = rest.split_at_mut(in_chunk as usize);
            self.read_in_chunk(at, piece)?;
            (at, rest) = (at + in_chunk, behind);
        }
        Ok(())
    }

    /// Reads bytes of one chunk, neighbours in the pool at once.
    fn read_in_chunk(&self, offset: u64, into: &mut [u8]) -> Result<()> {
        let chunk = self.map.chunk(ChunkIndex::at_byte(offset))?;
        let (mut at, mut rest) = (offset, into);
        while !rest.is_empty() {
            let within = at % BLOCK_SIZE_BYTES;
            let mut run = Run {
                first: chunk.block(FrameIndex::at_byte(at)),
                bytes: rest.len().min((BLOCK_SIZE_BYTES - within) as usize),
            };
            while run.bytes < rest.len()
                && run.goes_on(
                    within,
                    chunk.block(FrameIndex::at_byte(at + run.bytes as u64)),
                )
            {
                run.bytes = rest.len().min(run.bytes + BLOCK_SIZE_BYTES as usize);
            }
            let (piece, behind) = rest.split_at_mut(run.bytes);
            match run.first {
                Some(block) => {
                    let region = &self.pool.store.region;
                    region.read_unfilled(block.byte_offset() + within, piece)?;
                }
                None => piece.fill(0),
            }
            (at, rest) = (at + run.bytes as u64, behind);
        }
        Ok(())
    }

    fn next_data_unguarded(&self, offset: u64) -> Result<Option<u64>> {
        for chunk in self.map.iter_present_from(ChunkIndex::at_byte(offset)) {
            let (index, chunk) = chunk?;
            let present = chunk.iter_present();
            let frames = present.map(|(frame, _)| index.byte_offset() + frame.byte_offset());
            let mut behind = frames.filter(|at| at + BLOCK_SIZE_BYTES > offset);
            if let Some(at) = behind.next() {
                return Ok(Some(at.max(offset)).filter(|at| *at < self.size_bytes));
            }
        }
        Ok(None)
    }

    fn next_hole_unguarded(&self, offset: u64) -> Result<u64> {
        let end = self.size_bytes;
        let mut at = offset;
        while at < end {
            let index = ChunkIndex::at_byte(at);
            let chunk = self.map.chunk(index)?;
            let first = FrameIndex::at_byte(at);
            let mut frames = FrameIndex::all().skip(first.as_usize());
            if let Some(frame) = frames.find(|frame| chunk.block(*frame).is_none()) {
                let hole = index.byte_offset() + frame.byte_offset();
                return Ok(at.max(hole).min(end));
            }
            at = index.byte_offset() + CHUNK_SIZE_BYTES;
        }
        Ok(end)
    }
}

impl Run {
    /// True when this block comes right behind the run, which began that many bytes into its first
    /// one.
    fn goes_on(&self, within: u64, block: Option<BlockNo>) -> bool {
        let blocks = (within + self.bytes as u64) / BLOCK_SIZE_BYTES;
        match (self.first, block) {
            (None, None) => true,
            (Some(first), Some(block)) => u64::from(first.get()) + blocks == u64::from(block.get()),
            _ => false,
        }
    }
}

#[cfg(test)]
#[path = "reader_test.rs"]
mod reader_test;
