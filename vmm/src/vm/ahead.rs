//! Files that a VM may need later, opened before it is built: for a process that confines itself.

use std::sync::Arc;

use nvvmm_snapshot::Pool;

use super::{
    VmError, VmSource, error::machine_error, host_paths::machine_of, reading::check_kind,
    stale_disks,
};
use crate::{
    checkpoint::blob::SavedVm,
    cow,
    disk::{DiskUser, DisksFrom},
    error::ErrorKind,
    kvm::Host,
    machine::check_devices,
    spec::files::OpenedFiles,
};

/// Holders that one process has at a time: that of the VM, that of its disks, and at a rewind that
/// of the VM to come.
const HOLDERS: usize = 4;

/// Opens all that the VM of `source`, with the name `vm`, needs while it lives, also for reboots,
/// rewinds and a pool that grows. When this returns, [`Vm::begin`](super::Vm::begin) opens no file
/// and no device by a path, as long as these files and the sockets are in its
/// [`VmOptions`](super::VmOptions).
///
/// `None` when the snapshot to restore cannot be read: that is told when the VM is built.
///
/// # Errors
/// The host has no userfaultfd or no KVM, or a file of the machine cannot be opened.
pub fn open_ahead(
    pool: &Arc<Pool>,
    source: &VmSource,
    vm: &str,
) -> Result<Option<OpenedFiles>, VmError> {
    cow::open_ahead().map_err(|error| {
        VmError::new(ErrorKind::HostLacks, error.to_string()).with_remedy(
            "give yourself access to /dev/userfaultfd (Linux 6.1 or newer has it), or start the VM \
             with --no-sandbox",
        )
    })?;
    Host::keep().map_err(|error| machine_error(error.into()))?;
    pool.open_ahead(HOLDERS)?;
    let user = |from| DiskUser {
        pool: Some(pool),
        vm,
        from,
    };
    let opened = match source {
        VmSource::Boot(spec) => {
            check_devices(spec).map_err(machine_error)?;
            OpenedFiles::open(spec, &user(DisksFrom::Newest))
        }
        VmSource::Restore(restore) => {
            let Ok(entry) = pool.find(&restore.snapshot) else {
                return Ok(None);
            };
            check_kind(&entry)?;
            let saved = pool
                .read_state(entry.id)
                .map_err(VmError::from)
                .and_then(|state| Ok(SavedVm::decode(&state)?));
            let Ok(saved) = saved else {
                return Ok(None);
            };
            let spec = machine_of(saved.spec.clone(), &entry, restore)?;
            check_devices(&spec).map_err(machine_error)?;
            let opened = OpenedFiles::open_restored(&spec, &user(restore.disks_from()));
            if let Ok(files) = &opened {
                stale_disks::check(&saved, &entry, restore, files.open_disks())?;
            }
            opened
        }
    };
    let files = opened.map_err(|error| machine_error(error.into()))?;
    files.tell_writes_apart(pool);
    Ok(Some(files))
}
