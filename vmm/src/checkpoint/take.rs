//! Takes a snapshot, phase by phase (docs/inside/taking-a-snapshot.md).
//!
//! Three steps, the same for every engine:
//! 1. *Prepare*, while the guest runs: `CopyAhead`, `ReserveBlocks`, `ArmAhead`.
//! 2. *Stand still*: `PauseVcpus`, `QuiesceDevices`, `SaveDevices`, `CutDisks`, `SaveVcpus`,
//!    `CopyRest`, `ShareFrames`, `ArmWriteProtect`, `ResumeDevices`, `ResumeVcpus`.
//! 3. *Finish*, when the guest runs again: `CopyHot`, `Flush`, `Commit`.
//!
//! The engine itself times the phases that only one engine has: `CopyAhead` and `CopyRest` where
//! the engine copies, `ArmWriteProtect` where it shares the guest's own blocks.
//!
//! Shared frames cannot change any more when they are armed, so the commit follows the resume. The
//! snapshot exists after the commit and not before. A failure before that gives the shared frames
//! back to the VM, which goes on.

use std::time::{Duration, Instant};

use nvvmm_devices::virtio::ContentStamp;
use nvvmm_snapshot::{
    BLOCK_SIZE_BYTES, Committed, DiskCut, FaultPoint, Holder, NewMap, NewSnapshot, Reservation,
    SizeText, SnapshotId, SnapshotKind, fault_point,
};

use super::{
    Pending, SnapshotCounters,
    blob::{BlobError, SavedVm},
    report::{OutsideDisk, SnapshotReport},
};
use crate::{
    cow::{CopiedAhead, CowEngine, CowError, Lack, ShareSet, Still},
    disk,
    machine::{Hold, Machine, MachineError, MachineStateV1},
    memory::WriteLog,
    spec::VmSpec,
    stats::{KernelCalls, Phases, phases::micros_of},
};

/// Usual size of a machine's state, in bytes, and what each vCPU adds.
const STATE_BYTES_USUAL: usize = 16 << 10;
const STATE_BYTES_USUAL_PER_VCPU: usize = 8 << 10;
/// Memory for chunks that become dirty between the reservation and the pause, as a share of those
/// dirty before.
const RESERVE_SLACK_DIVISOR: usize = 4;

/// Why no snapshot was taken. The VM is as it was.
#[derive(Debug, thiserror::Error)]
pub enum TakeError {
    /// The pool refused: full, name taken, damaged.
    #[error("{0}")]
    Pool(#[from] nvvmm_snapshot::Error),
    /// The pool has not as many free blocks as a snapshot of this VM may need as long as it runs.
    #[error(
        "the pool is full: up to {} may be needed, {} are free",
        SizeText::needed(u64::from(*needed) * BLOCK_SIZE_BYTES),
        SizeText::left(free.saturating_mul(BLOCK_SIZE_BYTES))
    )]
    NoRoom {
        /// Blocks that it may need at most.
        needed: u32,
        /// Blocks that are neither in a snapshot nor leased to a holder.
        free: u64,
        /// Blocks that it would need at most if the VM were paused now.
        needed_paused: u32,
    },
    /// There is no room for copies of what the guest has written, while it runs.
    #[error("{0}: there is no room for copies of what the guest has written")]
    NoRoomAhead(Lack),
    /// There is no room for copies of what the guest has written before it stood still.
    #[error("{0}: the guest wrote more before the pause than there is room to copy")]
    NoRoomPaused(Lack),
    /// Whoever asked for the snapshot is gone.
    #[error("nobody waits for this snapshot any more")]
    CallerGone,
    /// The machine could not be stopped or saved.
    #[error("{0}")]
    Machine(#[from] MachineError),
    /// Frames could not be armed.
    #[error("{0}")]
    Cow(#[from] CowError),
    /// The state could not be written down.
    #[error("{0}")]
    Blob(#[from] BlobError),
}

/// A snapshot to be taken: of which VM, and how.
pub struct Taking<'a> {
    /// The machine, built and started.
    pub machine: &'a Machine,
    /// Guest RAM.
    pub engine: &'a dyn CowEngine,
    /// The VM's place in the pool.
    pub holder: &'a Holder,
    /// Written into the snapshot.
    pub spec: &'a VmSpec,
    /// The snapshot that this VM pins: the one it came from or took last.
    pub base: Option<SnapshotId>,
    /// Name of the new snapshot.
    pub name: &'a str,
    /// Snapshots that its commit removes.
    pub replaced: &'a [SnapshotId],
    /// True if devices run now. If not, the user had paused the VM, and it stays paused.
    pub running: bool,
    /// Lets the caller withdraw the snapshot while the guest is waited for.
    pub pending: &'a Pending,
    /// The VM does not go on after a successful snapshot.
    pub stop: bool,
    /// KVM's dirty log is on for tests, and the engine does not read it: it is cleared with the
    /// snapshot.
    pub audited: bool,
    /// Disks that the snapshot does not hold, for its report.
    pub outside_disks: Vec<OutsideDisk>,
    /// Counters of the VM's snapshots.
    pub counters: &'a SnapshotCounters,
}

/// A committed snapshot.
#[derive(Debug)]
pub struct Taken {
    /// Its number. The holder pins it, in place of the former base.
    pub id: SnapshotId,
    /// Report of the snapshot.
    pub report: SnapshotReport,
}

impl Taking<'_> {
    /// True if the guest runs while the snapshot is committed.
    fn goes_on(&self) -> bool {
        self.running && !self.stop
    }
}

/// Takes a snapshot. A VM goes on afterwards, with or without the snapshot, unless the snapshot
/// was taken and the VM is to stop.
pub fn take(taking: &Taking<'_>) -> Result<Taken, TakeError> {
    let mut phases = Phases::begin();
    let taken = attempt(taking, &mut phases);
    if let Some(took) = phases.took("CopyAhead") {
        taking.counters.copy_ahead.record(took);
    }
    match taken {
        Ok((id, mut report)) => {
            report.total_us = phases.total_us();
            report.phases = phases.into_times();
            taking.counters.taken(&report);
            Ok(Taken { id, report })
        }
        Err(error) => {
            taking.counters.failed();
            taking.engine.drop_copies();
            Err(error)
        }
    }
}

/// Goes through the steps. The report that it returns has no times in it yet.
fn attempt(
    taking: &Taking<'_>,
    phases: &mut Phases,
) -> Result<(SnapshotId, SnapshotReport), TakeError> {
    let ahead = prepare(taking, phases)?;
    let paused_at = Instant::now();
    let uncommitted = match stand_still(taking, ahead, phases) {
        Ok(uncommitted) => uncommitted,
        Err(error) => {
            taking.pending.withdraw();
            go_on(taking, phases)?;
            count_pause(taking, paused_at.elapsed());
            return Err(error);
        }
    };
    if !taking.stop
        && let Err(error) = go_on(taking, phases)
    {
        taking.engine.roll_back(uncommitted.shared);
        return Err(error);
    }
    let resumed_at = Instant::now();
    let (shared, frames_copied, calls) = (
        uncommitted.shared,
        uncommitted.frames_copied,
        uncommitted.calls,
    );
    let committed = copy_hot(taking, phases).and_then(|()| {
        drop(uncommitted.room);
        fault_point(FaultPoint::SnapshotResumed);
        if taking.pending.caller_is_gone() {
            return Err(TakeError::CallerGone);
        }
        let saved = saved(taking, uncommitted.state, uncommitted.disks);
        let with = (uncommitted.cuts, uncommitted.reservation);
        commit(taking, &saved, &shared, with)
    });
    let committed = match committed {
        Ok(committed) => committed,
        Err(error) => {
            taking.engine.roll_back(shared);
            if taking.stop {
                go_on(taking, phases)?;
            }
            count_pause(taking, resumed_at - paused_at);
            return Err(error);
        }
    };
    let went_on_at = if taking.goes_on() {
        went_on_at(taking.machine, phases, paused_at, resumed_at)
    } else {
        resumed_at
    };
    let pause = went_on_at - paused_at;
    count_pause(taking, pause);
    committed.add_times(phases);
    let report = SnapshotReport {
        name: taking.name.into(),
        disks_only: false,
        phases: Vec::new(),
        pause_us: micros_of(pause),
        held_us_max: 0.0,
        total_us: 0.0,
        frames_mapped: taking.engine.counters().frames_mapped,
        frames_new: shared.frames_new(),
        frames_copied: ahead.frames + frames_copied,
        frames_copied_paused: frames_copied,
        ioctls_paused: calls.ioctls(),
        mmaps_paused: calls.mmap,
        state_bytes: committed.state_bytes,
        metadata_blocks: committed.metadata_blocks,
        digests_made: None,
        outside_disks: taking.outside_disks.clone(),
        durability: taking.holder.pool().durability().strongest,
    };
    Ok((committed.id, report))
}

/// Does what can be done while the guest runs, so that little is left to the pause. A full pool
/// refuses here, and nothing is changed then.
fn prepare(taking: &Taking<'_>, phases: &mut Phases) -> Result<CopiedAhead, TakeError> {
    let ahead = taking
        .engine
        .copy_ahead(taking.machine, phases)
        .map_err(full_as(TakeError::NoRoomAhead))?;
    phases.run("ReserveBlocks", || reserve(taking, ahead))?;
    if taking.goes_on() {
        phases.run("ArmAhead", || taking.engine.arm_ahead())?;
    }
    fault_point(FaultPoint::SnapshotReserved);
    Ok(ahead)
}

/// Reserves blocks for the commit and for copies in the pause while the guest still runs, so that a
/// full pool refuses before anything stands still. A guest that runs may write anywhere before it
/// is paused: it needs blocks for the map of all its memory. A guest that is paused already needs
/// blocks for what it has written.
fn reserve(taking: &Taking<'_>, ahead: CopiedAhead) -> Result<(), TakeError> {
    let dirty = taking.engine.dirty_chunks();
    let blocks_for = |chunks: usize, state_bytes: usize| {
        let memory_bytes = taking.engine.ram().size_bytes();
        let chunks = u32::try_from(chunks).unwrap_or(u32::MAX);
        let metadata = taking
            .holder
            .commit_blocks_needed(memory_bytes, chunks, state_bytes);
        metadata.saturating_add(ahead.room_blocks)
    };
    let state_usual =
        STATE_BYTES_USUAL + STATE_BYTES_USUAL_PER_VCPU * usize::from(taking.spec.vcpus);
    let state_at_most = SavedVm::bytes_at_most(taking.spec)?;
    let needed_paused = blocks_for(dirty, state_at_most);
    let (likely, at_most) = if taking.running {
        let likely = blocks_for(dirty + dirty / RESERVE_SLACK_DIVISOR + 1, state_usual);
        (likely, blocks_for(usize::MAX, state_at_most))
    } else {
        (blocks_for(dirty, state_usual), needed_paused)
    };
    let reservation = match taking.holder.reserve_up_to(likely, at_most) {
        Err(nvvmm_snapshot::Error::PoolFull { free, .. }) if taking.running => {
            return Err(TakeError::NoRoom {
                needed: at_most,
                free,
                needed_paused,
            });
        }
        other => other?,
    };
    if taking.pending.keep(reservation) {
        Ok(())
    } else {
        Err(withdrawn(taking.pending))
    }
}

/// Error of a snapshot that was withdrawn.
pub(super) fn withdrawn(pending: &Pending) -> TakeError {
    if pending.caller_is_gone() {
        TakeError::CallerGone
    } else {
        CowError::NoSpace(Lack::Blocks).into()
    }
}

/// Turns a full pool or medium into the error that says what it had no room for.
fn full_as(meaning: fn(Lack) -> TakeError) -> impl FnOnce(CowError) -> TakeError {
    move |error| match error {
        CowError::NoSpace(lack) => meaning(lack),
        other => other.into(),
    }
}

/// A snapshot at its instant, saved and shared, and not yet committed.
struct Uncommitted {
    state: MachineStateV1,
    /// Content of the disks that are image files.
    disks: Vec<Option<ContentStamp>>,
    /// The disks of the pool.
    cuts: Vec<DiskCut>,
    shared: ShareSet,
    /// Blocks for the commit's metadata.
    reservation: Reservation,
    /// Blocks for frames that were not needed. They go back when the guest runs again.
    room: Reservation,
    /// Frames copied while everything stood still.
    frames_copied: u64,
    /// Calls to the kernel for guest RAM meanwhile.
    calls: KernelCalls,
}

/// Stops everything that can write guest memory, saves it, and shares the frames of this instant.
fn stand_still(
    taking: &Taking<'_>,
    ahead: CopiedAhead,
    phases: &mut Phases,
) -> Result<Uncommitted, TakeError> {
    let machine = taking.machine;
    if taking.running {
        phases.run("PauseVcpus", || machine.pause_vcpus(Hold::Operation))?;
        phases.run("QuiesceDevices", || machine.quiesce_devices())?;
    }
    fault_point(FaultPoint::SnapshotPaused);
    // Devices first: a device may have raised an interrupt that the vCPU's saved interrupt
    // controller must hold.
    let (devices, disks) = phases.run("SaveDevices", || {
        Ok::<_, MachineError>((machine.save_devices()?, machine.note_disks()))
    })?;
    let cuts = match disk::any_of_pool(machine.disks()) {
        true => phases.run("CutDisks", || disk::cut(machine.disks()))?,
        false => Vec::new(),
    };
    let kvm = phases.run("SaveVcpus", || machine.save_kvm())?;
    fault_point(FaultPoint::SnapshotSaved);
    let begun = taking.pending.begin();
    let mut reservation = begun.ok_or_else(|| withdrawn(taking.pending))?;
    let mut room = reservation.split_off(ahead.room_blocks);
    let still = taking.engine.stand_still();
    let calls_before = taking.engine.kernel_calls();
    still
        .copy_rest(machine, &mut room, phases)
        .map_err(full_as(TakeError::NoRoomPaused))?;
    let shared = phases.run("ShareFrames", || still.share())?;
    fault_point(FaultPoint::SnapshotShared);
    if let Err(error) = arm(taking, &*still, &shared, phases) {
        taking.engine.roll_back(shared);
        return Err(error);
    }
    fault_point(FaultPoint::SnapshotArmed);
    let frames_copied = still.frames_copied();
    let calls = taking.engine.kernel_calls().since(&calls_before);
    Ok(Uncommitted {
        state: MachineStateV1 { kvm, devices },
        disks,
        cuts,
        shared,
        reservation,
        room,
        frames_copied,
        calls,
    })
}

fn arm(
    taking: &Taking<'_>,
    still: &dyn Still,
    shared: &ShareSet,
    phases: &mut Phases,
) -> Result<(), TakeError> {
    // A VM that ends after this writes nothing any more.
    if !taking.stop {
        still.arm(shared, phases)?;
    }
    if taking.audited {
        for slot in 0..taking.engine.ram().slots().len() {
            taking
                .machine
                .take_slot(slot)
                .map_err(|source| CowError::Os {
                    op: "clear KVM's dirty log",
                    source,
                })?;
        }
    }
    Ok(())
}

/// Counts the time that the guest stood still. A guest that the user had paused has not stood still
/// for the snapshot.
fn count_pause(taking: &Taking<'_>, pause: Duration) {
    if taking.running {
        taking.counters.pause.record(pause);
    }
}

/// Copies frames that are hot. This comes first after the resume: each moment later the guest may
/// meet the first of them itself.
fn copy_hot(taking: &Taking<'_>, phases: &mut Phases) -> Result<(), TakeError> {
    if taking.goes_on() {
        phases.run("CopyHot", || taking.engine.copy_hot())?;
    }
    Ok(())
}

/// Time at which the last vCPU went on that was held from `paused_at` on and released by
/// `resumed_at`: the end of the pause and of the phase `ResumeVcpus`. It is read some time after
/// the resume, because the thread that releases vCPUs may lose its own CPU to one of them. If some
/// vCPUs are held again by now, `resumed_at`.
pub fn went_on_at(
    machine: &Machine,
    phases: &mut Phases,
    paused_at: Instant,
    resumed_at: Instant,
) -> Instant {
    let found = machine.vcpus_went_on_at().filter(|at| *at >= paused_at);
    if let Some(at) = found {
        phases.ended_at("ResumeVcpus", at);
    }
    found.unwrap_or(resumed_at)
}

fn go_on(taking: &Taking<'_>, phases: &mut Phases) -> Result<(), TakeError> {
    if taking.running {
        phases.run("ResumeDevices", || taking.machine.resume_devices())?;
        phases.run("ResumeVcpus", || {
            taking.machine.resume_vcpus(Hold::Operation)
        });
    }
    Ok(())
}

/// A committed snapshot, and the cost of its commit.
struct Done {
    id: SnapshotId,
    state_bytes: u64,
    metadata_blocks: u64,
    took: Duration,
    flush: Duration,
}

impl Done {
    fn add_times(&self, phases: &mut Phases) {
        phases.add("Flush", self.flush);
        phases.add("Commit", self.took.saturating_sub(self.flush));
    }
}

fn saved(
    taking: &Taking<'_>,
    machine: MachineStateV1,
    disks: Vec<Option<ContentStamp>>,
) -> SavedVm {
    SavedVm {
        spec: taking.spec.clone(),
        machine,
        disks: Some(disks).filter(|disks| !disks.is_empty()),
    }
}

fn commit(
    taking: &Taking<'_>,
    saved: &SavedVm,
    shared: &ShareSet,
    (cuts, reservation): (Vec<DiskCut>, Reservation),
) -> Result<Done, TakeError> {
    let began = Instant::now();
    let state = saved.encode()?;
    let Committed {
        id,
        metadata_blocks,
        flush,
    } = taking.holder.commit_with_disks(
        NewSnapshot {
            kind: SnapshotKind::Vm,
            name: taking.name,
            parent: taking.base,
            base: taking.base,
            maps: vec![NewMap::memory(
                taking.engine.ram().size_bytes(),
                shared.changes(),
            )],
            state: &state,
            frames_new: shared.frames_new(),
        },
        cuts,
        taking.replaced,
        reservation,
    )?;
    fault_point(FaultPoint::SnapshotCommitted);
    // All shared frames of the VM are in the new snapshot: its former base and images of processes
    // are needed no more. The snapshot exists. A pin too many costs space until the VM ends, and is
    // no reason to report a failure.
    if let Err(error) = taking.holder.unpin_others(id) {
        tracing::warn!("what this VM was based on stays pinned: {error}");
    }
    Ok(Done {
        id,
        state_bytes: state.len() as u64,
        metadata_blocks: u64::from(metadata_blocks),
        took: began.elapsed(),
        flush,
    })
}
