//! Processor architectures. All that is specific to one is in its module here: registers, machine
//! code, addresses, and the layouts of the kernel's structures.

#[cfg(target_arch = "x86_64")]
mod x86_64;

#[cfg(not(target_arch = "x86_64"))]
compile_error!("nvvmm-process has no module for this architecture");

#[cfg(target_arch = "x86_64")]
pub use x86_64::{
    ARCHITECTURE, HUGE_PAGE_BYTES, IDLE, KERNEL_MAPPING, PAGE_BYTES, Registers, SYS_PAUSE, SYSCALL,
    TASK_END, WORKSPACE_ADDRESSES, XSTATE_LEGACY_BYTES, XSTATE_SET, XSTATE_SET_LEGACY, xfeatures,
};

use std::fmt;

/// An architecture, by the number that ELF files have for it (`e_machine`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Architecture(pub u32);

impl Architecture {
    /// EM_X86_64.
    pub const X86_64: Self = Self(62);
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self.0 {
            3 => f.write_str("x86"),
            21 => f.write_str("ppc64"),
            22 => f.write_str("s390x"),
            40 => f.write_str("arm"),
            62 => f.write_str("x86_64"),
            183 => f.write_str("aarch64"),
            243 => f.write_str("riscv64"),
            258 => f.write_str("loongarch64"),
            other => write!(f, "unknown architecture {other}"),
        }
    }
}
