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
    memory::MemoryError,
    net::NetError,
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
        CowError::NotWhole { .. } | CowError::TooManyMappings { .. } | CowError::Arriving => {
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

#[deny(clippy::wildcard_enum_match_arm)]
pub(super) fn memory_error(error: MemoryError) -> VmError {
    let kind = match error {
        MemoryError::Size { .. } => ErrorKind::Usage,
        MemoryError::Reserve { .. } => ErrorKind::HostLacks,
    };
    VmError::new(kind, error.to_string())
}

/// The kind of error of an operation that needed this.
pub(super) fn kind_of_lack(lack: Lack) -> ErrorKind {
    match lack {
        Lack::Blocks | Lack::Medium => ErrorKind::PoolFull,
        Lack::Kernel => ErrorKind::HostLacks,
        Lack::Store => ErrorKind::Refused,
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

/// Remedy for a disk that cannot be shown as memory.
const LAY_OUT: &str = "lay it out for that ('nvvmm disk export NAME - | nvvmm disk import - --dax \
                       --name OTHER'), or give it without ',dax'";

#[deny(clippy::wildcard_enum_match_arm)]
pub(super) fn machine_error(error: MachineError) -> VmError {
    if let MachineError::PoolDisk(error) = error {
        return error.into();
    }
    let (kind, remedy) = match &error {
        MachineError::Dax { .. } => (ErrorKind::Refused, Some(LAY_OUT)),
        MachineError::PoolDisk(_) => (ErrorKind::Failed, None),
        MachineError::Kvm(kvm) => (kvm_kind(kvm), kvm.remedy()),
        MachineError::Boot(boot) => (boot_kind(boot), boot.remedy()),
        MachineError::Disk(disk) => (disk_kind(disk), disk.remedy()),
        MachineError::Net(net) => (net_kind(net), net.remedy()),
        MachineError::Device(device) => (device_kind(device), None),
        MachineError::NoWindow(_) => (ErrorKind::Refused, Some("restore it without --window")),
        MachineError::Spec(_) => (ErrorKind::Usage, None),
        MachineError::OtherDevices(_) => (ErrorKind::Refused, None),
        MachineError::Host { source, .. } => (ErrorKind::of_io(source), None),
        MachineError::Bus(_) | MachineError::Transport(_) | MachineError::State(_) => {
            (ErrorKind::Failed, None)
        }
    };
    VmError {
        remedy: remedy.map(str::to_owned),
        ..VmError::new(kind, error.to_string())
    }
}

#[deny(clippy::wildcard_enum_match_arm)]
fn net_kind(error: &NetError) -> ErrorKind {
    match error {
        NetError::NoPasst | NetError::Passt(_) => ErrorKind::HostLacks,
        NetError::Port { .. } | NetError::NotListening { .. } => ErrorKind::Refused,
        NetError::Descriptor { .. } => ErrorKind::Usage,
        NetError::Tap { source, .. } if source.raw_os_error() == Some(libc::ENODEV) => {
            ErrorKind::NotFound
        }
        NetError::Tap { source, .. }
        | NetError::Namespace { source, .. }
        | NetError::Host { source, .. } => ErrorKind::of_io(source),
    }
}

#[deny(clippy::wildcard_enum_match_arm)]
fn kvm_kind(error: &KvmError) -> ErrorKind {
    match error {
        KvmError::Open { .. }
        | KvmError::Lacks(_)
        | KvmError::Incompatible(_)
        | KvmError::Msr { .. }
        | KvmError::UnknownMsr { .. } => ErrorKind::HostLacks,
        KvmError::Vm { .. } | KvmError::Vcpu { .. } | KvmError::Mismatch(_) => ErrorKind::Failed,
    }
}

#[deny(clippy::wildcard_enum_match_arm)]
fn boot_kind(error: &BootError) -> ErrorKind {
    match error {
        BootError::File(FileError::Read { source, .. }) => ErrorKind::of_io(source),
        BootError::File(FileError::NoKernel) => ErrorKind::Refused,
        // The file or the option that was given can boot no guest.
        BootError::File(FileError::NotRegular { .. } | FileError::Empty { .. })
        | BootError::NotAKernel { .. }
        | BootError::DoesNotFit { .. }
        | BootError::CmdlineTooLong { .. }
        | BootError::CmdlineCharacters
        | BootError::LinuxOnly(_)
        | BootError::TooManyVcpus { .. } => ErrorKind::Usage,
        BootError::Memory { .. } => ErrorKind::Failed,
    }
}

#[deny(clippy::wildcard_enum_match_arm)]
fn device_kind(error: &LifecycleError) -> ErrorKind {
    match error {
        LifecycleError::UnknownVersion { .. }
        | LifecycleError::Malformed { .. }
        | LifecycleError::LeftOver { .. } => ErrorKind::PoolDamaged,
        LifecycleError::WrongDevice { .. }
        | LifecycleError::Rejected { .. }
        | LifecycleError::NotPaused { .. }
        | LifecycleError::Io { .. } => ErrorKind::Failed,
    }
}

fn disk_kind(error: &BlockError) -> ErrorKind {
    match error {
        BlockError::InUse { .. } => ErrorKind::Refused,
        BlockError::NotWritable { .. } => ErrorKind::Denied,
        BlockError::NotADisk { .. } | BlockError::Size { .. } | BlockError::Qcow2 { .. } => {
            ErrorKind::Usage
        }
        BlockError::Io { source, .. } => ErrorKind::of_io(source),
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
