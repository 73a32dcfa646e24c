//! Errors of KVM.

use std::io;

/// An error of the KVM layer.
#[derive(Debug, thiserror::Error)]
pub enum KvmError {
    /// `/dev/kvm` cannot be opened.
    #[error("cannot open /dev/kvm: {source}")]
    Open {
        /// Advice to the user.
        remedy: &'static str,
        /// The error of open(2).
        source: io::Error,
    },
    /// This KVM lacks something that nvvmm cannot do without.
    #[error("this host's KVM lacks {0}")]
    Lacks(&'static str),
    /// A snapshot needs something of the host that it does not have.
    #[error("{0}")]
    Incompatible(String),
    /// A VM-wide or system ioctl failed.
    #[error("KVM: {op} failed: {source}")]
    Vm {
        /// The step that failed.
        op: &'static str,
        /// KVM's error.
        source: io::Error,
    },
    /// An ioctl of one vCPU failed.
    #[error("KVM: vCPU {vcpu}: {op} failed: {source}")]
    Vcpu {
        /// Index of the vCPU.
        vcpu: usize,
        /// The step that failed.
        op: &'static str,
        /// KVM's error.
        source: io::Error,
    },
    /// A model-specific register of a snapshot is refused by this host.
    #[error("vCPU {vcpu}: this host's KVM refuses the snapshot's MSR {index:#x} = {value:#x}")]
    Msr {
        /// Index of the vCPU.
        vcpu: usize,
        /// Number of the MSR.
        index: u32,
        /// Value in the snapshot.
        value: u64,
    },
    /// A snapshot sets a model-specific register that snapshots of this host do not have.
    #[error(
        "vCPU {vcpu}: the snapshot sets MSR {index:#x} = {value:#x}, which is not among the MSRs \
         that nvvmm saves on this host"
    )]
    UnknownMsr {
        /// Index of the vCPU.
        vcpu: usize,
        /// Number of the MSR.
        index: u32,
        /// Value in the snapshot.
        value: u64,
    },
    /// A saved state does not fit the machine it is restored into.
    #[error("saved KVM state does not fit: {0}")]
    Mismatch(String),
}

impl KvmError {
    /// Advice to the user.
    pub fn remedy(&self) -> Option<&'static str> {
        match self {
            Self::Open { remedy, .. } => Some(remedy),
            Self::Lacks(_) => Some("use a newer kernel: Linux 5.19 has all that nvvmm needs"),
            Self::Incompatible(_) | Self::Msr { .. } | Self::UnknownMsr { .. } => {
                Some("restore on a host with the same kind of CPU and KVM, or a newer one")
            }
            _ => None,
        }
    }
}

/// Result of the KVM layer.
pub type Result<T> = std::result::Result<T, KvmError>;

/// Turns an ioctl's error into [`KvmError::Vm`].
pub(crate) fn vm_op<E: Into<io::Error>>(op: &'static str) -> impl FnOnce(E) -> KvmError {
    move |source| KvmError::Vm {
        op,
        source: source.into(),
    }
}

/// Turns an ioctl's error into [`KvmError::Vcpu`].
pub(crate) fn vcpu_op<E: Into<io::Error>>(
    vcpu: usize,
    op: &'static str,
) -> impl FnOnce(E) -> KvmError {
    move |source| KvmError::Vcpu {
        vcpu,
        op,
        source: source.into(),
    }
}
