//! KVM: the host's device and virtual machines, as far as they are the same on all architectures.
//!
//! [`Host`] is `/dev/kvm` and its capabilities; [`KvmVm`] is one VM. vCPUs and saved state are in
//! module `arch`. Nothing here knows of devices, booting or the pool.

mod error;
mod host;
mod vm;

pub use error::{KvmError, Result};
pub(crate) use error::{vcpu_op, vm_op};
pub use host::Host;
pub use vm::KvmVm;
