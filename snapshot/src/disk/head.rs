//! The head of a disk: the one writer, with reads and writes of any number of threads.
//!
//! A write to a block that is the head's own goes into it. A write to any other one takes a fresh
//! block, puts the bytes there, logs that, and changes the map in memory. Own blocks are those that
//! were taken since the last cut: a cut makes all of them part of what a commit is going to have,
//! at once and for as long as it takes.
//!
//! Lock order: a fold, the catalog lock, the state, then the small ones.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use super::leaves::Leaves;
use super::{DiskCut, frames_of};
use crate::error::{Error, Result};
use crate::frame_map::FrameMap;
use crate::handle::Pool;
use crate::holder::disk_blocks_needed;
use crate::holder::lease::Leases;
use crate::layout::head_log::Change;
use crate::layout::inode::{FileMap, HeadPlace};
use crate::name::DiskName;
use crate::number::{
    BLOCK_SIZE_BYTES, BlockNo, CHUNK_BLOCKS, ChunkNo, FrameIndex, FrameSet, SnapshotId,
};
use crate::overlay::{Overlay, chunk_of};

/// Chunks of the map that may have changed. A head with so many commits them by itself, so that the
/// metadata of a snapshot has a bound: 4 MiB, and what is above the leaves.
const CHANGED_CHUNKS_MAX: usize = if cfg!(test) { 6 } else { 1024 };
/// Blocks that are taken ahead at once.
const SPARE_BLOCKS: u32 = 64;
/// Pause of a writer whose log is full until a snapshot is committed.
const FULL_PAUSE: Duration = Duration::from_millis(1);

/// A disk that a holder writes to. All calls may be made by several threads at once. When this is
/// dropped, or its holder, the disk is complete and anyone's again.
pub struct DiskHead {
    pub(super) pool: Arc<Pool>,
    pub(super) leases: Arc<Leases>,
    pub(super) disk: SnapshotId,
    pub(super) name: DiskName,
    /// `base` is not kept up to date.
    pub(super) place: HeadPlace,
    pub(super) state: RwLock<State>,
    pub(super) folding: Mutex<()>,
    /// Own blocks that were taken ahead.
    pub(super) spare: Mutex<Vec<BlockNo>>,
    pub(super) flushing: Mutex<()>,
    /// Writes and discards that are done, and those of them that are durable.
    pub(super) written: AtomicU64,
    pub(super) flushed: AtomicU64,
    /// Blocks that were written since the last flush.
    pub(super) dirty: Mutex<BTreeMap<ChunkNo, FrameSet>>,
    pub(super) leaves: Leaves,
}

/// The disk at a moment.
pub(super) struct State {
    /// The committed map.
    pub(super) map: FileMap,
    pub(super) frames: FrameMap,
    /// Changes that a commit is going to have, the oldest first.
    pub(super) layers: Vec<Layer>,
    /// Changes since the last cut. All blocks in it are own ones.
    pub(super) now: Overlay,
    /// The last record.
    pub(super) last: u64,
    /// The last one that the map has.
    pub(super) folded: u64,
    /// The last one that is durable.
    pub(super) flushed: u64,
    /// Own blocks that go once the record is durable that took them out of the map.
    pub(super) freed: Vec<(u64, BlockNo)>,
    /// The cuts that snapshots are being made of, by their last record.
    pub(super) cuts: BTreeMap<u64, u32>,
    /// The disk is anyone's again.
    pub(super) ended: bool,
}

/// Changes up to a record.
pub(super) struct Layer {
    pub(super) upto: u64,
    pub(super) overlay: Arc<Overlay>,
}

/// The block behind a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Behind {
    Own(BlockNo),
    Shared(BlockNo),
    Hole,
}

/// A piece of a request: some bytes of one block.
pub(super) struct Piece {
    pub(super) frame: u64,
    pub(super) start: usize,
    /// Its place in the request's buffer.
    pub(super) at: usize,
    pub(super) len: usize,
}

pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The pieces of a range, in order.
pub(super) fn pieces(offset: u64, len: usize) -> impl Iterator<Item = Piece> {
    let block = BLOCK_SIZE_BYTES;
    let mut at = 0;
    std::iter::from_fn(move || {
        let from = offset + at as u64;
        let start = (from % block) as usize;
        let len = (len - at).min(block as usize - start);
        let piece = Piece {
            frame: from / block,
            start,
            at,
            len,
        };
        at += len;
        (len > 0).then_some(piece)
    })
}

impl State {
    pub(super) fn new(pool: &Arc<Pool>, disk: SnapshotId, map: FileMap) -> State {
        State {
            frames: FrameMap::new(pool, disk, &map),
            map,
            layers: Vec::new(),
            now: Overlay::default(),
            last: 0,
            folded: 0,
            flushed: 0,
            freed: Vec::new(),
            cuts: BTreeMap::new(),
            ended: false,
        }
    }

    /// Chunks of the map that a commit of all changes would write at most.
    fn chunks_changed(&self) -> usize {
        let layers = self.layers.iter().map(|layer| layer.overlay.chunks());
        self.now.chunks() + layers.sum::<usize>()
    }

    /// Makes all own blocks part of a commit to come.
    pub(super) fn cut(&mut self) {
        if !self.now.is_empty() {
            self.layers.push(Layer {
                upto: self.last,
                overlay: Arc::new(std::mem::take(&mut self.now)),
            });
        }
    }
}

impl DiskHead {
    pub(super) fn new(
        pool: &Arc<Pool>,
        leases: &Arc<Leases>,
        (disk, name): (SnapshotId, DiskName),
        place: HeadPlace,
        map: FileMap,
    ) -> DiskHead {
        DiskHead {
            pool: Arc::clone(pool),
            leases: Arc::clone(leases),
            disk,
            name,
            place,
            state: RwLock::new(State::new(pool, disk, map)),
            folding: Mutex::default(),
            spare: Mutex::default(),
            flushing: Mutex::default(),
            written: AtomicU64::new(0),
            flushed: AtomicU64::new(0),
            dirty: Mutex::default(),
            leaves: Leaves::default(),
        }
    }

    /// Name of the disk.
    pub fn name(&self) -> &str {
        self.name.as_str()
    }

    /// Something was written to the disk since it was attached.
    pub fn is_written(&self) -> bool {
        self.look().last > 0
    }

    /// Gives the disk back, complete: it is anyone's again. Calls after the first do nothing.
    ///
    /// # Errors
    /// [`Error::PoolFull`], [`Error::Io`]: whoever attaches the disk next completes it.
    pub fn give_back(&self) -> Result<()> {
        crate::holder::Attached::end(self)
    }

    /// Size of the disk.
    pub fn size_bytes(&self) -> u64 {
        self.look().map.size_bytes()
    }

    pub(super) fn look(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn change(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn check(&self, state: &State, offset: u64, len: u64) -> Result<()> {
        let size = state.map.size_bytes();
        let what = match offset.checked_add(len) {
            _ if state.ended => "it was given back".to_owned(),
            Some(end) if end <= size => return Ok(()),
            _ => format!("{len} bytes from {offset} on are behind the end of its {size}"),
        };
        Err(Error::invalid_disk(self.name(), what))
    }

    fn region(&self) -> &dyn crate::region::Region {
        &*self.pool.store.region
    }

    fn behind(&self, state: &State, frame: u64) -> Result<Behind> {
        let (index, place) = (chunk_of(frame), FrameIndex::new((frame % 512) as u32));
        let known = |overlay: &Overlay| overlay.chunk(index)?.get(place);
        if let Some(block) = known(&state.now) {
            return Ok(block.map_or(Behind::Hole, Behind::Own));
        }
        let layers = state.layers.iter().rev();
        let mut known_below = layers.filter_map(|layer| known(&layer.overlay));
        let block = match known_below.next() {
            Some(block) => block,
            None => self.leaves.get(&state.frames, index)?.block(place),
        };
        Ok(block.map_or(Behind::Hole, Behind::Shared))
    }

    /// Reads bytes.
    ///
    /// # Errors
    /// [`Error::InvalidDisk`] behind the end; [`Error::Damaged`], [`Error::Io`].
    pub fn read(&self, offset: u64, into: &mut [u8]) -> Result<()> {
        let state = self.look();
        self.check(&state, offset, into.len() as u64)?;
        for piece in pieces(offset, into.len()) {
            let into = &mut into[piece.at..piece.at + piece.len];
            match self.behind(&state, piece.frame)? {
                Behind::Hole => into.fill(0),
                Behind::Own(block) | Behind::Shared(block) => self
                    .region()
                    .read(block.byte_offset() + piece.start as u64, into)?,
            }
        }
        Ok(())
    }

    /// Writes bytes. They survive the end of the process when this returns, and what the pool
    /// survives after the next [`DiskHead::flush`].
    ///
    /// # Errors
    /// [`Error::InvalidDisk`] behind the end; [`Error::PoolFull`], [`Error::MediumFull`]: some of
    /// the bytes may be written, and the same call may be made again; [`Error::Damaged`],
    /// [`Error::Io`].
    pub fn write(&self, offset: u64, from: &[u8]) -> Result<()> {
        self.check(&self.look(), offset, from.len() as u64)?;
        let at_once = (self.place.capacity() / 2).clamp(1, u64::from(CHUNK_BLOCKS));
        let mut at = 0;
        while at < from.len() {
            let start = offset + at as u64;
            // To the end of a chunk of the map, and no more records than the log has room for.
            let frame = start / BLOCK_SIZE_BYTES;
            let chunk_end = (frame / u64::from(CHUNK_BLOCKS) + 1) * u64::from(CHUNK_BLOCKS);
            let end = (frame + at_once).min(chunk_end) * BLOCK_SIZE_BYTES;
            let len = (from.len() - at).min((end - start) as usize);
            self.write_part(start, &from[at..at + len])?;
            at += len;
        }
        self.written.fetch_add(1, Ordering::AcqRel);
        Ok(())
    }

    /// Writes to blocks of one chunk of the map.
    fn write_part(&self, offset: u64, from: &[u8]) -> Result<()> {
        let blocks = pieces(offset, from.len()).count() as u32;
        loop {
            {
                let state = self.look();
                self.check(&state, offset, from.len() as u64)?;
                if self.write_own(&state, offset, from)? {
                    return Ok(());
                }
            }
            self.make_room(blocks)?;
            let mut state = self.change();
            self.check(&state, offset, from.len() as u64)?;
            let is_room = self.room(&state) >= u64::from(blocks);
            if is_room && locked(&self.spare).len() >= blocks as usize {
                return self.redirect(&mut state, offset, from);
            }
        }
    }

    /// Writes to own blocks if all are own ones.
    fn write_own(&self, state: &State, offset: u64, from: &[u8]) -> Result<bool> {
        for piece in pieces(offset, from.len()) {
            if !matches!(self.behind(state, piece.frame)?, Behind::Own(_)) {
                return Ok(false);
            }
        }
        for piece in pieces(offset, from.len()) {
            if let Behind::Own(block) = self.behind(state, piece.frame)? {
                self.put(block, piece.start, &from[piece.at..piece.at + piece.len])?;
            }
        }
        Ok(true)
    }

    fn put(&self, block: BlockNo, start: usize, from: &[u8]) -> Result<()> {
        let offset = block.byte_offset() + start as u64;
        self.region().write_foreign(offset, from)?;
        let mut dirty = locked(&self.dirty);
        dirty
            .entry(block.chunk())
            .or_default()
            .insert(block.index_in_chunk());
        Ok(())
    }

    /// Writes to own blocks, and to fresh ones in place of all others. There is room for it.
    fn redirect(&self, state: &mut State, offset: u64, from: &[u8]) -> Result<()> {
        let mut changes: Vec<Change> = Vec::new();
        for piece in pieces(offset, from.len()) {
            let from = &from[piece.at..piece.at + piece.len];
            let below = match self.behind(state, piece.frame)? {
                Behind::Own(block) => {
                    self.put(block, piece.start, from)?;
                    continue;
                }
                Behind::Shared(block) if from.len() < BLOCK_SIZE_BYTES as usize => Some(block),
                _ => None,
            };
            let block = self.take_spare()?;
            let written = self.put_fresh(block, below, piece.start, from);
            if let Err(error) = written {
                // Blocks that are logged already stay; this one may hold anything.
                self.leases.free(&[block]);
                self.log(state, &changes)?;
                return Err(error);
            }
            match changes.last_mut() {
                Some(last) if follows(last, piece.frame, block) => last.count += 1,
                _ => changes.push(Change {
                    frame: piece.frame,
                    count: 1,
                    block: Some(block),
                }),
            }
        }
        self.log(state, &changes)
    }

    fn take_spare(&self) -> Result<BlockNo> {
        let spare = locked(&self.spare).pop();
        spare.ok_or(Error::PoolFull { needed: 1, free: 0 })
    }

    fn put_fresh(
        &self,
        block: BlockNo,
        below: Option<BlockNo>,
        start: usize,
        from: &[u8],
    ) -> Result<()> {
        let Some(below) = below else {
            return self.put(block, start, from);
        };
        let mut bytes = [0; BLOCK_SIZE_BYTES as usize];
        self.pool.store.read_block(below, &mut bytes)?;
        bytes[start..start + from.len()].copy_from_slice(from);
        self.put(block, 0, &bytes)
    }

    /// Logs changes, and makes them. Own blocks that they take out of the map go later.
    fn log(&self, state: &mut State, changes: &[Change]) -> Result<()> {
        for change in changes {
            let sequence = state.last + 1;
            let record = change.seal(self.place.id, sequence);
            self.region()
                .write(self.place.record_offset(sequence), &record)?;
            state.last = sequence;
            for frame in change.frame..change.frame + u64::from(change.count) {
                let place = FrameIndex::new((frame % 512) as u32);
                let own = state
                    .now
                    .chunk(chunk_of(frame))
                    .and_then(|chunk| chunk.get(place));
                if let Some(Some(block)) = own {
                    state.freed.push((sequence, block));
                }
            }
            state.now.set(change.frame, change.count, change.block);
        }
        Ok(())
    }

    /// Records that there is room for, in the log and in a commit.
    fn room(&self, state: &State) -> u64 {
        if state.now.chunks() >= CHANGED_CHUNKS_MAX {
            return 0;
        }
        self.place
            .capacity()
            .saturating_sub(state.last - state.folded)
    }

    /// Has room for so many records in the log, and so many blocks taken ahead.
    fn make_room(&self, count: u32) -> Result<()> {
        while self.room(&self.look()) < u64::from(count) {
            // A snapshot that is being made has to be done first.
            if !self.fold()? {
                std::thread::sleep(FULL_PAUSE);
            }
        }
        let missing = count.saturating_sub(locked(&self.spare).len() as u32);
        if missing == 0 {
            return Ok(());
        }
        let mut taken = self.leases.alloc_provided(missing.max(SPARE_BLOCKS));
        if is_full(&taken) {
            taken = self.leases.alloc_provided(missing);
        }
        // What was discarded may be all that there is: own blocks wait for a flush, and those of
        // the committed map for a commit.
        if is_full(&taken) && !self.look().freed.is_empty() {
            self.flush_now()?;
            taken = self.leases.alloc_provided(missing);
        }
        if is_full(&taken) && self.fold()? {
            taken = self.leases.alloc_provided(missing);
        }
        let mut taken = taken?;
        // They are taken from the end.
        taken.reverse();
        locked(&self.spare).splice(0..0, taken);
        Ok(())
    }

    /// Makes whole blocks of a range holes: they read as zero, and their space is given back once
    /// that is durable. Parts of blocks stay as they are.
    ///
    /// # Errors
    /// As [`DiskHead::write`].
    pub fn discard(&self, offset: u64, len: u64) -> Result<()> {
        self.check(&self.look(), offset, len)?;
        let size = self.size_bytes();
        let first = offset.div_ceil(BLOCK_SIZE_BYTES);
        // The last block of the disk may be partial.
        let end = offset + len;
        let end = if end == size {
            frames_of(size)
        } else {
            end / BLOCK_SIZE_BYTES
        };
        let mut frame = first;
        while frame < end {
            let chunk_end = (frame / u64::from(CHUNK_BLOCKS) + 1) * u64::from(CHUNK_BLOCKS);
            let until = chunk_end.min(end);
            self.discard_part(frame, (until - frame) as u32)?;
            frame = until;
        }
        self.written.fetch_add(1, Ordering::AcqRel);
        Ok(())
    }

    /// Makes frames of one chunk holes, if any has a block.
    fn discard_part(&self, frame: u64, count: u32) -> Result<()> {
        let change = Change {
            frame,
            count,
            block: None,
        };
        loop {
            {
                let mut state = self.change();
                self.check(&state, frame * BLOCK_SIZE_BYTES, 0)?;
                let mut any = false;
                for frame in frame..frame + u64::from(count) {
                    any = any || self.behind(&state, frame)? != Behind::Hole;
                }
                if !any {
                    return Ok(());
                }
                if self.room(&state) > 0 {
                    return self.log(&mut state, &[change]);
                }
            }
            self.make_room(1)?;
        }
    }

    /// Has a range read as zero. Whole blocks become holes, parts of others are overwritten.
    ///
    /// # Errors
    /// As [`DiskHead::write`].
    pub fn write_zeroes(&self, offset: u64, len: u64) -> Result<()> {
        self.discard(offset, len)?;
        let zeros = [0; BLOCK_SIZE_BYTES as usize];
        let (size, end, block) = (self.size_bytes(), offset + len, BLOCK_SIZE_BYTES);
        let mut at = offset;
        while at < end {
            let next = ((at / block + 1) * block).min(end);
            let whole = at.is_multiple_of(block) && (next.is_multiple_of(block) || next == size);
            if whole {
                // To the last block, which may be a part.
                at = if end == size {
                    end
                } else {
                    end / block * block
                };
                continue;
            }
            let frame = at / block;
            let is_hole = self.behind(&self.look(), frame)? == Behind::Hole;
            if !is_hole {
                self.write(at, &zeros[..(next - at) as usize])?;
            }
            at = next;
        }
        Ok(())
    }

    /// Blocks of metadata that a snapshot of the disk takes at most: if it is cut now, and if more
    /// is written before.
    pub fn commit_blocks(&self) -> (u32, u32) {
        let state = self.look();
        let (now, size) = (state.chunks_changed(), state.map.size_bytes());
        let at_most = now - state.now.chunks() + CHANGED_CHUNKS_MAX;
        (
            disk_blocks_needed(size, now),
            disk_blocks_needed(size, at_most),
        )
    }

    /// Takes the disk as it is now for a snapshot: whatever is written from here on is not in it.
    /// The time that this takes does not depend on what was written: it touches no block.
    ///
    /// # Errors
    /// [`Error::InvalidDisk`] when the disk was given back.
    pub fn cut(self: &Arc<Self>) -> Result<DiskCut> {
        let mut state = self.change();
        self.check(&state, 0, 0)?;
        state.cut();
        let upto = state.last;
        *state.cuts.entry(upto).or_default() += 1;
        Ok(DiskCut::new(self, upto, self.name))
    }
}

/// True when a fresh block continues a change.
fn follows(last: &Change, frame: u64, block: BlockNo) -> bool {
    let Some(first) = last.block else {
        return false;
    };
    last.frame + u64::from(last.count) == frame
        && first.get().checked_add(last.count) == Some(block.get())
        && first.chunk() == block.chunk()
}

fn is_full<T>(done: &Result<T>) -> bool {
    matches!(done, Err(Error::PoolFull { .. } | Error::MediumFull { .. }))
}

impl std::fmt::Debug for DiskHead {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("DiskHead")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}
