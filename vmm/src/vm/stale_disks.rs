//! No old memory on a newer disk: what is known of the disks of a snapshot is compared with what
//! they are now.
//!
//! A guest keeps parts of a file system in memory. When it goes on from a snapshot, and its disk
//! was written since, it destroys that file system. So this is refused, unless the user takes the
//! disk as it is.

use std::sync::Arc;

use nvvmm_devices::virtio::{ContentStamp, DiskBackend, RawDisk, Since};
use nvvmm_snapshot::SnapshotEntry;

use super::{RestoreOptions, VmError, error::machine_error, error::no_thread, running::RunningVm};
use crate::{
    checkpoint::{blob::SavedVm, report::OutsideDisk},
    disk::OpenDisk,
    error::ErrorKind,
    machine::Hold,
    spec::DiskSpec,
};

/// The way on with the disks as they are.
const AS_THEY_ARE: &str =
    "add --stale-disks to go on with what is on it now: the guest's file systems on it may break";

/// Origin of the disks of a restored machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Given {
    /// The snapshot names them.
    BySnapshot,
    /// The user gives them for this restore: copies of that time, unless something tells that they
    /// are not.
    ByUser,
    /// As before, for a snapshot that was taken on another host.
    Elsewhere,
}

/// Refuses disks that were written after the snapshot. Returns notes for the user about disks of
/// which that cannot be told.
///
/// # Errors
/// [`ErrorKind::Refused`], with the ways out.
pub(super) fn check(
    saved: &SavedVm,
    entry: &SnapshotEntry,
    restore: &RestoreOptions,
    disks: &[OpenDisk],
) -> Result<Vec<String>, VmError> {
    if restore.stale_disks {
        return Ok(Vec::new());
    }
    let given = match (&restore.disks, entry.foreign) {
        (_, true) => Given::Elsewhere,
        (Some(_), false) => Given::ByUser,
        (None, false) => Given::BySnapshot,
    };
    if given != Given::BySnapshot
        && let Some(named) = restore.disks.iter().flatten().find_map(DiskSpec::pool_disk)
    {
        return Err(newest_disk(named, &entry.name));
    }
    let found = judge(saved, given, disks);
    match found.refused.is_empty() {
        true => Ok(found.notes),
        false => Err(refusal(&entry.name, &found.refused)),
    }
}

/// Findings about the disks of a machine.
#[derive(Debug, Default)]
struct Found {
    /// Disks that cannot go on with the snapshot, each with the reason.
    refused: Vec<(String, &'static str)>,
    /// Notes for the user.
    notes: Vec<String>,
}

fn judge(saved: &SavedVm, given: Given, disks: &[OpenDisk]) -> Found {
    let mut found = Found::default();
    let images = disks.iter().enumerate();
    let images = images.filter_map(|(index, disk)| Some((index, disk.file()?)));
    for (index, disk) in images {
        let (name, now) = (disk.name(), disk.content());
        let noted = saved.disks.as_ref().map(|disks| disks.get(index));
        match (noted, now) {
            (Some(Some(Some(noted))), Some(now)) => {
                if let Some(reason) = reason_against(noted, &now, given) {
                    found.refused.push((name, reason));
                }
            }
            // The guest only reads it, or the user has just said that it fits.
            _ if disk.is_read_only() || given != Given::BySnapshot => {}
            (None, _) => found.notes.push(format!(
                "it cannot be told if the disk {name} was written since the snapshot: an older \
                 nvvmm took it"
            )),
            (Some(_), _) => found.notes.push(format!(
                "it cannot be told if the disk {name} was written since the snapshot: a block \
                 device keeps no time of its last write"
            )),
        }
    }
    found
}

/// The reason why a disk cannot go on with a snapshot, if there is one.
fn reason_against(noted: &ContentStamp, now: &ContentStamp, given: Given) -> Option<&'static str> {
    // The device compares sizes, and names both.
    if noted.size_bytes != now.size_bytes {
        return None;
    }
    let mut noted = noted.clone();
    if given == Given::Elsewhere {
        // No file here is the one that was noted there.
        (noted.device, noted.inode) = (now.device, !now.inode);
    }
    match (noted.compare(now), given) {
        (Since::Unwritten, _) => None,
        (Since::Written, _) => Some("was written after the snapshot"),
        (Since::OtherFile, Given::BySnapshot) => Some("is another file than at the snapshot"),
        (Since::OtherFile, Given::ByUser | Given::Elsewhere) => None,
    }
}

fn refusal(snapshot: &str, refused: &[(String, &'static str)]) -> VmError {
    let disks: Vec<String> = { refused.iter() }
        .map(|(disk, reason)| format!("the disk {disk} {reason}"))
        .collect();
    VmError::new(
        ErrorKind::Refused,
        format!(
            "{}: the memory in '{snapshot}' does not fit {} any more",
            disks.join("; "),
            if disks.len() == 1 { "it" } else { "them" }
        ),
    )
    .with_remedy(format!(
        "give a copy of the disk from that time: --disk FILE (all disks, in the guest's order); \
         or {AS_THEY_ARE}"
    ))
}

/// A disk of the pool as it is now, for the memory of an earlier time.
fn newest_disk(disk: &str, snapshot: &str) -> VmError {
    VmError::new(
        ErrorKind::Refused,
        format!("the disk '{disk}' of the pool may have been written after '{snapshot}' was taken"),
    )
    .with_remedy(format!(
        "leave --disk out: the VM gets copies of the disks that the snapshot has; or {AS_THEY_ARE}"
    ))
}

/// Disks that the guest can write, and that no snapshot holds.
pub(super) fn outside(disks: &[OpenDisk]) -> Vec<OutsideDisk> {
    let images = disks.iter().filter_map(OpenDisk::file);
    let writable = images.filter(|disk: &&RawDisk| !disk.is_read_only());
    writable
        .map(|disk| OutsideDisk {
            path: disk.name(),
            checked: disk.content().is_some(),
        })
        .collect()
}

/// A guest that stands still since its disks were looked at. When this is dropped it goes on, if
/// it ran before, unless it is kept so.
pub(super) struct StandsStill {
    vm: Arc<RunningVm>,
    is_kept: bool,
}

impl StandsStill {
    /// The machine is about to be replaced: its guest does not run any more.
    pub fn keep(mut self) {
        self.is_kept = true;
    }
}

impl Drop for StandsStill {
    fn drop(&mut self) {
        if !self.is_kept {
            self.vm.go_on_after_look();
        }
    }
}

impl RunningVm {
    /// Has the guest stand still if its disks are as at the snapshot, so that they stay so.
    ///
    /// # Errors
    /// [`ErrorKind::Refused`] when a disk was written after the snapshot, or nothing can be told of
    /// it. The guest runs on then.
    pub(super) fn stand_still_unless_written(
        self: &Arc<Self>,
        saved: &SavedVm,
        snapshot: &str,
    ) -> Result<StandsStill, VmError> {
        let vm = Arc::clone(self);
        let stopped = self.faults.unless_stuck(move || vm.stop_for_look());
        match stopped.map_err(no_thread)? {
            Some(stopped) => stopped?,
            None => return Err(self.no_space()),
        }
        let still = StandsStill {
            vm: Arc::clone(self),
            is_kept: false,
        };
        self.refuse_written_disks(saved, snapshot).map(|()| still)
    }

    /// Refuses a rewind to before a write to a disk. The guest stands still.
    ///
    /// # Errors
    /// [`ErrorKind::Refused`] when a disk was written after the snapshot, or nothing can be told of
    /// it.
    pub(super) fn refuse_written_disks(
        &self,
        saved: &SavedVm,
        snapshot: &str,
    ) -> Result<(), VmError> {
        let found = judge(saved, Given::BySnapshot, self.machine.disks());
        if let Some(untold) = found.notes.first() {
            return Err(VmError::new(ErrorKind::Refused, untold.clone())
                .with_remedy(rewind_remedy(snapshot)));
        }
        match found.refused.is_empty() {
            true => Ok(()),
            false => Err(refusal(snapshot, &found.refused).with_remedy(rewind_remedy(snapshot))),
        }
    }

    /// Stops vCPUs and devices, and has nobody start them meanwhile.
    fn stop_for_look(&self) -> Result<(), VmError> {
        let operation = self.operation();
        if self.seen().ending {
            return Err(VmError::new(ErrorKind::Refused, "the VM is ending"));
        }
        if !operation.quiesced {
            let at_rest = self
                .machine
                .pause_vcpus(Hold::Operation)
                .and_then(|()| self.machine.quiesce_devices());
            if let Err(error) = at_rest {
                self.machine.resume_vcpus(Hold::Operation);
                return Err(machine_error(error));
            }
        }
        self.seen().ending = true;
        Ok(())
    }

    fn go_on_after_look(&self) {
        let operation = self.operation();
        self.seen().ending = false;
        if !operation.quiesced
            && let Err(error) = self.machine.resume_devices()
        {
            tracing::error!(%error, "the devices do not go on");
        }
        self.machine.resume_vcpus(Hold::Operation);
    }
}

fn rewind_remedy(snapshot: &str) -> String {
    format!(
        "'nvvmm restore {snapshot} --disk FILE' with a copy of the disk from that time; or \
         {AS_THEY_ARE}"
    )
}

#[cfg(test)]
#[path = "stale_disks_test.rs"]
mod stale_disks_test;
