//! Errors of the VM's parts as errors for the user.

use std::io;

use nvvmm_devices::{LifecycleError, virtio::BlockError};

use super::VmError;
use crate::{
    arch::boot::BootError,
    checkpoint::{TakeError, blob::BlobError},
    cow::{CowError, Lack},
    error::{ErrorKind, MAKE_SPACE},
    kvm::KvmError,
    machine::MachineError,
    spec::files::FileError,
    sys::uffd::UffdError,
};

/// A group on the device is right: the sysctl vm.unprivileged_userfaultfd opens it to everybody.
const OPEN_USERFAULTFD: &str =
    "give your user access to /dev/userfaultfd: 'nvvmm doctor' prints the udev rule";

impl From<BlobError> for VmError {
    fn from(error: BlobError) -> Self {
        if let BlobError::OtherArchitecture(message) = error {
            return Self::new(ErrorKind::HostLacks, message)
                .with_remedy("restore it on a host of that architecture");
        }
        let version = matches!(
            error,
            BlobError::Version { .. } | BlobError::UnknownSection { .. }
        );
        let remedy = if version {
            "restore it with the nvvmm version that took it"
        } else {
            "the snapshot cannot be restored; 'nvvmm pool check' lists other damage"
        };
        Self::new(ErrorKind::PoolDamaged, error.to_string()).with_remedy(remedy)
    }
}

pub(super) fn cow_error(error: CowError) -> VmError {
    let message = error.to_string();
    match error {
        CowError::NoSpace(lack) => {
            VmError::new(kind_of_lack(lack), message).with_remedy(lack.remedy())
        }
        CowError::Pool(error) | CowError::Locked(error) => error.into(),
        CowError::Uffd(UffdError::NoPermission) => {
            VmError::new(ErrorKind::HostLacks, message).with_remedy(OPEN_USERFAULTFD)
        }
        CowError::Uffd(UffdError::KernelTooOld) => {
            VmError::new(ErrorKind::HostLacks, message).with_remedy("Linux 5.19 or newer is needed")
        }
        CowError::NotWhole { .. } | CowError::TooManyMappings { .. } => {
            VmError::new(ErrorKind::Refused, message)
        }
        CowError::Uffd(_) | CowError::Os { .. } => VmError::failed(message),
    }
}

impl From<FileError> for VmError {
    fn from(error: FileError) -> Self {
        machine_error(MachineError::Boot(error.into()))
    }
}

/// The kind of error of an operation that needed this.
pub(super) fn kind_of_lack(lack: Lack) -> ErrorKind {
    match lack {
        Lack::Blocks | Lack::Medium => ErrorKind::PoolFull,
        Lack::Kernel => ErrorKind::HostLacks,
    }
}

/// Error of an operation for which the host has no thread. Nothing was changed.
pub(super) fn no_thread(error: io::Error) -> VmError {
    VmError::new(
        ErrorKind::HostLacks,
        format!("the host has no thread for this operation: {error}"),
    )
    .with_remedy(
        "end other processes, or raise the limit of threads (RLIMIT_NPROC, or pids.max of the \
         control group), and try again",
    )
}

pub(super) fn machine_error(error: MachineError) -> VmError {
    let (kind, remedy) = match &error {
        MachineError::Kvm(kvm) => (kvm_kind(kvm), kvm.remedy()),
        MachineError::Boot(boot) => (boot_kind(boot), boot.remedy()),
        MachineError::Disk(disk) => (disk_kind(disk), disk.remedy()),
        MachineError::Device(device) => (device_kind(device), None),
        MachineError::NoWindow(_) => (ErrorKind::Refused, Some("restore it without --window")),
        _ => (ErrorKind::Failed, None),
    };
    VmError {
        remedy: remedy.map(str::to_owned),
        ..VmError::new(kind, error.to_string())
    }
}

fn kvm_kind(error: &KvmError) -> ErrorKind {
    match error {
        KvmError::Open { .. }
        | KvmError::Lacks(_)
        | KvmError::Incompatible(_)
        | KvmError::Msr { .. }
        | KvmError::UnknownMsr { .. } => ErrorKind::HostLacks,
        _ => ErrorKind::Failed,
    }
}

fn boot_kind(error: &BootError) -> ErrorKind {
    match error {
        BootError::File(FileError::Read { source, .. })
            if source.kind() == std::io::ErrorKind::NotFound =>
        {
            ErrorKind::NotFound
        }
        BootError::File(FileError::NotRegular { .. } | FileError::Empty { .. }) => ErrorKind::Usage,
        _ => ErrorKind::Failed,
    }
}

fn device_kind(error: &LifecycleError) -> ErrorKind {
    match error {
        LifecycleError::UnknownVersion { .. }
        | LifecycleError::Malformed { .. }
        | LifecycleError::LeftOver { .. } => ErrorKind::PoolDamaged,
        _ => ErrorKind::Failed,
    }
}

fn disk_kind(error: &BlockError) -> ErrorKind {
    match error {
        BlockError::InUse { .. } => ErrorKind::Refused,
        BlockError::NotADisk { .. } | BlockError::Size { .. } => ErrorKind::Usage,
        BlockError::Io { .. } => ErrorKind::Failed,
    }
}

pub(super) fn take_error(error: TakeError) -> VmError {
    match error {
        TakeError::Pool(error) => error.into(),
        TakeError::NoRoom { needed_paused, .. } => {
            VmError::new(ErrorKind::PoolFull, error.to_string()).with_remedy(format!(
                "{MAKE_SPACE}; a VM that is paused needs at most {needed_paused}"
            ))
        }
        TakeError::NoRoomAhead(lack) | TakeError::NoRoomPaused(lack) => {
            VmError::new(kind_of_lack(lack), error.to_string()).with_remedy(lack.remedy())
        }
        TakeError::CallerGone => VmError::new(ErrorKind::Refused, error.to_string()),
        TakeError::Machine(error) => machine_error(error),
        TakeError::Cow(error) => cow_error(error),
        TakeError::Blob(error) => VmError::failed(error.to_string()),
    }
}

#[cfg(test)]
#[path = "error_test.rs"]
mod error_test;
