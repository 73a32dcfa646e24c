//! Snapshots that a VM is built from: found, pinned, read and checked.

use std::sync::Arc;

use nvvmm_snapshot::{FrameMap, Holder, Pool, SnapshotEntry, SnapshotKind};

use super::VmError;
use crate::{checkpoint::blob::SavedVm, error::ErrorKind, spec::VmSpec};

/// A snapshot of a VM, which a holder of the VM to come pins.
pub(super) struct ReadSnapshot {
    pub holder: Arc<Holder>,
    pub entry: SnapshotEntry,
    pub frames: FrameMap,
    pub saved: SavedVm,
}

impl ReadSnapshot {
    /// Finds the snapshot, pins it for a VM of this name, and reads its state.
    pub fn read(pool: &Arc<Pool>, vm: &str, snapshot: &str) -> Result<Self, VmError> {
        let holder = Arc::new(pool.hold(vm)?);
        let (entry, frames) = holder.pin(snapshot)?;
        check_kind(&entry)?;
        let saved = read_state(pool, &entry)?;
        if entry.foreign {
            // So is all that is taken of the VM that goes on from there.
            holder.mark_foreign();
        }
        Ok(Self {
            holder,
            entry,
            frames,
            saved,
        })
    }

    /// Does the same with a snapshot that may still arrive.
    pub fn read_arriving(pool: &Arc<Pool>, vm: &str, snapshot: &str) -> Result<Self, VmError> {
        let holder = Arc::new(pool.hold(vm)?);
        let (entry, frames) = holder.pin_arriving(snapshot, None)?;
        check_kind(&entry)?;
        let saved = read_state(pool, &entry)?;
        Ok(Self {
            holder,
            entry,
            frames,
            saved,
        })
    }

    /// Reads the whole frame map, so that damage is found before a guest runs.
    pub fn check_map(&self) -> Result<(), VmError> {
        let chunks = self.frames.iter_present();
        Ok({ chunks }.try_for_each(|chunk| chunk.map(drop))?)
    }
}

/// Reads the state of a pinned snapshot.
pub(super) fn read_state(pool: &Pool, entry: &SnapshotEntry) -> Result<SavedVm, VmError> {
    let saved = SavedVm::decode(&pool.read_state(entry.id)?)?;
    check_memory(&saved.spec, entry)?;
    Ok(saved)
}

/// Refuses a snapshot that is not one of a VM.
pub(super) fn check_kind(entry: &SnapshotEntry) -> Result<(), VmError> {
    match entry.kind {
        SnapshotKind::Vm if entry.has_disks_only() => Err(VmError::new(
            ErrorKind::Refused,
            format!("snapshot '{}' has disks only, and no VM", entry.name),
        )
        .with_remedy(format!(
            "'nvvmm disk copy {}:DISK NEW' makes a disk of one of them, for 'nvvmm run --disk NEW'",
            entry.name
        ))),
        SnapshotKind::Vm => Ok(()),
        SnapshotKind::Process => Err(VmError::new(
            ErrorKind::Refused,
            format!(
                "'{}' is a {}, not a snapshot of a VM",
                entry.name, entry.kind
            ),
        )
        .with_remedy(format!(
            "'nvvmm restore {} --into VM' restarts it in a guest",
            entry.name
        ))),
    }
}

/// Refuses a frame map whose size is not that of the machine's memory.
fn check_memory(spec: &VmSpec, entry: &SnapshotEntry) -> Result<(), VmError> {
    if spec.memory_bytes == entry.memory_bytes {
        return Ok(());
    }
    let (name, map_bytes, spec_bytes) = (&entry.name, entry.memory_bytes, spec.memory_bytes);
    Err(VmError::new(
        ErrorKind::PoolDamaged,
        format!("snapshot '{name}' has {map_bytes} B of memory, and its machine {spec_bytes} B"),
    )
    .with_remedy("check the pool with 'nvvmm pool check'"))
}

#[cfg(test)]
#[path = "reading_test.rs"]
mod reading_test;
