//! The handle of an open pool: its file, its bytes, and what this process remembers of it.

use std::fs::File;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use nix::sys::stat::{SFlag, fstat};

use crate::catalog::{CatalogMemory, PoolWrites, WriteCounters};
use crate::chunk_digests::KnownDigests;
use crate::durability::{Durability, DurabilityLimit};
use crate::error::{Error, Result};
use crate::file_lock::SpareFiles;
use crate::layout::superblock::SuperblockV2;
use crate::lock_times::LockUse;
use crate::lock_wait::{LockWait, LockWaits};
use crate::number::{BLOCK_SIZE_BYTES, BlockNo};
use crate::region::{Medium, available_bytes};
use crate::store::BlockStore;

/// An open pool. Any number of processes, and of `Pool` values in a process, may have the same pool
/// open.
pub struct Pool {
    pub(crate) path: PathBuf,
    pub(crate) file: File,
    pub(crate) medium: Medium,
    pub(crate) durability: DurabilityLimit,
    pub(crate) uuid: [u8; 16],
    pub(crate) overcommit: AtomicBool,
    pub(crate) store: BlockStore,
    pub(crate) catalog: Mutex<CatalogMemory>,
    pub(crate) waits: LockWaits,
    /// Of the threads of this process, the one that has the cleaner lock.
    pub(crate) cleaner: Mutex<()>,
    pub(crate) cleaner_waits: LockWaits,
    pub(crate) writes: WriteCounters,
    /// Of snapshots that were sent or received.
    pub(crate) chunk_digests: KnownDigests,
    pub(crate) next_chunk: AtomicU32,
    /// For holders to come; only a process that opens files ahead has any.
    pub(crate) spare_files: SpareFiles,
    /// Set when opening succeeded: until then, closing must not mark the pool as closed in order.
    pub(crate) in_order: AtomicBool,
}

impl Pool {
    /// The pool's file, to map: block `b` is at byte `b * 4096`.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// The path of the pool.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens all files ahead that the pool may need later, for a process that confines itself:
    /// `holders` holders of it can then be made without opening a file.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn open_ahead(&self, holders: usize) -> Result<()> {
        crate::random::open_ahead()?;
        self.spare_files.fill(&self.file, &self.path, holders)
    }

    /// The kind of medium that the pool is on.
    pub fn medium(&self) -> Medium {
        self.medium
    }

    /// The durability of committed snapshots: every commit is as durable as the pool can make it.
    pub fn durability(&self) -> &DurabilityLimit {
        &self.durability
    }

    /// Checks that the pool can be that durable.
    ///
    /// # Errors
    /// [`Error::NotDurable`].
    pub fn require_durability(&self, asked: Durability) -> Result<()> {
        if asked <= self.durability.strongest {
            return Ok(());
        }
        let limit = self.durability.clone();
        Err(Error::NotDurable { asked, limit })
    }

    /// Checks that the pool can be opened again: what is committed to a file that was removed, or
    /// replaced by another one, is lost with its last user. A device stays.
    ///
    /// # Errors
    /// [`Error::Unlinked`], [`Error::Io`].
    pub fn require_name(&self) -> Result<()> {
        let found = fstat(&self.file).map_err(Error::io("looking at the pool's file"))?;
        let is_file = SFlag::from_bits_truncate(found.st_mode) & SFlag::S_IFMT == SFlag::S_IFREG;
        if is_file && found.st_nlink == 0 {
            let path = self.path.clone();
            return Err(Error::Unlinked { path });
        }
        Ok(())
    }

    /// Bytes that the medium under the pool can still give.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn medium_available_bytes(&self) -> Result<u64> {
        available_bytes(&self.file, self.medium)
    }

    /// Size of the pool, as far as this process has seen it grow.
    pub fn size_bytes(&self) -> u64 {
        self.store.layout.size_bytes()
    }

    /// The bytes that commits through this value have written so far.
    pub fn writes(&self) -> PoolWrites {
        self.writes.so_far()
    }

    /// True when the pool may promise more than its medium has.
    pub fn overcommit(&self) -> bool {
        self.overcommit.load(Ordering::Relaxed)
    }

    /// The wait of this process for the pool's lock, if one lasts now.
    pub fn lock_wait(&self) -> Option<LockWait> {
        self.waits.now()
    }

    /// The time for which this process has held the catalog lock, and more about it.
    pub fn lock_use(&self) -> LockUse {
        self.store.times.so_far()
    }

    /// Sets whether chunks for copies are made one page of a tmpfs where the kernel can do that.
    /// They are unless this says otherwise.
    pub fn want_huge_pages(&self, wanted: bool) {
        self.store.region.want_huge_pages(wanted);
    }

    /// True if a chunk for a copy is likely to become one page of a tmpfs.
    pub fn huge_pages_are_likely(&self) -> bool {
        self.store.region.is_likely_to_make_one_page()
    }

    /// Chunks that were taken as one page of a tmpfs.
    pub fn huge_pages_made(&self) -> u64 {
        self.store.region.huge_pages_made()
    }

    /// True when a free block may be without memory of the medium, and the medium without memory
    /// to give: then it is asked before anything is stored to the block. A tmpfs gives memory to
    /// whoever comes first, and others may fill it, whatever the pool's size promises.
    pub(crate) fn must_provide(&self) -> bool {
        self.overcommit() || self.medium == Medium::Tmpfs
    }

    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    pub(crate) fn next_chunk(&self) -> u32 {
        self.next_chunk.load(Ordering::Relaxed)
    }

    pub(crate) fn set_next_chunk(&self, chunk: u32) {
        self.next_chunk.store(chunk, Ordering::Relaxed);
    }

    /// Copies a block out: of a snapshot that is pinned, or one of the caller's own.
    ///
    /// # Errors
    /// [`Error::Damaged`] when the pool has no such block; [`Error::Io`].
    pub fn read_block(
        &self,
        block: BlockNo,
        into: &mut [u8; BLOCK_SIZE_BYTES as usize],
    ) -> Result<()> {
        self.store.region.read_unfilled(block.byte_offset(), into)
    }

    /// Has the medium give memory for those of `count` blocks from `first` on that were never
    /// written, before they are mapped. Snapshots of older programs have such blocks: these gave a
    /// guest whole chunks, and the medium gave memory when the guest touched it.
    ///
    /// To find the end of what is written takes the kernel a look at each page of it. So `written`
    /// keeps the last stretch that was found, in bytes: it is empty at first, and good as long as
    /// the blocks that are asked about stay pinned.
    ///
    /// # Errors
    /// [`Error::MediumFull`], [`Error::Io`].
    pub fn provide_unwritten(
        &self,
        first: BlockNo,
        count: u32,
        written: &mut Range<u64>,
    ) -> Result<()> {
        if self.medium != Medium::Tmpfs || self.overcommit() {
            return Ok(());
        }
        let region = &self.store.region;
        let mut at = first.byte_offset();
        let end = at + u64::from(count) * BLOCK_SIZE_BYTES;
        while at < end {
            if !written.contains(&at) {
                let found = region.next_written(at..region.len_bytes())?;
                let found = found.unwrap_or(end..end);
                let hole_end = found.start.clamp(at, end);
                if at < hole_end {
                    region.provide(at, hole_end - at)?;
                }
                at = hole_end;
                *written = found;
            }
            if written.contains(&at) {
                at = written.end;
            }
        }
        Ok(())
    }

    /// Takes note of what another process may have added to the pool. The caller has the catalog
    /// lock.
    pub(crate) fn follow_growth(&self, superblock: &SuperblockV2) -> Result<()> {
        let layout = &self.store.layout;
        if superblock.size_bytes.get() <= layout.size_bytes() {
            return Ok(());
        }
        self.overcommit
            .store(superblock.overcommit(), Ordering::Relaxed);
        self.store
            .region
            .extend(superblock.size_bytes.get(), superblock.overcommit())?;
        let grown = superblock.layout()?;
        for segment in grown.segments().skip(layout.segments().count()) {
            layout.add(*segment)?;
        }
        Ok(())
    }
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Pool")
            .field("path", &self.path)
            .field("medium", &self.medium)
            .finish_non_exhaustive()
    }
}
