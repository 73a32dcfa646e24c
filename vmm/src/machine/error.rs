//! Errors of a machine.

use std::io;

use nvvmm_devices::virtio::{BlockError, DeviceError, TransportError};
use nvvmm_devices::{BusError, LifecycleError};

use crate::arch::boot::BootError;
use crate::kvm::KvmError;
use crate::net::NetError;
use crate::spec::files::OpenError;

/// An error of a machine.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// KVM refused something.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// The guest could not be loaded.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// A device could not be paused, saved, restored or resumed.
    #[error(transparent)]
    Device(#[from] LifecycleError),
    /// A device could not be put on a bus.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// A virtio device could not be made.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// A disk cannot be used.
    #[error(transparent)]
    Disk(#[from] BlockError),
    /// A disk cannot be shown as persistent memory.
    #[error("the disk '{disk}' cannot be shown as persistent memory: {reason}")]
    Dax {
        /// The disk.
        disk: String,
        /// The reason.
        reason: String,
    },
    /// A disk of the pool cannot be used.
    #[error(transparent)]
    PoolDisk(nvvmm_snapshot::Error),
    /// A network cannot be opened.
    #[error(transparent)]
    Net(#[from] NetError),
    /// The machine asked for cannot be built.
    #[error("{0}")]
    Spec(String),
    /// No memory can be shown to the guest beside its RAM.
    #[error("{0}")]
    NoWindow(&'static str),
    /// A saved machine has other devices than this one.
    #[error("the snapshot is of a machine with other devices: {0}; restore with the same devices")]
    OtherDevices(String),
    /// The machine is in another state than the call needs.
    #[error("{0}")]
    State(&'static str),
    /// The host refused something.
    #[error("cannot {op}: {source}")]
    Host {
        /// The step that failed.
        op: &'static str,
        /// The host's error.
        source: io::Error,
    },
}

/// Result of a machine's operations.
pub type Result<T> = std::result::Result<T, MachineError>;

impl From<OpenError> for MachineError {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Boot(error) => Self::Boot(error.into()),
            OpenError::Disk(error) => Self::Disk(error),
            OpenError::PoolDisk(error) => Self::PoolDisk(error),
            OpenError::Net(error) => Self::Net(error),
        }
    }
}

impl From<DeviceError> for MachineError {
    fn from(error: DeviceError) -> Self {
        match error {
            DeviceError::Disk(disk) => Self::Disk(disk),
            DeviceError::Host { op, source } => Self::Host { op, source },
            missing @ DeviceError::Missing { .. } => Self::Spec(missing.to_string()),
        }
    }
}

/// Turns a host's error into [`MachineError::Host`].
pub(super) fn host<E: Into<io::Error>>(op: &'static str) -> impl FnOnce(E) -> MachineError {
    move |source| MachineError::Host {
        op,
        source: source.into(),
    }
}
