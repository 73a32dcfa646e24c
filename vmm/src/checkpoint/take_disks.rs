//! Takes a snapshot of a VM's disks without the VM.
//!
//! Phases: `ReserveBlocks`, `PauseVcpus`, `QuiesceDevices`, `CutDisks`, `ResumeDevices`,
//! `ResumeVcpus`, `Commit`. All disks are as they were at the instant of `CutDisks`: no request is
//! in flight then. The snapshot has an empty map of memory and no state
//! (docs/formats/pool-disks.md#snapshots-of-disks-only).

use std::time::Instant;

use nvvmm_snapshot::{
    CHUNK_SIZE_BYTES, DiskCut, FaultPoint, Holder, NewMap, NewSnapshot, Reservation, SnapshotKind,
    fault_point,
};

use super::{
    Pending,
    error::{TakeError, withdrawn},
    report::{OutsideDisk, SnapshotReport},
    standstill::{self, BlocksNeeded, go_on, went_on_at},
    take::Taken,
};
use crate::{
    disk,
    machine::Machine,
    stats::{Phases, phases::micros_of},
};

/// Size of the empty map of memory.
const MEMORY_BYTES: u64 = CHUNK_SIZE_BYTES;

/// A snapshot of disks to be taken.
pub struct TakingDisks<'a> {
    /// The machine that has the disks, built and started.
    pub machine: &'a Machine,
    /// The VM's place in the pool.
    pub holder: &'a Holder,
    /// Name of the new snapshot.
    pub name: &'a str,
    /// True if devices run now.
    pub running: bool,
    /// Lets the caller withdraw the snapshot.
    pub pending: &'a Pending,
    /// Disks that the snapshot does not hold, for its report.
    pub outside_disks: Vec<OutsideDisk>,
}

/// Takes a snapshot of all disks of the pool that a machine has. The VM goes on, with or without
/// the snapshot.
pub fn take_disks(taking: &TakingDisks<'_>) -> Result<Taken, TakeError> {
    let mut phases = Phases::begin();
    let machine = taking.machine;
    let (now, at_most) = disk::commit_blocks(machine.disks());
    let own = taking.holder.commit_blocks_needed(MEMORY_BYTES, 0, 0);
    let needed = BlocksNeeded {
        likely: own.saturating_add(now),
        at_most: own.saturating_add(if taking.running { at_most } else { now }),
        paused: own.saturating_add(now),
    };
    phases.run("ReserveBlocks", || {
        standstill::reserve(taking.holder, taking.pending, taking.running, &needed)
    })?;
    let paused_at = Instant::now();
    let cut = stand_still(taking, &mut phases);
    go_on(machine, taking.running, &mut phases)?;
    let resumed_at = Instant::now();
    let (reservation, cuts) = cut?;
    let pause = match taking.running {
        true => went_on_at(machine, &mut phases, paused_at, resumed_at) - paused_at,
        false => resumed_at - paused_at,
    };
    fault_point(FaultPoint::SnapshotResumed);
    if taking.pending.caller_is_gone() {
        return Err(TakeError::CallerGone);
    }
    let new = NewSnapshot {
        kind: SnapshotKind::Vm,
        name: taking.name,
        parent: None,
        base: None,
        maps: vec![NewMap::memory(MEMORY_BYTES, &[])],
        state: &[],
        frames_new: 0,
    };
    let committed = phases.run("Commit", || {
        taking.holder.commit_with_disks(new, cuts, &[], reservation)
    })?;
    fault_point(FaultPoint::SnapshotCommitted);
    // The snapshot exists. A pin too many costs space until the VM ends, and no more.
    if let Err(error) = taking.holder.unpin(committed.id) {
        tracing::warn!("the new snapshot of disks stays pinned: {error}");
    }
    let total_us = phases.total_us();
    let report = SnapshotReport {
        name: taking.name.into(),
        disks_only: true,
        pause_us: micros_of(pause),
        held_us_max: 0.0,
        total_us,
        phases: phases.into_times(),
        frames_mapped: 0,
        frames_new: 0,
        frames_copied: 0,
        frames_copied_paused: 0,
        ioctls_paused: 0,
        mmaps_paused: 0,
        state_bytes: 0,
        metadata_blocks: u64::from(committed.metadata_blocks),
        digests_made: None,
        outside_disks: taking.outside_disks.clone(),
        durability: taking.holder.pool().durability().strongest,
    };
    Ok(Taken {
        id: committed.id,
        report,
    })
}

/// Has all disks at one instant. Whatever comes of it, the VM goes on afterwards.
fn stand_still(
    taking: &TakingDisks<'_>,
    phases: &mut Phases,
) -> Result<(Reservation, Vec<DiskCut>), TakeError> {
    standstill::pause(taking.machine, taking.running, phases)?;
    let begun = taking.pending.begin();
    let reservation = begun.ok_or_else(|| withdrawn(taking.pending))?;
    let cuts = phases.run("CutDisks", || disk::cut(taking.machine.disks()))?;
    Ok((reservation, cuts))
}
