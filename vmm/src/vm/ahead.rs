//! Files that a VM may need later, opened before it is built: for a process that confines itself.

use std::{path::Path, sync::Arc};

use nvvmm_devices::{kept_files, virtio::RawDisk};
use nvvmm_snapshot::Pool;

use super::{VmError, VmSource, error::machine_error};
use crate::{
    checkpoint::blob::SavedVm, cow, error::ErrorKind, kvm::Host, machine::MachineError,
    spec::VmSpec,
};

/// Holders that one process has at a time: that of the VM, and at a rewind that of the VM to come.
const HOLDERS: usize = 3;

/// Opens all that the VM of `source` needs while it lives, also for reboots, rewinds and a pool that
/// grows. When this returns, [`Vm::begin`](super::Vm::begin) opens no file and no device by a path,
/// as long as the sockets of [`VmOptions`](super::VmOptions) are there, too.
///
/// # Errors
/// The host has no userfaultfd or no KVM, or a disk cannot be opened. Anything else that is missing is told when the
/// VM is built.
pub fn open_ahead(pool: &Arc<Pool>, source: &VmSource) -> Result<(), VmError> {
    cow::open_ahead().map_err(|error| {
        VmError::new(ErrorKind::HostLacks, error.to_string()).with_remedy(
            "give yourself access to /dev/userfaultfd (Linux 6.1 or newer has it), or start the VM \
             with --no-sandbox",
        )
    })?;
    Host::keep().map_err(|error| machine_error(error.into()))?;
    pool.open_ahead(HOLDERS)?;
    match source {
        VmSource::Boot(spec) => keep_files(spec),
        VmSource::Restore(restore) => {
            let saved = pool
                .find(&restore.snapshot)
                .and_then(|entry| pool.read_state(entry.id))
                .map_err(VmError::from)
                .and_then(|state| Ok(SavedVm::decode(&state)?));
            // A snapshot that cannot be read is told when the VM is built.
            let Ok(SavedVm { mut spec, .. }) = saved else {
                return Ok(());
            };
            if let Some(disks) = &restore.disks
                && !spec.replace_disks(disks)
            {
                return Ok(());
            }
            keep_files(&spec)
        }
    }
}

fn keep_files(spec: &VmSpec) -> Result<(), VmError> {
    for path in [Some(&spec.kernel), spec.initramfs.as_ref()]
        .into_iter()
        .flatten()
    {
        keep_boot_file(path);
    }
    for disk in spec.disks() {
        RawDisk::keep(&disk.path, disk.read_only)
            .map_err(|error| machine_error(MachineError::Disk(error)))?;
    }
    Ok(())
}

/// Without the file, a boot from it fails: a snapshot is restored all the same.
fn keep_boot_file(path: &Path) {
    // Opening a FIFO would wait for its other end.
    if !path.metadata().is_ok_and(|metadata| metadata.is_file()) {
        return;
    }
    match kept_files::open_new(path, false) {
        Ok(file) => kept_files::keep(path, false, file),
        Err(error) => tracing::debug!(path = %path.display(), %error, "cannot be opened ahead"),
    }
}
