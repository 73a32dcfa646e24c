//! Digests of snapshots' blocks: made once, compared ever after.
//!
//! Blocks are read without a lock and without a pin: nobody waits for a scrub, and a removal frees
//! at once. What was read counts only if the snapshot is still there afterwards, with the same map,
//! under the catalog lock: ids are never used twice and a snapshot's blocks never change, so they
//! were its blocks all the time. Digests are set and compared under the same lock, so none is ever
//! set for a block that is no snapshot's any more.
//!
//! Disks of the pool are read in the same way, as their last commit has them. A head never writes
//! to a block that a committed map has. What it commits meanwhile makes another map, and the disk
//! is left to the next scrub.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ops::ControlFlow;
use std::sync::Arc;

use serde::Serialize;

use crate::catalog_lock::CatalogLock;
use crate::chunk_map::ChunkMap;
use crate::error::{Error, Result};
use crate::frame_map::FrameMap;
use crate::handle::Pool;
use crate::layout::inode::{Inode, MapKind};
use crate::number::{BLOCK_SIZE_BYTES, BlockNo, ChunkIndex, ChunkNo, FrameSet, SnapshotId};

/// Chunks of memory that are read between two uses of the catalog lock.
const BATCH_CHUNKS: usize = 16;
/// Damaged frames that are listed; the rest is only counted.
const DAMAGED_MAX: usize = 1000;

/// Progress of a scrub.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ScrubProgress {
    /// Frames that were looked at. A block counts for each snapshot that it is in, and is read
    /// once.
    pub frames_done: u64,
    /// Frames of all snapshots that there were at the beginning.
    pub frames_total: u64,
}

/// The result of a scrub.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ScrubReport {
    /// Blocks that hold what they held when their digest was made.
    pub blocks_verified: u64,
    /// Blocks that had no digest and have one now.
    pub digests_made: u64,
    /// Blocks that hold something else than they did, or cannot be read.
    pub blocks_damaged: u64,
    /// Frames whose block is damaged, counted for each snapshot.
    pub frames_damaged: u64,
    /// Those frames, the first thousand.
    pub damaged: Vec<DamagedFrame>,
    /// Maps and saved states that are damaged, each as a sentence.
    pub findings: Vec<String>,
    /// Snapshots that were read to their end.
    pub snapshots_done: u32,
    /// Snapshots that were removed or consumed meanwhile.
    pub snapshots_gone: u32,
    /// True when the scrub ended before all was read.
    pub interrupted: bool,
}

/// A frame of a snapshot whose content is not what it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DamagedFrame {
    /// The snapshot, or the disk.
    pub snapshot: String,
    /// True for a disk of the pool itself; false for a snapshot.
    #[serde(skip)]
    pub is_disk: bool,
    /// The map that the frame is of.
    #[serde(skip)]
    pub map: MapKind,
    /// The frame: its offset in what is mapped, in frames of 4 KiB.
    pub frame: u64,
    /// The block that holds it.
    pub block: BlockNo,
    /// The medium could not read the block at all.
    pub unreadable: bool,
}

impl ScrubReport {
    /// True when nothing is damaged.
    pub fn is_clean(&self) -> bool {
        self.blocks_damaged == 0 && self.findings.is_empty()
    }
}

impl Pool {
    /// Reads everything that snapshots hold: verifies blocks that have a digest, and makes digests
    /// for the others. `on_progress` is called now and then, without any lock; when it breaks,
    /// the scrub ends early. Snapshots that are taken meanwhile are left to the next scrub.
    ///
    /// # Errors
    /// [`Error::Damaged`] when the catalog itself cannot be read, [`Error::Io`]. What else is wrong
    /// is in the report.
    pub fn scrub(
        self: &Arc<Self>,
        on_progress: &mut dyn FnMut(ScrubProgress) -> ControlFlow<()>,
    ) -> Result<ScrubReport> {
        let listing = CatalogLock::take(self)?.listing()?;
        let inodes: Vec<Arc<Inode>> = listing
            .iter()
            .map(|listed| Arc::clone(&listed.inode))
            .collect();
        Scrub::new(self, true, on_progress).run(&inodes)
    }

    /// Makes digests for the blocks of a snapshot that have none, and looks at no others. Ends
    /// early when `on_progress` breaks, or the snapshot is removed.
    ///
    /// # Errors
    /// As [`Pool::scrub`]; [`Error::NotFound`].
    pub fn make_digests(
        self: &Arc<Self>,
        id: SnapshotId,
        on_progress: &mut dyn FnMut(ScrubProgress) -> ControlFlow<()>,
    ) -> Result<ScrubReport> {
        let listing = CatalogLock::take(self)?.listing()?;
        let Some(listed) = listing.by_id(id) else {
            return Err(self.not_found(&id.to_string(), &listing));
        };
        Scrub::new(self, false, on_progress).run(&[Arc::clone(&listed.inode)])
    }
}

/// A scrub under way.
struct Scrub<'p> {
    pool: &'p Arc<Pool>,
    /// Reads blocks that have a digest, too.
    verify: bool,
    on_progress: &'p mut dyn FnMut(ScrubProgress) -> ControlFlow<()>,
    progress: ScrubProgress,
    report: ScrubReport,
    /// Blocks that are done. They stay what they are: a snapshot that has one of them has had it
    /// from the beginning.
    seen: BTreeMap<ChunkNo, FrameSet>,
    damaged: HashSet<BlockNo>,
    buffer: Vec<u8>,
}

/// Reads that do not count yet.
#[derive(Default)]
struct Batch {
    chunks: usize,
    /// The map that is being read.
    map: MapKind,
    frames: u64,
    reads: Vec<Read>,
    /// The fault of the snapshot itself.
    fault: Option<Error>,
}

struct Read {
    map: MapKind,
    frame: u64,
    block: BlockNo,
    found: Found,
}

enum Found {
    Digest(u32),
    Unreadable,
    /// The block was damaged when it was read for another snapshot.
    DamagedBefore,
}

impl<'p> Scrub<'p> {
    fn new(
        pool: &'p Arc<Pool>,
        verify: bool,
        on_progress: &'p mut dyn FnMut(ScrubProgress) -> ControlFlow<()>,
    ) -> Scrub<'p> {
        Scrub {
            pool,
            verify,
            on_progress,
            progress: ScrubProgress::default(),
            report: ScrubReport::default(),
            seen: BTreeMap::new(),
            damaged: HashSet::new(),
            buffer: Vec::new(),
        }
    }

    fn run(mut self, inodes: &[Arc<Inode>]) -> Result<ScrubReport> {
        self.progress.frames_total = inodes.iter().map(|inode| inode.frames_mapped).sum();
        for inode in inodes {
            let end = self.progress.frames_done + inode.frames_mapped;
            let told = self.snapshot(inode)?;
            if told.is_break() && self.progress.frames_done < self.progress.frames_total {
                self.report.interrupted = true;
                break;
            }
            self.progress.frames_done = end;
        }
        Ok(self.report)
    }

    fn snapshot(&mut self, inode: &Arc<Inode>) -> Result<ControlFlow<()>> {
        let maps: Vec<FrameMap> = inode
            .maps
            .iter()
            .map(|map| FrameMap::new(self.pool, inode.id, map))
            .collect();
        let mut chunks = maps.iter().flat_map(|map| {
            let chunks = map.iter_present();
            chunks.map(|chunk| chunk.map(|(index, blocks)| (map.kind(), index, blocks)))
        });
        let mut made_in = BTreeSet::new();
        let mut batch = Batch {
            fault: self
                .verify
                .then(|| self.pool.state_of(inode).err())
                .flatten(),
            ..Batch::default()
        };
        let mut told = ControlFlow::Continue(());
        loop {
            for chunk in chunks.by_ref().take(BATCH_CHUNKS) {
                batch.chunks += 1;
                match chunk {
                    Ok((kind, index, map)) => {
                        batch.map = kind;
                        self.read_chunk(index, &map, &mut batch)?;
                    }
                    Err(error) => batch.fault = Some(error),
                }
            }
            let (last, frames) = (batch.chunks < BATCH_CHUNKS, batch.frames);
            if !self.count(inode, std::mem::take(&mut batch), &mut made_in)? {
                self.report.snapshots_gone += 1;
                break;
            }
            self.progress.frames_done += frames;
            told = (self.on_progress)(self.progress);
            if last {
                self.report.snapshots_done += 1;
                break;
            }
            if told.is_break() {
                break;
            }
        }
        for chunk in made_in {
            self.pool.store.flush_digests(chunk)?;
        }
        self.pool.store.region.fence()?;
        Ok(told)
    }

    /// Reads the blocks of a chunk of memory that are not done yet, neighbours at once.
    fn read_chunk(&mut self, index: ChunkIndex, map: &ChunkMap, batch: &mut Batch) -> Result<()> {
        let mut wanted: Vec<(BlockNo, u64)> = Vec::new();
        for (at, block) in map.iter_present() {
            batch.frames += 1;
            let frame = index.frame_number(at);
            let seen = self.seen.get(&block.chunk());
            if seen.is_some_and(|seen| seen.contains(block.index_in_chunk())) {
                if self.damaged.contains(&block) {
                    let found = Found::DamagedBefore;
                    batch.reads.push(Read {
                        map: batch.map,
                        frame,
                        block,
                        found,
                    });
                }
            } else if self.verify || self.pool.store.digest(block)? == 0 {
                wanted.push((block, frame));
            }
        }
        wanted.sort_unstable();
        let neighbours = |left: &(BlockNo, u64), right: &(BlockNo, u64)| {
            left.0.get().checked_add(1) == Some(right.0.get())
        };
        for run in wanted.chunk_by(neighbours) {
            self.read_run(run, batch)?;
        }
        Ok(())
    }

    fn read_run(&mut self, run: &[(BlockNo, u64)], batch: &mut Batch) -> Result<()> {
        let region = &self.pool.store.region;
        let (block_bytes, start) = (BLOCK_SIZE_BYTES as usize, run[0].0.byte_offset());
        let len = run.len() * block_bytes;
        if self.buffer.len() < len {
            self.buffer.resize(len, 0);
        }
        let bytes = &mut self.buffer[..len];
        // A digest is made of what was committed, which the cache may still have, and compared with
        // what the medium has.
        if self.verify {
            region.forget_cached(start, bytes.len() as u64)?;
        }
        let whole = region.read_unfilled(start, bytes).is_ok();
        for ((block, frame), bytes) in run.iter().zip(bytes.chunks_exact_mut(block_bytes)) {
            // A run that cannot be read is read block by block, to find the one.
            let found = if whole || region.read_unfilled(block.byte_offset(), bytes).is_ok() {
                Found::Digest(digest_of(bytes))
            } else {
                Found::Unreadable
            };
            batch.reads.push(Read {
                map: batch.map,
                frame: *frame,
                block: *block,
                found,
            });
        }
        Ok(())
    }

    /// Compares and sets digests, if the snapshot is still there; false when it is not, and nothing
    /// counts.
    fn count(
        &mut self,
        inode: &Arc<Inode>,
        batch: Batch,
        made_in: &mut BTreeSet<ChunkNo>,
    ) -> Result<bool> {
        let mut lock = CatalogLock::take(self.pool)?;
        let listing = lock.listing()?;
        if !listing.still_has(inode) {
            return Ok(false);
        }
        if let Some(fault) = batch.fault {
            let what = inode.disk.as_ref().map_or("snapshot", |_| "disk");
            let finding = format!("{what} '{}': {fault}", inode.name);
            self.report.findings.push(finding);
        }
        let store = &self.pool.store;
        for Read {
            map,
            frame,
            block,
            found,
        } in batch.reads
        {
            let (digest, seen) = (
                store.digest(block)?,
                self.seen.entry(block.chunk()).or_default(),
            );
            let new = seen.insert(block.index_in_chunk());
            let unreadable = matches!(found, Found::Unreadable);
            match found {
                Found::Digest(now) if digest == 0 => {
                    store.set_digest(block, now)?;
                    made_in.insert(block.chunk());
                    self.report.digests_made += 1;
                }
                Found::Digest(now) if digest == now => self.report.blocks_verified += 1,
                _ => {
                    self.report.blocks_damaged += u64::from(new);
                    self.report.frames_damaged += 1;
                    self.damaged.insert(block);
                    if self.report.damaged.len() < DAMAGED_MAX {
                        self.report.damaged.push(DamagedFrame {
                            snapshot: inode.name.clone(),
                            is_disk: inode.disk.is_some(),
                            map,
                            frame,
                            block,
                            unreadable,
                        });
                    }
                }
            }
        }
        Ok(true)
    }
}

/// The digest of a block: its CRC-32, which is never 0.
pub(crate) fn digest_of(bytes: &[u8]) -> u32 {
    crc32fast::hash(bytes).max(1)
}

#[cfg(test)]
#[path = "scrub_test.rs"]
mod scrub_test;
