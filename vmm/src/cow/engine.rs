//! The trait that both copy-on-write engines implement.
//!
//! A snapshot calls an engine in three steps, and never asks which engine it is:
//! 1. *Prepare*, while the guest runs: [`CowEngine::copy_ahead`], then [`CowEngine::arm_ahead`].
//! 2. *Stand still*, while everything that can write guest RAM is paused:
//!    [`CowEngine::stand_still`], then [`Still::copy_rest`], [`Still::share`] and [`Still::arm`].
//! 3. *Finish*, when the guest runs again: [`CowEngine::copy_hot`], and after a failure
//!    [`CowEngine::roll_back`] and [`CowEngine::drop_copies`].
//!
//! An engine has nothing to do in some of these. A step that only one engine has is a phase that
//! this engine times itself: the phases of a report are those that the engine went through.

use std::{fmt::Debug, sync::Arc, time::Duration};

use nvvmm_snapshot::{BlockNo, ChunkIndex, Consumed, FrameIndex, FrameSet, Reservation};

use super::{Arrival, CowError, RewindTo, ShareSet};
use crate::{
    memory::{GuestRam, WriteLog},
    stats::{KernelCalls, Phases, RamCounters},
    sys::uffd::{Fault, Uffd},
};

/// The copy-on-write engine of one VM: it decides what is mapped behind guest RAM, and adds frames
/// to snapshots.
pub trait CowEngine: Debug + Send + Sync {
    /// Guest RAM that this engine is in charge of.
    fn ram(&self) -> &GuestRam;

    /// The descriptor that is readable when an access is held.
    fn uffd(&self) -> &Uffd;

    /// The arrival of memory from an object store, if it does not come from the pool alone.
    fn arrival(&self) -> Option<Arc<Arrival>> {
        None
    }

    /// Levels and counts for status and reports.
    fn counters(&self) -> RamCounters;

    /// Calls to the kernel that guest RAM has cost so far.
    fn kernel_calls(&self) -> KernelCalls {
        KernelCalls {
            mmap: self.ram().reservation().mmaps(),
            ..self.uffd().calls()
        }
    }

    /// Answers one held access, so that it goes on. An access that was answered before is only
    /// woken.
    ///
    /// # Errors
    /// [`CowError::NoSpace`], [`CowError::Arriving`], [`CowError::Locked`]: the access stays held
    /// and may be tried again.
    /// After any other error the VM cannot go on.
    fn answer(&self, fault: Fault) -> Result<(), CowError>;

    /// Does a part of what the next accesses will need, when no access is held: a chunk at most.
    /// Returns true if there is more.
    ///
    /// # Errors
    /// The VM cannot go on. Lack of space, or a lock, only ends such work.
    fn work_ahead(&self) -> Result<bool, CowError> {
        Ok(false)
    }

    /// Time after which [`CowEngine::work_ahead`] may have something to do, though no access is
    /// held.
    fn work_due(&self) -> Duration {
        Duration::MAX
    }

    /// True if the engine reads KVM's dirty log, which must be on then.
    fn needs_write_log(&self) -> bool {
        false
    }

    // Prepare: the guest runs.

    /// Copies what the guest has written to fresh blocks, in rounds, until little is left (phase
    /// `CopyAhead`). An engine whose guest writes blocks itself copies nothing and has no such
    /// phase.
    ///
    /// # Errors
    /// [`CowError::NoSpace`] when the pool has no room for the copies. Those that were made stay
    /// until [`CowEngine::drop_copies`].
    fn copy_ahead(
        &self,
        _log: &dyn WriteLog,
        _phases: &mut Phases,
    ) -> Result<CopiedAhead, CowError> {
        Ok(CopiedAhead::default())
    }

    /// Write-protects frames that the next snapshot is likely to get, where that is worth it:
    /// [`Still::arm`] has less to do then. A write to such a frame costs the guest a fault, and no
    /// copy.
    ///
    /// # Errors
    /// The kernel refused. The snapshot can be taken all the same.
    fn arm_ahead(&self) -> Result<(), CowError> {
        Ok(())
    }

    /// Chunks that the next snapshot will list as changed.
    fn dirty_chunks(&self) -> usize;

    // Stand still: vCPUs and devices are paused.

    /// Stops answering accesses until the guard is dropped. All writers of guest RAM must be
    /// paused.
    fn stand_still(&self) -> Box<dyn Still + '_>;

    // Finish: the guest runs again.

    /// Copies frames that the guest has written after each of the last snapshots, before it writes
    /// them again. A full pool ends the copying, and is no error.
    ///
    /// # Errors
    /// Those of [`CowEngine::answer`], except [`CowError::NoSpace`].
    fn copy_hot(&self) -> Result<(), CowError> {
        Ok(())
    }

    /// Makes the frames of `set` the VM's own again, with the blocks that were copied for them: the
    /// snapshot or image was not committed.
    fn roll_back(&self, set: ShareSet);

    /// Gives the blocks of copies back to the pool: no snapshot will use them.
    fn drop_copies(&self) {}

    // Frames of processes: the guest runs.

    /// Shares the frames of one chunk with a process image that is being made. The shared blocks do
    /// not change any more, whatever the guest writes afterwards. Blocks that were the VM's own
    /// must be committed to the image or rolled back.
    ///
    /// Returns `None` if the engine cannot do that; the caller then copies the frames.
    ///
    /// # Errors
    /// [`CowError::NoSpace`]; nothing was shared then.
    fn share_live(
        &self,
        _chunk: ChunkIndex,
        _frames: &FrameSet,
    ) -> Result<Option<ShareSet>, CowError> {
        Ok(None)
    }

    /// Maps blocks of a pinned image behind frames of one chunk, in place of what is there. The
    /// frames come in rising order.
    ///
    /// Returns false if the engine cannot do that, or has no mappings left for it; the caller then
    /// writes the blocks' content to the frames.
    ///
    /// # Errors
    /// After any error the VM cannot go on.
    fn adopt(
        &self,
        _chunk: ChunkIndex,
        _blocks: &[(FrameIndex, BlockNo)],
    ) -> Result<bool, CowError> {
        Ok(false)
    }

    /// Removes own frames of one chunk from the page tables. Their content stays.
    ///
    /// # Errors
    /// The kernel refused; nothing has changed for the guest.
    fn unmap_idle(&self, _chunk: ChunkIndex, _frames: &FrameSet) -> Result<(), CowError> {
        Ok(())
    }

    // Memory that the guest does not use: the guest runs.

    /// Empties a chunk: it holds zeroes then, and takes neither blocks nor memory. A write to it
    /// meanwhile may be lost. Returns the number of frames that held something.
    ///
    /// # Errors
    /// The kernel refused; after that the VM cannot go on.
    fn release(&self, chunk: ChunkIndex) -> Result<u32, CowError>;

    // A rewind: vCPUs and devices are paused.

    /// Takes all of guest RAM back to a pinned snapshot. What the guest has written since, and what
    /// else differs, is mapped anew; all other memory stays as it is. Own blocks are behind no
    /// frame then, and are kept for [`CowEngine::free_replaced`]. `log` is emptied by an engine
    /// that reads it.
    ///
    /// # Errors
    /// RAM is of no moment then: the guest must not run again. The blocks go back with the holder.
    fn rewind(&self, to: RewindTo, log: &dyn WriteLog) -> Result<(), CowError>;

    /// Gives back the blocks that a rewind has replaced. The guest may run.
    fn free_replaced(&self);

    // Before the guest runs, and besides.

    /// Takes over the memory of the snapshot that this VM came from and consumed: frames that
    /// nobody else refers to become own. Called before the guest runs.
    fn take_over(&self, consumed: Consumed) -> Result<(), CowError>;

    /// Maps and populates all frames that have a block, so that the guest meets no fault for
    /// reading.
    fn prefault(&self) -> Result<(), CowError>;

    /// Gives back some of what the VM holds of the pool and does not need. Called now and then,
    /// between accesses. Returns true if there is more to give back.
    fn tidy(&self) -> Result<bool, CowError> {
        Ok(false)
    }

    // Audits.

    /// The counters, with what was written since the engine last read the log. The log stays as it
    /// is.
    fn counters_now(&self, _log: &dyn WriteLog) -> Result<RamCounters, CowError> {
        Ok(self.counters())
    }

    /// Reads the log of what was written, as for a snapshot. For tests.
    fn learn_writes(&self, _log: &dyn WriteLog) -> Result<(), CowError> {
        Ok(())
    }

    /// Frames that hold something else than the engine would put into the next snapshot without a
    /// copy: the first `limit`, in RAM order. For tests; the guest stands still.
    fn stale_frames(&self, _limit: usize) -> Result<Vec<u64>, CowError> {
        Ok(Vec::new())
    }

    /// True if the guest may write this frame without a copy; and the block behind it, if the
    /// engine knows it.
    fn own_block(&self, chunk: ChunkIndex, frame: FrameIndex) -> (bool, Option<BlockNo>);
}

/// An engine while it stands still for a snapshot.
pub trait Still {
    /// Copies what was written since [`CowEngine::copy_ahead`] (phase `CopyRest`), first to blocks
    /// of `room`, then to more if there are any. Engines that copy nothing ahead have nothing to
    /// do.
    ///
    /// # Errors
    /// [`CowError::NoSpace`] when more is needed than the pool has.
    fn copy_rest(
        &self,
        _log: &dyn WriteLog,
        _room: &mut Reservation,
        _phases: &mut Phases,
    ) -> Result<(), CowError> {
        Ok(())
    }

    /// Turns every own frame into a shared one. Unless the frames are armed next, or the set is
    /// rolled back, the VM must not run again.
    ///
    /// # Errors
    /// [`CowError::NoSpace`] when a write of the guest has no block yet, so that no map could list
    /// it; nothing was shared then.
    fn share(&self) -> Result<ShareSet, CowError>;

    /// Write-protects the frames of `set` (phase `ArmWriteProtect`): from here on a write to one of
    /// them is held. Engines whose guest never writes to blocks have nothing to do.
    fn arm(&self, _set: &ShareSet, _phases: &mut Phases) -> Result<(), CowError> {
        Ok(())
    }

    /// Frames copied since the engine stands still.
    fn frames_copied(&self) -> u64;
}

/// Result of copying while the guest went on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CopiedAhead {
    /// Frames copied; a frame counts each time it was copied.
    pub frames: u64,
    /// Rounds it took.
    pub rounds: u32,
    /// Blocks that the rest is expected to need.
    pub room_blocks: u32,
}
