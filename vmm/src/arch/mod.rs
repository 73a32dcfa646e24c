//! The processor architecture: vCPU registers and their saved state, CPUID and MSRs, interrupt
//! controllers and clock, page tables, firmware tables, and how a kernel is entered.
//!
//! The rest of the crate uses the names that this module re-exports, and none of an architecture's
//! own module. A second architecture is a second module with the same names. Saved states name
//! their architecture (module `spec`), and those of another one are refused.
//!
//! Two parts of x86-64 are outside of this module: module `machine` decides where a PC's serial
//! port, keyboard controller and power registers are, and [`crate::sys::kvm`] has the raw calls for
//! extended state and time-stamp counters.

#[cfg(not(target_arch = "x86_64"))]
compile_error!(
    "nvvmm runs on x86-64 only: other architectures need a module of their own in arch/"
);

#[cfg(target_arch = "x86_64")]
mod x86_64;

#[cfg(target_arch = "x86_64")]
pub use x86_64::*;
