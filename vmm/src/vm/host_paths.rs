//! Paths of the host that a restored machine uses.
//!
//! A snapshot names the files that its machine was made of: kernel, initial RAM disk, disks. Those
//! of a snapshot that came from elsewhere are words of its sender. None of them is opened: whoever
//! restores it gives the files, or there are none. The same goes for its network
//! ([`networks`](super::networks)).

use std::path::PathBuf;

use nvvmm_snapshot::{SnapshotEntry, counted};

use super::{RestoreOptions, VmError, networks};
use crate::{
    error::ErrorKind,
    spec::{DiskSource, DiskSpec, VmSpec},
};

/// Files that a guest boots from when it reboots, in place of those that its snapshot names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BootChoice {
    /// The kernel or program.
    pub kernel: PathBuf,
    /// Initial RAM disk for Linux.
    pub initramfs: Option<PathBuf>,
    /// Kernel command line, without what nvvmm adds itself.
    pub cmdline: String,
}

/// The machine of a snapshot, with the files of this host that it is to use. A path that the
/// sender of a foreign snapshot named is not in it any more.
///
/// # Errors
/// [`ErrorKind::Refused`] for a foreign snapshot with disks that were not given,
/// and for another number of disks.
pub(super) fn machine_of(
    saved: VmSpec,
    entry: &SnapshotEntry,
    restore: &RestoreOptions,
) -> Result<VmSpec, VmError> {
    let mut spec = saved;
    match &restore.disks {
        Some(disks) => replace_disks(&mut spec, disks)?,
        None if entry.foreign && spec.disks().any(|disk| disk.path().is_some()) => {
            return Err(disks_are_not_given(&spec, &entry.name));
        }
        None => {}
    }
    networks::choose(&mut spec, entry, restore)?;
    match &restore.boot {
        Some(boot) => {
            spec.kernel = Some(boot.kernel.clone());
            spec.initramfs.clone_from(&boot.initramfs);
            spec.cmdline.clone_from(&boot.cmdline);
        }
        None if entry.foreign => {
            spec.kernel = None;
            spec.initramfs = None;
            spec.cmdline.clear();
        }
        None => {}
    }
    Ok(spec)
}

fn replace_disks(spec: &mut VmSpec, disks: &[DiskSpec]) -> Result<(), VmError> {
    if spec.replace_disks(disks) {
        return Ok(());
    }
    Err(VmError::new(
        ErrorKind::Refused,
        format!(
            "the snapshot's machine has {}, but --disk was given {}",
            counted(spec.disks().count() as u64, "disk"),
            counted(disks.len() as u64, "time")
        ),
    )
    .with_remedy("give one --disk for each disk of the snapshot, in the same order"))
}

fn disks_are_not_given(spec: &VmSpec, snapshot: &str) -> VmError {
    let disks: Vec<&DiskSpec> = spec.disks().collect();
    let named = disks.iter().map(|disk| {
        let read_only = if disk.read_only { " (read-only)" } else { "" };
        match &disk.source {
            DiskSource::File(path) => format!("{}{read_only}", path.display()),
            DiskSource::Pool(name) => format!("'{name}'{read_only}"),
        }
    });
    let named: Vec<String> = named.collect();
    VmError::new(
        ErrorKind::Refused,
        format!(
            "snapshot '{snapshot}' came from elsewhere: the disks that it names are not opened \
             here. Its sender calls them {}",
            named.join(", ")
        ),
    )
    .with_remedy(format!(
        "give --disk FILE {}; or 'nvvmm adopt {snapshot}', if you trust its sender",
        match disks.len() {
            1 => "for its disk".to_owned(),
            count => format!("for each of its {count} disks, in this order"),
        }
    ))
}

/// The error of a guest that reboots in a VM without a kernel.
pub(super) fn nothing_to_boot(why: &str) -> VmError {
    VmError::new(
        ErrorKind::Refused,
        format!("the guest has rebooted, and its VM ends: {why}"),
    )
    .with_remedy("restore a snapshot of it with --kernel FILE")
}

/// The notice of a VM that ends when its guest reboots.
pub(super) fn reboot_notice(why: &str) -> String {
    format!("the VM ends when its guest reboots: {why}")
}

#[cfg(test)]
#[path = "host_paths_test.rs"]
mod host_paths_test;
