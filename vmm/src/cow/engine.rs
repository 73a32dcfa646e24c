//! What a VM needs of a copy-on-write engine, whichever it is.

use std::{
    collections::HashSet,
    fmt::Debug,
    io,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use nvvmm_snapshot::{BlockNo, ChunkIndex, ChunkMap, Consumed, FrameMap, FrameSet, Reservation};

use super::frames::set_of;
use crate::{
    checkpoint::report::RamCounters,
    memory::{GuestRam, WriteLog},
    stats::KernelCalls,
    sys::uffd::{Fault, Uffd, UffdError},
};

/// The copy-on-write engine of one VM: it decides what is mapped behind guest RAM, and hands frames
/// to snapshots.
pub trait CowEngine: Debug + Send + Sync {
    /// Guest RAM that this engine is in charge of.
    fn ram(&self) -> &GuestRam;

    /// The descriptor that is readable when an access is held.
    fn uffd(&self) -> &Uffd;

    /// Levels and counts for status and reports.
    fn counters(&self) -> RamCounters;

    /// Calls to the kernel that guest RAM has cost so far.
    fn kernel_calls(&self) -> KernelCalls {
        KernelCalls {
            mmap: self.ram().reservation().mmaps(),
            ..self.uffd().calls()
        }
    }

    /// Deals with one held access, so that it goes on. An access that was dealt with before is only
    /// woken.
    ///
    /// # Errors
    /// [`CowError::NoSpace`]: it stays held and may be tried again. Anything else: the VM cannot go on.
    fn answer(&self, fault: Fault) -> Result<(), CowError>;

    /// Whether what the guest writes has to be copied to blocks before a snapshot can have it: by
    /// [`CowEngine::copy_ahead`] and [`Still::copy_rest`]. If not, it writes blocks itself, and
    /// they are armed.
    fn copies_for_snapshots(&self) -> bool {
        false
    }

    /// Copies what the guest has written while it goes on, until little is left.
    ///
    /// # Errors
    /// [`CowError::NoSpace`] when the pool has no room for it. What was copied stays until
    /// [`CowEngine::drop_copies`].
    fn copy_ahead(&self, _log: &dyn WriteLog) -> Result<CopiedAhead, CowError> {
        Ok(CopiedAhead::default())
    }

    /// Write-protects what the next snapshot is likely to have while the guest runs, where that is
    /// worth it: [`Still::arm`] has less to do then. A write to such a frame costs the guest a
    /// fault and nobody a copy.
    ///
    /// # Errors
    /// The kernel's; nothing is lost by it.
    fn arm_ahead(&self) -> Result<(), CowError> {
        Ok(())
    }

    /// Copies frames that the guest has written after each of the last snapshots, before it writes
    /// them again. The guest runs; a full pool ends it.
    ///
    /// # Errors
    /// Those of [`CowEngine::answer`], but that the pool is full.
    fn copy_hot(&self) -> Result<(), CowError> {
        Ok(())
    }

    /// No snapshot comes of what was copied: its blocks go back to the pool.
    fn drop_copies(&self) {}

    /// The counters with what was written since the engine last looked into the log. Costs the
    /// guest nothing.
    fn counters_now(&self, _log: &dyn WriteLog) -> Result<RamCounters, CowError> {
        Ok(self.counters())
    }

    /// Takes note of what was written, as for a snapshot. For tests.
    fn learn_writes(&self, _log: &dyn WriteLog) -> Result<(), CowError> {
        Ok(())
    }

    /// Frames that do not hold what the engine would put into the next snapshot without a copy (the
    /// first `limit`, in RAM order). For tests; the guest stands still.
    fn stale_frames(&self, _limit: usize) -> Result<Vec<u64>, CowError> {
        Ok(Vec::new())
    }

    /// How many chunks the next snapshot will have to say something about.
    fn dirty_chunks(&self) -> usize;

    /// Stops answering accesses until the guard is dropped. All writers of guest RAM are paused by
    /// then.
    fn stand_still(&self) -> Box<dyn Still + '_>;

    /// The snapshot was not made: what it shared is the VM's own again, also what was copied for
    /// it.
    fn roll_back(&self, set: ShareSet);

    /// Gives blocks behind frames of one chunk away while the guest runs: what these frames hold
    /// does not change any more in those blocks, whatever the guest writes from here on. The
    /// blocks that were the VM's own are to be committed to a process image, or rolled back.
    /// `None`: this engine cannot, and who wants the frames copies them.
    ///
    /// # Errors
    /// [`CowError::NoSpace`]; nothing was given away then.
    fn share_live(&self, _index: u32, _frames: &FrameSet) -> Result<Option<ShareSet>, CowError> {
        Ok(None)
    }

    /// Puts blocks of a pinned image behind frames of one chunk, in place of what is there, while
    /// the guest runs; the frames are in rising order. False: this engine cannot, or has no
    /// mappings left for it, and what is in the blocks is to be written to the frames instead.
    ///
    /// # Errors
    /// Any is one after which the VM cannot go on.
    fn adopt(&self, _index: u32, _blocks: &[(u32, BlockNo)]) -> Result<bool, CowError> {
        Ok(false)
    }

    /// Takes the VM's own among the frames of one chunk out of the page tables; what they hold
    /// stays.
    ///
    /// # Errors
    /// The kernel's; nothing has changed for the guest.
    fn unmap_idle(&self, _index: u32, _frames: &FrameSet) -> Result<(), CowError> {
        Ok(())
    }

    /// The snapshot that this VM came from was consumed: its memory is the VM's, and frames that
    /// were taken are its to write. Before the guest runs.
    fn take_over(&self, consumed: Consumed) -> Result<(), CowError>;

    /// Maps and populates all that has a block, so that the guest meets no fault for reading.
    fn prefault(&self) -> Result<(), CowError>;

    /// Asked now and then, between accesses: gives back some of what the VM holds of the pool
    /// without need. Whether there is more.
    fn tidy(&self) -> Result<bool, CowError> {
        Ok(false)
    }

    /// Whether the guest may write a frame of a chunk without a copy, and the block behind it when
    /// the engine has looked at it.
    fn own_block(&self, index: u32, frame: u32) -> (bool, Option<BlockNo>);
}

/// An engine while it stands still for a snapshot.
pub trait Still {
    /// Copies what was written since [`CowEngine::copy_ahead`], to blocks of `room` as far as these
    /// go.
    ///
    /// # Errors
    /// [`CowError::NoSpace`] when more is needed than the pool has.
    fn copy_rest(&self, _log: &dyn WriteLog, _room: &mut Reservation) -> Result<(), CowError> {
        Ok(())
    }

    /// Turns every own frame into a shared one. Unless they are armed next, or the set is rolled
    /// back, the VM must not run again.
    ///
    /// # Errors
    /// [`CowError::NoSpace`] when a write of the guest has no block yet, so that no map could tell
    /// of it; nothing was shared then.
    fn share(&self) -> Result<ShareSet, CowError>;

    /// Write-protects the frames of `set`: from here on a write to one of them is held.
    fn arm(&self, set: &ShareSet) -> Result<(), CowError>;

    /// Frames copied since the engine stands still.
    fn frames_copied(&self) -> u64;
}

/// What was copied while the guest went on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CopiedAhead {
    /// Frames copied, as often as they were.
    pub frames: u64,
    /// Rounds it took.
    pub rounds: u32,
    /// Blocks that the rest is expected to need.
    pub room_blocks: u32,
}

/// What one snapshot shares: the chunks that changed since the last one, as they were at its
/// instant.
#[derive(Debug, Default)]
pub struct ShareSet {
    changes: Vec<(ChunkIndex, ChunkMap)>,
    own: Vec<FrameSet>,
    copied: Vec<FrameSet>,
}

impl ShareSet {
    /// A chunk's blocks, and the frames of it that were the VM's own until now. Chunks come in
    /// rising order.
    pub(super) fn push(&mut self, index: u32, map: ChunkMap, own: FrameSet) {
        self.push_copied(index, map, own, FrameSet::EMPTY);
    }

    /// The same, with those of the own frames whose blocks are copies, which the guest does not use
    /// itself.
    pub(super) fn push_copied(
        &mut self,
        index: u32,
        map: ChunkMap,
        own: FrameSet,
        copied: FrameSet,
    ) {
        self.changes.push((ChunkIndex::new(index), map));
        self.own.push(own);
        self.copied.push(copied);
    }

    /// Chunks that differ from the last snapshot, by rising index.
    pub fn changes(&self) -> &[(ChunkIndex, ChunkMap)] {
        &self.changes
    }

    /// Blocks that were the VM's own until now.
    pub fn own_blocks(&self) -> impl Iterator<Item = BlockNo> {
        self.iter()
            .flat_map(|(_, map, own)| own.iter().filter_map(|frame| map.block(frame)))
    }

    /// Frames that were this VM's alone until now.
    pub fn frames_new(&self) -> u64 {
        self.own.iter().map(|own| u64::from(own.count())).sum()
    }

    /// What of it is in none of `kept`: blocks that were the VM's own and are to be so again.
    pub fn without(self, kept: &HashSet<BlockNo>) -> Self {
        let mut rest = Self::default();
        for ((index, map), own) in self.changes.into_iter().zip(self.own) {
            let is_left = |frame: &u32| {
                map.block(*frame)
                    .is_some_and(|block| !kept.contains(&block))
            };
            let left = set_of(own.iter().filter(is_left));
            if !left.is_empty() {
                rest.push(index.get(), map, left);
            }
        }
        rest
    }

    /// Chunks, their blocks, and the frames that were the VM's own.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &ChunkMap, &FrameSet)> {
        let chunks = self.changes.iter().zip(&self.own);
        chunks.map(|((index, map), own)| (index.get(), map, own))
    }

    /// Chunks, their blocks, the frames that were the VM's own, and those of them that are copies.
    pub(super) fn iter_copied(
        &self,
    ) -> impl Iterator<Item = (u32, &ChunkMap, &FrameSet, &FrameSet)> {
        let chunks = self.iter().zip(&self.copied);
        chunks.map(|((index, map, own), copied)| (index, map, own, copied))
    }
}

/// Why an access could not be answered.
#[derive(Debug, thiserror::Error)]
pub enum CowError {
    /// The pool has no block left. The access stays held and may be tried again.
    #[error("the pool is full: a guest write waits for a free block")]
    NoSpace,
    /// There is no userfaultfd to use.
    #[error(transparent)]
    Uffd(#[from] UffdError),
    /// A snapshot has a chunk that is no whole chunk of the pool, and the medium can only map
    /// those.
    #[error(
        "chunk {index} of the snapshot's memory is in pieces, and this medium only maps whole chunks of 2 MiB"
    )]
    NotWhole {
        /// Which chunk.
        index: u32,
    },
    /// The kernel allows the process fewer mappings than guest RAM may come to need.
    #[error(
        "guest memory may take {needed} mappings, {limit} are set aside for it: raise vm.max_map_count (sysctl)"
    )]
    TooManyMappings {
        /// One for each chunk.
        needed: u64,
        /// Half of what the kernel allows.
        limit: u64,
    },
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
        if is_full(&error) {
            Self::NoSpace
        } else {
            Self::Pool(error)
        }
    }
}

/// Neither a full pool nor a full medium under it is a reason to end a VM: space may be made.
pub(super) fn is_full(error: &nvvmm_snapshot::Error) -> bool {
    use nvvmm_snapshot::Error::{NoSpaceOnMedium, PoolFull};
    matches!(error, PoolFull { .. } | NoSpaceOnMedium { .. })
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

impl Origin {
    /// What an untouched chunk holds.
    ///
    /// The map is used for untouched chunks even after later snapshots have replaced its pin and it
    /// was removed. That is sound: the leaf of a chunk that was never touched is the same in
    /// all of them, and whatever inner node a later snapshot wrote anew is on the path to a
    /// chunk that was touched, so the map had read it while it was pinned.
    pub(super) fn chunk(&self, index: u32) -> Result<ChunkMap, CowError> {
        match self {
            Origin::Empty => Ok(ChunkMap::Hole),
            Origin::Snapshot { frames, .. } => Ok(frames.chunk(index)?),
        }
    }

    /// The chunks that have blocks.
    pub(super) fn present_chunks(&self) -> Result<Vec<u32>, CowError> {
        let Origin::Snapshot { frames, .. } = self else {
            return Ok(Vec::new());
        };
        let present = frames.iter_present();
        Ok(present
            .map(|chunk| chunk.map(|(index, _)| index.get()))
            .collect::<nvvmm_snapshot::Result<_>>()?)
    }
}

/// Counters that only ever grow, and levels.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub frames_mapped: AtomicU64,
    pub frames_own: AtomicU64,
    pub write_faults: AtomicU64,
    pub chunk_faults: AtomicU64,
    pub frames_copied: AtomicU64,
    pub frames_copied_hot: AtomicU64,
}

impl Counters {
    pub(super) fn add(counter: &AtomicU64, frames: u32) {
        counter.fetch_add(u64::from(frames), Ordering::Relaxed);
    }

    pub(super) fn sub(counter: &AtomicU64, frames: u64) {
        counter.fetch_sub(frames, Ordering::Relaxed);
    }
}

/// Locks survive a panic elsewhere: the state behind them is changed only in whole steps.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
