//! KVM: the virtual machine, its vCPUs, and their saved state.
//!
//! [`Host`] is `/dev/kvm` and what it offers; [`KvmVm`] is one VM with the in-kernel interrupt
//! controllers and timer; [`state`] saves and restores all of it. Nothing here knows of devices,
//! booting or the pool.

pub mod compat;
pub mod cpuid;
mod error;
mod host;
mod msrs;
mod pvclock;
pub mod state;
mod time;
mod vcpu_state;
mod vm;
mod vm_state;

pub use error::{KvmError, Result};
pub use host::Host;
pub use msrs::{MsrV1, set_boot_msrs};
pub use state::KvmStateV1;
pub use time::{ClockStateV1, TscStateV1};
pub use vcpu_state::VcpuStateV1;
pub use vm::KvmVm;
pub use vm_state::VmStateV1;

#[cfg(test)]
mod cpuid_test;
#[cfg(test)]
pub(crate) mod state_test;
