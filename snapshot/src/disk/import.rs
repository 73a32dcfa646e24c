//! Imports: a disk that exists once all of it has been written.

use super::{DiskEntry, require_free_name, with_room};
use crate::catalog_lock::{CatalogLock, changes_of};
use crate::error::{Error, Result};
use crate::head_log::flush_data;
use crate::holder::Holder;
use crate::layout::inode::{FileMap, MapKind};
use crate::layout::node::Entry;
use crate::name::DiskName;
use crate::number::{BLOCK_SIZE_BYTES, BlockNo, CHUNK_BLOCKS, CHUNK_SIZE_BYTES, FrameIndex};
use crate::overlay::{Overlay, chunk_of};

/// A disk that is being written before it exists. One that is dropped, or whose process dies,
/// leaves nothing.
pub struct DiskImport<'h> {
    holder: &'h Holder,
    name: String,
    map: FileMap,
    overlay: Overlay,
    /// Each chunk of its map that has a block is one chunk of the pool.
    in_chunks: bool,
    /// End of what was written, in bytes.
    end: u64,
    /// Blocks that were taken ahead.
    spare: Vec<BlockNo>,
}

impl Holder {
    /// Begins to import a disk. `needed_bytes` of it are not zero, as far as that is known.
    ///
    /// # Errors
    /// [`Error::InvalidName`], [`Error::InvalidDisk`], [`Error::DiskNameTaken`],
    /// [`Error::NoDisksYet`]; [`Error::NoRoom`] when the pool does not have that much free.
    pub fn import_disk(
        &self,
        name: &str,
        size_bytes: u64,
        needed_bytes: u64,
    ) -> Result<DiskImport<'_>> {
        let map = FileMap::new(MapKind::Disk(DiskName::new(name)?), size_bytes, Entry::Hole)?;
        let pool = self.pool();
        let mut lock = CatalogLock::take(pool)?;
        if !pool.store.keeps_disks {
            return Err(Error::NoDisksYet);
        }
        let listing = lock.listing()?;
        require_free_name(&listing, name)?;
        let free_bytes = pool.free_blocks(&lock)? * BLOCK_SIZE_BYTES;
        if needed_bytes > free_bytes {
            return Err(Error::NoRoom {
                place: "the pool",
                needed_bytes,
                free_bytes,
                reserve_bytes: 0,
            });
        }
        Ok(DiskImport {
            holder: self,
            name: name.to_owned(),
            map,
            overlay: Overlay::default(),
            in_chunks: false,
            end: 0,
            spare: Vec::new(),
        })
    }
}

impl DiskImport<'_> {
    /// Has each 2 MiB of the disk that are not all zeros lie in the pool as 2 MiB, in order: so any
    /// pool can show the disk as memory. The disk's size becomes a multiple of 2 MiB. To be called
    /// before anything is written.
    ///
    /// # Errors
    /// None, as any disk can have that size.
    pub fn in_chunks(mut self) -> Result<Self> {
        self.in_chunks = true;
        self.set_size(self.map.size_bytes())?;
        Ok(self)
    }

    /// Gives the disk another size, for one whose size is not known when the import begins.
    ///
    /// # Errors
    /// [`Error::InvalidDisk`] for a size that no disk can have, or that leaves out what was
    /// written.
    pub fn set_size(&mut self, size_bytes: u64) -> Result<()> {
        let size_bytes = match self.in_chunks {
            true => size_bytes.next_multiple_of(CHUNK_SIZE_BYTES),
            false => size_bytes,
        };
        let map = FileMap::new(self.map.kind, size_bytes, Entry::Hole)?;
        if self.end > size_bytes {
            let what = format!(
                "{} bytes of it were written, and not {size_bytes}",
                self.end
            );
            return Err(Error::invalid_disk(&self.name, what));
        }
        self.map = map;
        Ok(())
    }

    /// Writes bytes, from a multiple of 4096 on. Blocks of zeros stay holes.
    ///
    /// # Errors
    /// [`Error::InvalidDisk`] behind the end, or at an offset that is no multiple of 4096;
    /// [`Error::PoolFull`], [`Error::MediumFull`], [`Error::Io`].
    pub fn write(&mut self, offset: u64, from: &[u8]) -> Result<()> {
        let end = offset.checked_add(from.len() as u64);
        let fits = end.is_some_and(|end| end <= self.map.size_bytes());
        if !fits || !offset.is_multiple_of(BLOCK_SIZE_BYTES) {
            let what = format!("{} bytes cannot be imported at byte {offset}", from.len());
            return Err(Error::invalid_disk(&self.name, what));
        }
        self.end = self.end.max(offset + from.len() as u64);
        let first = offset / BLOCK_SIZE_BYTES;
        for (frame, bytes) in (first..).zip(from.chunks(BLOCK_SIZE_BYTES as usize)) {
            let place = FrameIndex::new((frame % u64::from(CHUNK_BLOCKS)) as u32);
            let chunk = self.overlay.chunk(chunk_of(frame));
            let block = match chunk.and_then(|chunk| chunk.get(place)).flatten() {
                Some(block) => block,
                None if bytes.iter().all(|byte| *byte == 0) => continue,
                None if self.in_chunks => self.take_chunk(frame)?,
                None => {
                    let block = self.take()?;
                    self.overlay.set(frame, 1, Some(block));
                    block
                }
            };
            let region = &self.holder.pool().store.region;
            region.write_foreign(block.byte_offset(), bytes)?;
        }
        Ok(())
    }

    /// Takes a chunk for all neighbours of a frame. Gives the block of the frame.
    fn take_chunk(&mut self, frame: u64) -> Result<BlockNo> {
        let (chunk, place) = (self.holder.alloc_chunk()?, frame % u64::from(CHUNK_BLOCKS));
        let first = Some(chunk.block(FrameIndex::FIRST));
        self.overlay.set(frame - place, CHUNK_BLOCKS, first);
        Ok(chunk.block(FrameIndex::new(place as u32)))
    }

    fn take(&mut self) -> Result<BlockNo> {
        if self.spare.is_empty() {
            let more = self.holder.alloc_blocks(CHUNK_BLOCKS);
            let more = more.or_else(|_| self.holder.alloc_blocks(1))?;
            self.spare = more.into_iter().rev().collect();
        }
        let block = self.spare.pop();
        block.ok_or(Error::PoolFull { needed: 1, free: 0 })
    }

    /// Makes the disk exist, durably, with all that was written.
    ///
    /// # Errors
    /// [`Error::DiskNameTaken`], [`Error::PoolFull`], [`Error::Io`]; nothing is left then.
    pub fn finish(mut self) -> Result<DiskEntry> {
        let pool = self.holder.pool();
        let mut blocks = self.overlay.blocks();
        blocks.sort_unstable();
        pool.store.clear_digests_durably(&blocks)?;
        flush_data(&pool.store, &blocks)?;
        pool.store.region.fence()?;
        let changes = changes_of(&pool.store, &self.map, &self.overlay)?;
        let entry = with_room(pool, || {
            let mut lock = CatalogLock::take(pool)?;
            let listing = lock.listing()?;
            pool.add_disk(
                &mut lock,
                &listing,
                (&self.name, &self.map),
                &changes,
                false,
            )
        })?;
        self.holder.leases().release(&blocks);
        self.overlay = Overlay::default();
        Ok(entry)
    }
}

impl Drop for DiskImport<'_> {
    fn drop(&mut self) {
        let mut blocks = self.overlay.blocks();
        blocks.append(&mut self.spare);
        self.holder.leases().free(&blocks);
    }
}

impl std::fmt::Debug for DiskImport<'_> {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("DiskImport")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}
