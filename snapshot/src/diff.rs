//! The differences between two snapshots, map by map.
//!
//! A block that both have at the same place is the same and is not read. As for a scrub, blocks are
//! read without a lock and without a pin; what was found counts only if both snapshots are still
//! there afterwards, with the same maps.

use std::collections::BTreeSet;
use std::iter::Peekable;
use std::ops::ControlFlow;
use std::sync::Arc;

use serde::Serialize;

use crate::catalog_lock::CatalogLock;
use crate::chunk_map::ChunkMap;
use crate::error::Result;
use crate::frame_map::FrameMap;
use crate::handle::Pool;
use crate::layout::inode::{Inode, MapKind};
use crate::number::{BLOCK_SIZE_BYTES, BlockNo, ChunkIndex, FrameIndex};

/// Progress of a comparison.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DiffProgress {
    /// Frames of either snapshot that were looked at.
    pub frames_done: u64,
    /// At most so many there are.
    pub frames_total: u64,
}

/// Frames that follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct FrameRun {
    /// The map that they are of.
    #[serde(skip)]
    pub map: MapKind,
    /// The first: its offset in what is mapped, in frames of 4 KiB.
    pub frame: u64,
    /// Their number.
    pub frames: u64,
}

/// Differences of two snapshots. A frame without a block is one of zeros, also behind the end of
/// the smaller memory.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct DiffReport {
    /// Frames whose block both have.
    pub frames_shared: u64,
    /// Frames in blocks of their own that hold the same.
    pub frames_alike: u64,
    /// Frames that hold something else.
    pub frames_different: u64,
    /// Those frames, in order.
    pub different: Vec<FrameRun>,
    /// True when the comparison ended before all was compared.
    pub interrupted: bool,
}

impl Pool {
    /// Compares the memories of two snapshots. `on_progress` is called now and then, without any
    /// lock; when it breaks, the comparison ends early.
    ///
    /// # Errors
    /// [`Error::NotFound`], also when one is removed meanwhile; [`Error::Damaged`]; [`Error::Io`].
    pub fn diff(
        self: &Arc<Self>,
        names: [&str; 2],
        on_progress: &mut dyn FnMut(DiffProgress) -> ControlFlow<()>,
    ) -> Result<DiffReport> {
        let listing = CatalogLock::take(self)?.listing()?;
        let [left, right] = names.map(|name| self.inode_named(name, &listing));
        let (left, right) = (left?, right?);
        let report = Diff::new(self, on_progress).run(&left, &right)?;
        let listing = CatalogLock::take(self)?.listing()?;
        for inode in [&left, &right] {
            if !listing.still_has(inode) {
                return Err(self.not_found(&inode.name, &listing));
            }
        }
        Ok(report)
    }
}

struct Diff<'p> {
    pool: &'p Arc<Pool>,
    on_progress: &'p mut dyn FnMut(DiffProgress) -> ControlFlow<()>,
    progress: DiffProgress,
    report: DiffReport,
    buffers: [Vec<u8>; 2],
}

impl<'p> Diff<'p> {
    fn new(
        pool: &'p Arc<Pool>,
        on_progress: &'p mut dyn FnMut(DiffProgress) -> ControlFlow<()>,
    ) -> Self {
        let frame = || vec![0; BLOCK_SIZE_BYTES as usize];
        Self {
            pool,
            on_progress,
            progress: DiffProgress::default(),
            report: DiffReport::default(),
            buffers: [frame(), frame()],
        }
    }

    fn run(mut self, left: &Inode, right: &Inode) -> Result<DiffReport> {
        self.progress.frames_total = left.frames_mapped + right.frames_mapped;
        let maps = left.maps.iter().chain(&right.maps);
        let kinds: BTreeSet<MapKind> = maps.map(|map| map.kind).collect();
        for kind in kinds {
            if self.maps(kind, [left, right])?.is_break() {
                self.report.interrupted = self.progress.frames_done < self.progress.frames_total;
                break;
            }
        }
        Ok(self.report)
    }

    /// Compares the maps of one kind; a snapshot without one has only holes there.
    fn maps(&mut self, kind: MapKind, inodes: [&Inode; 2]) -> Result<ControlFlow<()>> {
        let maps = inodes.map(|inode| {
            let map = inode.map(kind);
            map.map(|map| FrameMap::new(self.pool, inode.id, map))
        });
        let mut sides = maps
            .each_ref()
            .map(|map| map.iter().flat_map(FrameMap::iter_present).peekable());
        while let Some(index) = next_index(&mut sides)? {
            let [left, right] = sides.each_mut().map(|side| chunk_at(side, index));
            self.progress.frames_done += u64::from(left.count()) + u64::from(right.count());
            self.chunk(kind, index, &left, &right)?;
            if (self.on_progress)(self.progress).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    fn chunk(
        &mut self,
        kind: MapKind,
        index: ChunkIndex,
        left: &ChunkMap,
        right: &ChunkMap,
    ) -> Result<()> {
        for frame in FrameIndex::all() {
            match (left.block(frame), right.block(frame)) {
                (None, None) => {}
                (left, right) if left == right => self.report.frames_shared += 1,
                (left, right) => {
                    if self.alike(left, right)? {
                        self.report.frames_alike += 1;
                    } else {
                        self.different(kind, index.frame_number(frame));
                    }
                }
            }
        }
        Ok(())
    }

    fn alike(&mut self, left: Option<BlockNo>, right: Option<BlockNo>) -> Result<bool> {
        for (buffer, block) in self.buffers.iter_mut().zip([left, right]) {
            match block {
                Some(block) => self
                    .pool
                    .store
                    .region
                    .read_unfilled(block.byte_offset(), buffer)?,
                None => buffer.fill(0),
            }
        }
        Ok(self.buffers[0] == self.buffers[1])
    }

    fn different(&mut self, map: MapKind, frame: u64) {
        self.report.frames_different += 1;
        match self.report.different.last_mut() {
            Some(run) if run.map == map && run.frame + run.frames == frame => run.frames += 1,
            _ => self.report.different.push(FrameRun {
                map,
                frame,
                frames: 1,
            }),
        }
    }
}

/// The first chunk that either side has, of those that are left.
pub(crate) fn next_index<I>(sides: &mut [Peekable<I>; 2]) -> Result<Option<ChunkIndex>>
where
    I: Iterator<Item = Result<(ChunkIndex, ChunkMap)>>,
{
    let mut first: Option<ChunkIndex> = None;
    for side in sides {
        // What cannot be read is taken out, to be told.
        if let Some(Err(error)) = side.next_if(|chunk| chunk.is_err()) {
            return Err(error);
        }
        if let Some(Ok((index, _))) = side.peek() {
            first = Some(first.map_or(*index, |first| first.min(*index)));
        }
    }
    Ok(first)
}

/// A side's chunk of this index, if that is what it has next; a hole otherwise.
pub(crate) fn chunk_at<I>(side: &mut Peekable<I>, index: ChunkIndex) -> ChunkMap
where
    I: Iterator<Item = Result<(ChunkIndex, ChunkMap)>>,
{
    match side.next_if(|chunk| chunk.as_ref().is_ok_and(|(next, _)| *next == index)) {
        Some(Ok((_, map))) => map,
        _ => ChunkMap::Hole,
    }
}

#[cfg(test)]
#[path = "diff_test.rs"]
mod diff_test;
