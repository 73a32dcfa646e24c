//! Files and paths that a VM is given, looked at before anything is made for it.

use std::path::Path;

use nvvmm_devices::virtio::RawDisk;
use nvvmm_snapshot::Pool;

use super::{VmError, VmOptions, VmSource, error::machine_error};
use crate::{
    arch::boot::is_linux,
    error::check_path_is_text,
    machine::{MachineError, check_devices},
    spec::{DiskSpec, VmSpec, files::BootFile},
};

/// Kind of a guest's kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KernelKind {
    /// Linux, which needs a KVM with the processor's virtualisation.
    Linux,
    /// A flat guest, which runs on every KVM.
    Flat,
}

/// Opens a kernel and recognises its kind.
///
/// # Errors
/// The error that the start of a VM would have.
pub fn check_kernel(path: &Path) -> Result<KernelKind, VmError> {
    let kernel = BootFile::open(BootFile::KERNEL, path)?;
    match is_linux(&kernel) {
        Ok(true) => Ok(KernelKind::Linux),
        Ok(false) => Ok(KernelKind::Flat),
        Err(error) => Err(machine_error(MachineError::Boot(error))),
    }
}

/// Checks that there can be a machine with the devices of `spec`.
///
/// # Errors
/// The error that the start of a VM would have.
pub fn check_machine(spec: &VmSpec) -> Result<(), VmError> {
    check_devices(spec).map_err(machine_error)
}

/// Opens and locks an image for a moment, and looks if it is a raw one. A disk of the pool is not
/// looked at.
///
/// # Errors
/// The error that the start of a VM would have, and that of an image which is not a raw one.
pub fn check_disk(disk: &DiskSpec) -> Result<(), VmError> {
    let Some(path) = disk.path() else {
        return Ok(());
    };
    let opened = RawDisk::open(path, disk.read_only);
    opened
        .and_then(|opened| match disk.is_surely_raw {
            true => Ok(()),
            false => opened.check_is_raw(),
        })
        .map_err(|error| machine_error(MachineError::Disk(error)))
}

/// Checks that all paths which a VM's status and snapshots name are text.
pub(super) fn check_paths(
    pool: &Pool,
    source: &VmSource,
    options: &VmOptions,
) -> Result<(), VmError> {
    check_path_is_text("the pool", pool.path())?;
    if let Some(vsock) = &options.vsock {
        check_path_is_text("the vsock socket", vsock)?;
    }
    if let Some(socket) = &options.console.socket {
        check_path_is_text("the console socket", socket.path())?;
    }
    let check_boot = |kernel: Option<&Path>, initramfs: Option<&Path>| {
        kernel.map_or(Ok(()), |path| check_path_is_text(BootFile::KERNEL, path))?;
        initramfs.map_or(Ok(()), |path| check_path_is_text(BootFile::INITRAMFS, path))
    };
    let check_disk = |disk: &DiskSpec| {
        disk.path()
            .map_or(Ok(()), |path| check_path_is_text("the disk", path))
    };
    match source {
        VmSource::Boot(spec) => {
            check_boot(spec.kernel.as_deref(), spec.initramfs.as_deref())?;
            spec.disks().try_for_each(check_disk)
        }
        VmSource::Restore(restore) => {
            if let Some(boot) = &restore.boot {
                check_boot(Some(&boot.kernel), boot.initramfs.as_deref())?;
            }
            restore.disks.iter().flatten().try_for_each(check_disk)
        }
    }
}

#[cfg(test)]
#[path = "given_test.rs"]
mod given_test;
