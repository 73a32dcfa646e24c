//! A snapshot, phase by phase (docs/inside/taking-a-snapshot.md).
//!
//! `ReserveBlocks -> PauseVcpus -> QuiesceDevices -> SaveDevices -> SaveVcpus -> ShareFrames ->
//! ArmWriteProtect -> ResumeDevices -> ResumeVcpus -> Flush -> Commit`. Shared frames cannot change
//! once they are armed, so the commit follows the resume. The snapshot exists after the commit and
//! not before; whatever fails earlier drops the shared references and leaves the VM running.
//!
//! While the guest runs, `ArmAhead` arms what is likely to be shared, so that `ArmWriteProtect` is
//! left with what was written since; and `CopyHot`, after the resume, copies what the guest writes
//! after each of many snapshots, before it does.
//!
//! With an engine that copies for snapshots, `CopyAhead` comes before all of these, and `CopyRest`
//! before `ShareFrames`; nothing is armed, as the guest does not write to blocks.

use std::time::{Duration, Instant};

use nvvmm_snapshot::{
    Committed, FaultPoint, Holder, NewMap, NewSnapshot, Reservation, SnapshotId, SnapshotKind,
    fault_point,
};

use super::{
    Pending,
    blob::{BlobError, SavedVm},
    phases::{Phases, micros_of},
    report::SnapshotReport,
};
use crate::{
    cow::{CopiedAhead, CowEngine, CowError, ShareSet, Still},
    machine::{Hold, Machine, MachineError, MachineStateV1},
    memory::WriteLog,
    spec::VmSpec,
    stats::{KernelCalls, SnapshotCounters},
};

/// State of a machine in bytes, as a rule.
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
    #[error("the pool is full: {needed} blocks of 4 KiB may be needed, {free} are free")]
    NoRoom {
        /// What it may need at most.
        needed: u32,
        /// Blocks that are neither in a snapshot nor leased to a holder.
        free: u64,
        /// What it would need at most if the VM were paused now.
        needed_paused: u32,
    },
    /// The pool has no room for copies of what the guest has written, while it runs.
    #[error("the pool is full: there is no room for copies of what the guest has written")]
    NoRoomAhead,
    /// The same, once it stood still.
    #[error("the pool is full: until it was paused the guest wrote more than there is room for")]
    NoRoomPaused,
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

/// What a snapshot is taken of, and how.
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
    /// Devices run now (else somebody paused the VM, and it stays paused).
    pub running: bool,
    /// Lets whoever asked withdraw while the guest is waited for.
    pub pending: &'a Pending,
    /// The VM does not go on after a successful snapshot.
    pub stop: bool,
    /// KVM's dirty log is on for tests, and not the engine's: what it has seen until the snapshot
    /// is forgotten.
    pub audited: bool,
    /// Counts it.
    pub counters: &'a SnapshotCounters,
}

/// A committed snapshot.
#[derive(Debug)]
pub struct Taken {
    /// Its number. The holder pins it, in place of the former base.
    pub id: SnapshotId,
    /// What happened.
    pub report: SnapshotReport,
}

/// Takes a snapshot. When it fails the VM goes on as it was; when it succeeds, and unless it is to
/// stop, too.
pub fn take(taking: &Taking<'_>) -> Result<Taken, TakeError> {
    let taken = attempt(taking);
    match &taken {
        Ok(taken) => taking.counters.taken(&taken.report),
        Err(_) => {
            taking.counters.failed();
            taking.engine.drop_copies();
        }
    }
    taken
}

fn attempt(taking: &Taking<'_>) -> Result<Taken, TakeError> {
    let mut phases = Phases::begin();
    let ahead = if taking.engine.copies_for_snapshots() {
        let began = Instant::now();
        let copied = phases.run("CopyAhead", || taking.engine.copy_ahead(taking.machine));
        taking.counters.copy_ahead.record(began.elapsed());
        let ahead = copied.map_err(full_as(TakeError::NoRoomAhead))?;
        fault_point(FaultPoint::PrivateAheadCopied);
        ahead
    } else {
        CopiedAhead::default()
    };
    phases.run("ReserveBlocks", || reserve(taking, ahead))?;
    if taking.running && !taking.stop {
        phases.run("ArmAhead", || taking.engine.arm_ahead())?;
    }

    fault_point(FaultPoint::SnapshotReserved);

    let paused_at = Instant::now();
    let frozen = freeze(taking, ahead, &mut phases);
    let Frozen {
        state,
        shared,
        reservation,
        room,
        frames_copied,
        calls,
    } = match frozen {
        Ok(frozen) => frozen,
        Err(error) => {
            taking.pending.withdraw();
            go_on(taking, &mut phases)?;
            count_pause(taking, paused_at.elapsed());
            return Err(error);
        }
    };
    if !taking.stop
        && let Err(error) = go_on(taking, &mut phases)
    {
        taking.engine.roll_back(shared);
        return Err(error);
    }
    let resumed_at = Instant::now();
    if taking.running && !taking.stop {
        // Before anything else: each moment later the guest may meet the first of them itself.
        let copied = phases.run("CopyHot", || taking.engine.copy_hot());
        if let Err(error) = copied {
            taking.engine.roll_back(shared);
            count_pause(taking, resumed_at - paused_at);
            return Err(error.into());
        }
    }
    drop(room);
    fault_point(FaultPoint::SnapshotResumed);

    let commit_began = Instant::now();
    let committed = commit(taking, &state, &shared, reservation);
    let (
        Committed {
            id,
            metadata_blocks,
            flush,
        },
        state_bytes,
    ) = match committed {
        Ok(committed) => committed,
        Err(error) => {
            taking.engine.roll_back(shared);
            if taking.stop {
                go_on(taking, &mut phases)?;
            }
            count_pause(taking, resumed_at - paused_at);
            return Err(error);
        }
    };
    let went_on_at = if taking.running && !taking.stop {
        went_on_at(taking.machine, &mut phases, paused_at, resumed_at)
    } else {
        resumed_at
    };
    let pause = went_on_at - paused_at;
    count_pause(taking, pause);
    phases.add("Flush", flush);
    phases.add("Commit", commit_began.elapsed().saturating_sub(flush));
    let report = SnapshotReport {
        name: taking.name.into(),
        pause_us: micros_of(pause),
        total_us: phases.total_us(),
        frames_mapped: taking.engine.counters().frames_mapped,
        frames_new: shared.frames_new(),
        frames_copied: ahead.frames + frames_copied,
        frames_copied_paused: frames_copied,
        ioctls_paused: calls.ioctls(),
        mmaps_paused: calls.mmap,
        state_bytes,
        metadata_blocks: u64::from(metadata_blocks),
        digests_made: None,
        durability: taking.holder.pool().durability().strongest,
        phases: phases.into_times(),
    };
    Ok(Taken { id, report })
}

/// Blocks for the commit, and for what will be copied in the pause, taken while the guest still
/// runs: a full pool refuses here, before anything stands still. A guest that runs may write
/// anywhere before it is paused, so there are blocks for the map of all its memory; one that is
/// paused already has written what it has.
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
        Err(CowError::NoSpace.into())
    }
}

/// Says what a full pool had no room for.
fn full_as(meaning: TakeError) -> impl FnOnce(CowError) -> TakeError {
    |error| match error {
        CowError::NoSpace => meaning,
        other => other.into(),
    }
}

/// What the instant of a snapshot leaves to be committed.
struct Frozen {
    state: MachineStateV1,
    shared: ShareSet,
    /// Blocks for the commit's metadata.
    reservation: Reservation,
    /// What was not needed of the blocks for frames. It goes back when the guest runs again.
    room: Reservation,
    /// Frames copied while everything stood still.
    frames_copied: u64,
    /// Calls to the kernel for guest RAM meanwhile.
    calls: KernelCalls,
}

/// Stops everything that can write guest memory, saves it, and shares the frames of this instant.
fn freeze(
    taking: &Taking<'_>,
    ahead: CopiedAhead,
    phases: &mut Phases,
) -> Result<Frozen, TakeError> {
    let machine = taking.machine;
    if taking.running {
        phases.run("PauseVcpus", || machine.pause_vcpus(Hold::Operation))?;
        phases.run("QuiesceDevices", || machine.quiesce_devices())?;
    }
    fault_point(FaultPoint::SnapshotPaused);
    // Devices first: a device may have raised an interrupt that the vCPU's saved interrupt
    // controller must hold.
    let devices = phases.run("SaveDevices", || machine.save_devices())?;
    let kvm = phases.run("SaveVcpus", || machine.save_kvm())?;
    fault_point(FaultPoint::SnapshotSaved);
    let mut reservation = taking.pending.begin().ok_or(CowError::NoSpace)?;
    let mut room = reservation.split_off(ahead.room_blocks);
    let still = taking.engine.stand_still();
    let calls_before = taking.engine.kernel_calls();
    if taking.engine.copies_for_snapshots() {
        let copied = phases.run("CopyRest", || still.copy_rest(machine, &mut room));
        copied.map_err(full_as(TakeError::NoRoomPaused))?;
        fault_point(FaultPoint::PrivateRestCopied);
    }
    let shared = phases.run("ShareFrames", || still.share())?;
    fault_point(FaultPoint::SnapshotShared);
    if let Err(error) = arm(taking, &*still, &shared, phases) {
        taking.engine.roll_back(shared);
        return Err(error);
    }
    fault_point(FaultPoint::SnapshotArmed);
    let frames_copied = still.frames_copied();
    let calls = taking.engine.kernel_calls().since(&calls_before);
    Ok(Frozen {
        state: MachineStateV1 { kvm, devices },
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
    if !taking.stop && !taking.engine.copies_for_snapshots() {
        phases.run("ArmWriteProtect", || still.arm(shared))?;
    }
    if taking.audited {
        for slot in 0..taking.engine.ram().slots().len() {
            taking
                .machine
                .take_slot(slot)
                .map_err(|source| CowError::Os {
                    op: "forget what KVM's dirty log has",
                    source,
                })?;
        }
    }
    Ok(())
}

/// A guest that somebody else had paused has not stood still for this.
fn count_pause(taking: &Taking<'_>, pause: Duration) {
    if taking.running {
        taking.counters.pause.record(pause);
    }
}

/// When the last vCPU went on that was held from `paused_at` on and let go by `resumed_at`: the
/// pause's end, and that of the phase `ResumeVcpus`. To be asked when there was time for that:
/// whoever lets go of vCPUs may lose its own CPU to one of them. If some are held again by
/// now, `resumed_at`.
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

fn commit(
    taking: &Taking<'_>,
    machine: &MachineStateV1,
    shared: &ShareSet,
    reservation: Reservation,
) -> Result<(Committed, u64), TakeError> {
    let saved = SavedVm {
        spec: taking.spec.clone(),
        machine: machine.clone(),
    };
    let state = saved.encode()?;
    let committed = taking.holder.commit_replacing(
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
        taking.replaced,
        reservation,
    )?;
    fault_point(FaultPoint::SnapshotCommitted);
    // All that the VM has not for itself is in the new snapshot: its former base and images of
    // processes are needed no more. It exists: a pin too many costs space until the VM ends,
    // and is no reason to report a failure.
    if let Err(error) = taking.holder.unpin_others(committed.id) {
        tracing::warn!("what this VM was based on stays pinned: {error}");
    }
    Ok((committed, state.len() as u64))
}
