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
    Committed, DiskCut, FaultPoint, Holder, NewMap, NewSnapshot, Reservation, SnapshotId,
    SnapshotKind, fault_point,
};

use super::{
    Pending, SnapshotCounters,
    blob::SavedVm,
    error::{TakeError, withdrawn},
    report::{OutsideDisk, SnapshotReport},
    standstill::{self, BlocksNeeded, go_on, went_on_at},
};
use crate::{
    cow::{CopiedAhead, CowEngine, CowError, Lack, ShareSet, Still},
    disk,
    machine::{Machine, MachineError, MachineStateV1},
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
            go_on(taking.machine, taking.running, phases)?;
            count_pause(taking, paused_at.elapsed());
            return Err(error);
        }
    };
    if !taking.stop
        && let Err(error) = go_on(taking.machine, taking.running, phases)
    {
        taking.engine.roll_back(uncommitted.shared);
        return Err(error.into());
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
                go_on(taking.machine, taking.running, phases)?;
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
    let (disks, disks_at_most) = disk::commit_blocks(taking.machine.disks());
    let paused = blocks_for(dirty, state_at_most).saturating_add(disks);
    let (likely, at_most) = if taking.running {
        let likely = blocks_for(dirty + dirty / RESERVE_SLACK_DIVISOR + 1, state_usual);
        let at_most = blocks_for(usize::MAX, state_at_most);
        (likely, at_most.saturating_add(disks_at_most))
    } else {
        (blocks_for(dirty, state_usual), paused)
    };
    let needed = BlocksNeeded {
        likely: likely.saturating_add(disks),
        at_most,
        paused,
    };
    standstill::reserve(taking.holder, taking.pending, taking.running, &needed)
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
    standstill::pause(machine, taking.running, phases)?;
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
