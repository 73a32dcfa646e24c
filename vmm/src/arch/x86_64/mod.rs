//! x86-64.

pub mod boot;
pub mod compat;
mod core_notes;
mod cpuid;
mod entry;
mod host_cpu;
mod msrs;
mod page_tables;
mod pvclock;
pub mod rewind;
pub mod state;
mod time;
mod vcpu_state;
mod vm;
mod vm_state;

pub use core_notes::{CoreNote, core_notes, is_in_kernel};
pub use entry::{is_flat, set_entry};
pub use host_cpu::HostCpu;
pub use msrs::MsrV1;
pub use page_tables::{Mapped, Mappings, Paging, table_of};
pub use state::KvmStateV1;
pub use time::{ClockStateV1, TscStateV1};
pub use vcpu_state::VcpuStateV1;
pub use vm::{check_host, create_vcpu, create_vm};
pub use vm_state::VmStateV1;

/// Machine of an ELF file (`e_machine`).
pub const ELF_MACHINE: u16 = linux_loader::elf::EM_X86_64;

#[cfg(test)]
mod cpuid_test;
#[cfg(test)]
pub(crate) mod state_test;
