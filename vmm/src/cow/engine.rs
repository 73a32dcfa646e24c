//! Answers held accesses to guest RAM.

use std::{
    io,
    os::fd::BorrowedFd,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, RwLockReadGuard,
        atomic::{AtomicU64, Ordering},
    },
};

use nvvmm_snapshot::{BlockNo, ChunkMap, FrameMap, FrameSet, Holder, Pool};

use super::{
    Budget, CHUNK_FRAMES, CHUNK_SIZE_BYTES, FRAME_SIZE_BYTES,
    chunk::{KnownChunk, LiveChunk, MappedRun, target_runs},
    frames::{runs, set_of},
};
use crate::{
    checkpoint::report::RamCounters,
    memory::GuestRam,
    sys::{
        pagemap::Pagemap,
        reservation::{Reservation, Sharing},
        uffd::{Fault, Uffd, UffdError},
    },
};

/// Chunks per lazily made section of the chunk table: a sparse guest of many terabytes costs nothing for what it
/// never touches.
const SECTION_CHUNKS: usize = 256;

/// Why an access could not be answered.
#[derive(Debug, thiserror::Error)]
pub enum CowError {
    /// The pool has no block left. The access stays held and may be tried again.
    #[error("the pool is full: a guest write waits for a free block")]
    NoSpace,
    /// There is no userfaultfd to use.
    #[error(transparent)]
    Uffd(#[from] UffdError),
    /// The pool refused.
    #[error("pool: {0}")]
    Pool(nvvmm_snapshot::Error),
    /// The kernel refused.
    #[error("guest RAM: cannot {op}: {source}")]
    Os {
        /// What was tried.
        op: &'static str,
        /// The system's answer.
        source: io::Error,
    },
}

impl From<nvvmm_snapshot::Error> for CowError {
    fn from(error: nvvmm_snapshot::Error) -> Self {
        match error {
            nvvmm_snapshot::Error::PoolFull { .. } => Self::NoSpace,
            other => Self::Pool(other),
        }
    }
}

pub(super) fn os(op: &'static str) -> impl FnOnce(io::Error) -> CowError {
    move |source| match source.raw_os_error() {
        Some(libc::ENOSPC) => CowError::NoSpace,
        _ => CowError::Os { op, source },
    }
}

/// Where untouched chunks come from.
#[derive(Debug)]
pub enum Origin {
    /// A new guest: zeroes.
    Empty,
    /// The memory of a pinned snapshot.
    Snapshot {
        /// Its map.
        frames: FrameMap,
        /// How many frames it has.
        frames_mapped: u64,
    },
}

/// Counters that only ever grow, and levels.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub frames_mapped: AtomicU64,
    pub frames_own: AtomicU64,
    pub write_faults: AtomicU64,
    pub chunk_faults: AtomicU64,
    pub frames_copied: AtomicU64,
}

impl Counters {
    pub(super) fn add(counter: &AtomicU64, frames: u32) {
        counter.fetch_add(u64::from(frames), Ordering::Relaxed);
    }

    pub(super) fn sub(counter: &AtomicU64, frames: u64) {
        counter.fetch_sub(frames, Ordering::Relaxed);
    }
}

/// The copy-on-write engine of one VM.
#[derive(Debug)]
pub struct CowEngine {
    ram: GuestRam,
    pool: Arc<Pool>,
    pub(super) holder: Arc<Holder>,
    uffd: Uffd,
    pagemap: Pagemap,
    pub(super) origin: RwLock<Origin>,
    sections: Vec<OnceLock<Box<[Mutex<LiveChunk>]>>>,
    /// Taken for reading by whoever answers an access, for writing while frames are shared.
    pub(super) sharing: RwLock<()>,
    pub(super) dirty: Mutex<Vec<u32>>,
    pub(super) budget: Budget,
    pub(super) counters: Counters,
}

/// Locks survive a panic elsewhere: the state behind them is changed only in whole steps.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl CowEngine {
    /// Takes charge of `ram`: from now on every first touch of a chunk is held until [`CowEngine::answer`] has
    /// dealt with it.
    pub fn new(
        ram: GuestRam,
        pool: Arc<Pool>,
        holder: Arc<Holder>,
        origin: Origin,
        budget: Budget,
    ) -> Result<Self, CowError> {
        let uffd = Uffd::open()?;
        let reservation = ram.reservation();
        uffd.register_missing(reservation.start(), reservation.size_bytes())
            .map_err(os("hold first touches of guest RAM"))?;
        let chunks = reservation.size_bytes() / CHUNK_SIZE_BYTES;
        let counters = Counters::default();
        if let Origin::Snapshot { frames_mapped, .. } = &origin {
            counters.frames_mapped.store(*frames_mapped, Ordering::Relaxed);
        }
        Ok(Self {
            uffd,
            pagemap: Pagemap::open().map_err(os("open /proc/self/pagemap"))?,
            sections: (0..chunks.div_ceil(SECTION_CHUNKS))
                .map(|_| OnceLock::new())
                .collect(),
            ram,
            pool,
            holder,
            origin: RwLock::new(origin),
            sharing: RwLock::new(()),
            dirty: Mutex::new(Vec::new()),
            budget,
            counters,
        })
    }

    /// Guest RAM that this engine is in charge of.
    pub fn ram(&self) -> &GuestRam {
        &self.ram
    }

    /// The descriptor that is readable when an access is held.
    pub fn uffd(&self) -> &Uffd {
        &self.uffd
    }

    /// Levels and counts for status and reports.
    pub fn counters(&self) -> RamCounters {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (mapped, own) = (
            load(&self.counters.frames_mapped),
            load(&self.counters.frames_own),
        );
        RamCounters {
            frames_mapped: mapped,
            frames_own: own,
            frames_shared: mapped.saturating_sub(own),
            write_faults: load(&self.counters.write_faults),
            chunk_faults: load(&self.counters.chunk_faults),
            frames_copied: load(&self.counters.frames_copied),
            mappings: self.budget.mappings(),
        }
    }

    /// Whether the guest may write a frame of a chunk without a copy, and the block behind it when the engine has
    /// looked at it.
    pub fn own_block(&self, index: u32, frame: u32) -> (bool, Option<BlockNo>) {
        match &*lock(self.chunk(index)) {
            LiveChunk::Untouched => (false, None),
            LiveChunk::Known(known) => (known.own.contains(frame), known.block(frame)),
        }
    }

    /// Chunks of guest RAM.
    pub fn chunks(&self) -> u32 {
        (self.reservation().size_bytes() / CHUNK_SIZE_BYTES) as u32
    }

    /// Deals with one held access, so that it goes on. An access that was dealt with before is only woken.
    pub fn answer(&self, fault: Fault) -> Result<(), CowError> {
        let Some(offset) = fault.address.checked_sub(self.reservation().start()) else {
            return Ok(());
        };
        if offset >= self.reservation().size_bytes() {
            return Ok(());
        }
        let _not_sharing = self.sharing.read().unwrap_or_else(PoisonError::into_inner);
        let index = (offset / CHUNK_SIZE_BYTES) as u32;
        let frame = (offset % CHUNK_SIZE_BYTES / FRAME_SIZE_BYTES) as u32;
        let mut live = lock(self.chunk(index));
        let known = self.know(index, &mut live)?;
        let before = known.mappings_now();
        let answered = self.answer_in_chunk(index, known, frame, fault.write);
        self.budget.changed(before, known.mappings_now());
        answered?;
        let start = self.reservation().start() + index as usize * CHUNK_SIZE_BYTES;
        self.uffd
            .wake(start, CHUNK_SIZE_BYTES)
            .map_err(os("wake a held access"))
    }

    fn answer_in_chunk(
        &self,
        index: u32,
        known: &mut KnownChunk,
        frame: u32,
        write: bool,
    ) -> Result<(), CowError> {
        if !known.mapped {
            self.map_chunk(index, known)?;
            Counters::add(&self.counters.chunk_faults, 1);
        }
        match known.block(frame) {
            None => self.back_hole(index, known, frame),
            Some(_) if !write => Ok(()),
            // Armed although it is ours: its snapshot was never committed. Nothing needs a copy.
            Some(_) if known.own.contains(frame) => {
                let (start, size_bytes) = (self.address(index, frame), FRAME_SIZE_BYTES);
                self.uffd
                    .protect(start, size_bytes, false)
                    .map_err(os("disarm a frame"))
            }
            Some(_) => {
                Counters::add(&self.counters.write_faults, 1);
                self.copy_around(index, known, frame)
            }
        }
    }

    /// Maps every frame that has a block; a hole of 2 MiB gets a fresh chunk.
    pub(super) fn map_chunk(&self, index: u32, known: &mut KnownChunk) -> Result<(), CowError> {
        if let ChunkMap::Hole = known.map {
            match self.holder.alloc_chunk() {
                Ok(chunk) => {
                    let run = MappedRun {
                        frames: 0..CHUNK_FRAMES,
                        block: chunk.block(0),
                        private: false,
                    };
                    self.map_run(index, &run, Sharing::Shared)?;
                    known.map = ChunkMap::Whole(chunk);
                    self.gained(index, known, &FrameSet::FULL, CHUNK_FRAMES);
                }
                // No whole chunk is free: its frames are backed one cluster at a time.
                Err(nvvmm_snapshot::Error::PoolFull { .. }) => {}
                Err(other) => return Err(other.into()),
            }
            self.mark_mapped(index, known);
            return Ok(());
        }
        let backed = known.backed();
        known.private = set_of(backed.iter().filter(|frame| !known.own.contains(*frame)));
        for run in known.mapped_runs(&backed) {
            let sharing = if run.private {
                Sharing::Private
            } else {
                Sharing::Shared
            };
            self.map_run(index, &run, sharing)?;
        }
        self.mark_mapped(index, known);
        self.settle_early_writes(index, known)
    }

    fn mark_mapped(&self, index: u32, known: &mut KnownChunk) {
        known.mapped = true;
        self.budget.chunk_mapped(index, self.chunks());
    }

    /// Until a private mapping is armed, a write to it goes through, into a page of this process instead of the
    /// snapshot's block. Such frames become ours at once, from what the guest sees.
    fn settle_early_writes(&self, index: u32, known: &mut KnownChunk) -> Result<(), CowError> {
        for run in runs(&known.private) {
            let start = self.address(index, run.start);
            let written = self
                .pagemap
                .private_pages(start, run.len())
                .map_err(os("read pagemap"))?;
            for page in written {
                let frame = run.start + page as u32;
                let targets = self.targets(known, &[frame], frame)?;
                self.copy_to(index, known, &targets)?;
            }
        }
        Ok(())
    }

    fn back_hole(&self, index: u32, known: &mut KnownChunk, frame: u32) -> Result<(), CowError> {
        let window = window_of(frame, self.budget.cluster_frames(0));
        let holes: Vec<u32> = window.filter(|frame| known.block(*frame).is_none()).collect();
        let targets = self.targets(known, &holes, frame)?;
        for run in target_runs(&targets) {
            self.map_run(index, &run, Sharing::Shared)?;
        }
        known.replace(&targets);
        let gained = set_of(targets.iter().map(|(frame, _)| *frame));
        self.gained(index, known, &gained, gained.count());
        Ok(())
    }

    fn copy_around(&self, index: u32, known: &mut KnownChunk, frame: u32) -> Result<(), CowError> {
        if self.budget.is_spent() && self.copy_whole(index, known)? {
            return Ok(());
        }
        let sequential = if known.last_copy.end == frame {
            known.last_copy.len() as u32 * 2
        } else {
            0
        };
        let window = window_of(frame, self.budget.cluster_frames(sequential));
        known.last_copy = window.clone();
        let shared: Vec<u32> = window
            .filter(|f| known.block(*f).is_some() && !known.own.contains(*f))
            .collect();
        let targets = self.targets(known, &shared, frame)?;
        self.copy_to(index, known, &targets)
    }

    /// Copies frames, as the guest sees them, to `targets`, and maps those in their place.
    fn copy_to(
        &self,
        index: u32,
        known: &mut KnownChunk,
        targets: &[(u32, BlockNo)],
    ) -> Result<(), CowError> {
        for run in target_runs(targets) {
            let run_targets = &targets[targets.partition_point(|(frame, _)| *frame < run.frames.start)..]
                [..run.frames.len()];
            // The frames are armed: nobody changes them between the copy and the new mapping.
            let copied = self
                .copy_run(index, &run)
                .and_then(|()| self.map_run(index, &run, Sharing::Shared));
            if let Err(error) = copied {
                let blocks: Vec<BlockNo> = targets.iter().map(|(_, block)| *block).collect();
                let unused = targets.partition_point(|(frame, _)| *frame < run.frames.start);
                self.holder.free_blocks(&blocks[unused..]);
                return Err(error);
            }
            known.replace(run_targets);
            for frame in run.frames.clone() {
                known.private.remove(frame);
            }
            self.gained(index, known, &set_of(run.frames.clone()), 0);
            Counters::add(&self.counters.frames_copied, run.frames.len() as u32);
        }
        Ok(())
    }

    /// Gives the chunk a fresh pool chunk of its own, so that it takes one mapping. False when none is free.
    fn copy_whole(&self, index: u32, known: &mut KnownChunk) -> Result<bool, CowError> {
        let chunk = match self.holder.alloc_chunk() {
            Ok(chunk) => chunk,
            Err(nvvmm_snapshot::Error::PoolFull { .. }) => return Ok(false),
            Err(other) => return Err(other.into()),
        };
        let backed = known.backed();
        for run in known.mapped_runs(&known.own) {
            let (start, size_bytes) = (self.address(index, run.frames.start), run.frames.len());
            self.uffd
                .protect(start, size_bytes * FRAME_SIZE_BYTES, true)
                .map_err(os("arm frames for a copy"))?;
        }
        for run in runs(&backed) {
            let run = MappedRun {
                block: chunk.block(run.start),
                frames: run,
                private: false,
            };
            self.copy_run(index, &run)?;
        }
        let whole = MappedRun {
            frames: 0..CHUNK_FRAMES,
            block: chunk.block(0),
            private: false,
        };
        self.map_run(index, &whole, Sharing::Shared)?;
        let replaced: Vec<BlockNo> = known.own.iter().filter_map(|frame| known.block(frame)).collect();
        self.holder.free_blocks(&replaced);
        if let Some(spare) = known.spare.take() {
            self.holder.end_set_aside(spare);
        }
        known.map = ChunkMap::Whole(chunk);
        known.private = FrameSet::EMPTY;
        self.gained(index, known, &FrameSet::FULL, CHUNK_FRAMES - backed.count());
        Counters::add(&self.counters.frames_copied, backed.count());
        Ok(true)
    }

    fn copy_run(&self, index: u32, run: &MappedRun) -> Result<(), CowError> {
        let offset = self.ram_offset(index, run.frames.start);
        let size_bytes = run.frames.len() * FRAME_SIZE_BYTES;
        self.reservation()
            .copy_to_file(offset, size_bytes, self.pool_fd(), run.block.byte_offset())
            .map_err(os("copy frames"))
    }

    /// Maps a run of blocks. A private run is armed before anybody can count on it; see `settle_early_writes`.
    pub(super) fn map_run(&self, index: u32, run: &MappedRun, sharing: Sharing) -> Result<(), CowError> {
        let offset = self.ram_offset(index, run.frames.start);
        let size_bytes = run.frames.len() * FRAME_SIZE_BYTES;
        self.reservation()
            .map_file(
                offset,
                size_bytes,
                self.pool_fd(),
                run.block.byte_offset(),
                sharing,
            )
            .map_err(os("map blocks"))?;
        let start = self.reservation().start() + offset;
        // A new mapping is registered at once: the next arming needs it, and mappings merge only when alike.
        self.uffd
            .register_write_protect(start, size_bytes)
            .map_err(os("register blocks"))?;
        match sharing {
            Sharing::Shared => Ok(()),
            Sharing::Private => self
                .uffd
                .protect(start, size_bytes, true)
                .map_err(os("arm blocks")),
        }
    }

    /// Frames became writable: counts them and puts the chunk on the list for the next snapshot.
    fn gained(&self, index: u32, known: &mut KnownChunk, frames: &FrameSet, newly_backed: u32) {
        let new_own = frames.iter().filter(|frame| known.own.insert(*frame)).count() as u32;
        Counters::add(&self.counters.frames_own, new_own);
        Counters::add(&self.counters.frames_mapped, newly_backed);
        self.mark_dirty(index, known);
    }

    pub(super) fn mark_dirty(&self, index: u32, known: &mut KnownChunk) {
        if !known.dirty {
            known.dirty = true;
            lock(&self.dirty).push(index);
        }
    }

    /// The chunk's state, looked up in the origin at the first touch.
    pub(super) fn know<'a>(
        &self,
        index: u32,
        live: &'a mut LiveChunk,
    ) -> Result<&'a mut KnownChunk, CowError> {
        if let LiveChunk::Untouched = live {
            let map = match &*self.origin() {
                Origin::Empty => ChunkMap::Hole,
                Origin::Snapshot { frames, .. } => frames.chunk(index)?,
            };
            *live = LiveChunk::Known(Box::new(KnownChunk::unmapped(map, FrameSet::EMPTY)));
        }
        match live {
            LiveChunk::Known(known) => Ok(known),
            LiveChunk::Untouched => unreachable!("made known above"),
        }
    }

    pub(super) fn origin(&self) -> RwLockReadGuard<'_, Origin> {
        self.origin.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn chunk(&self, index: u32) -> &Mutex<LiveChunk> {
        let section = self.sections[index as usize / SECTION_CHUNKS].get_or_init(|| {
            (0..SECTION_CHUNKS)
                .map(|_| Mutex::new(LiveChunk::Untouched))
                .collect()
        });
        &section[index as usize % SECTION_CHUNKS]
    }

    /// Chunks that are in a section somebody has looked at, in order.
    pub(super) fn known_chunks(&self) -> impl Iterator<Item = (u32, &Mutex<LiveChunk>)> {
        self.sections
            .iter()
            .enumerate()
            .filter_map(|(number, section)| Some((number, section.get()?)))
            .flat_map(|(number, section)| {
                section
                    .iter()
                    .enumerate()
                    .map(move |(i, chunk)| ((number * SECTION_CHUNKS + i) as u32, chunk))
            })
    }

    pub(super) fn reservation(&self) -> &Reservation {
        self.ram.reservation()
    }

    fn pool_fd(&self) -> BorrowedFd<'_> {
        self.pool.fd()
    }

    fn ram_offset(&self, index: u32, frame: u32) -> usize {
        index as usize * CHUNK_SIZE_BYTES + frame as usize * FRAME_SIZE_BYTES
    }

    pub(super) fn address(&self, index: u32, frame: u32) -> usize {
        self.reservation().start() + self.ram_offset(index, frame)
    }
}

/// The aligned window of `size_frames` (a power of two) around `frame`.
fn window_of(frame: u32, size_frames: u32) -> std::ops::Range<u32> {
    let start = frame & !(size_frames - 1);
    start..start + size_frames
}
