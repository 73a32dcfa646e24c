//! The page in which KVM tells a vCPU how its kvmclock follows from its TSC.
//!
//! Source: Documentation/virt/kvm/x86/msr.rst, `MSR_KVM_SYSTEM_TIME_NEW` and `struct
//! pvclock_vcpu_time_info`.

use vm_memory::{Bytes, GuestAddress};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::memory::GuestMemory;

/// Guest physical address of the page; bit 0 says that the guest uses it.
pub(super) const MSR_KVM_SYSTEM_TIME_NEW: u32 = 0x4b56_4d01;

#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct PvclockV1 {
    version: u32,
    _pad0: u32,
    tsc_timestamp: u64,
    system_time_ns: u64,
    tsc_to_system_mul: u32,
    tsc_shift: i8,
    flags: u8,
    _pad1: [u8; 2],
}

const _: () = assert!(size_of::<PvclockV1>() == 32);

/// The TSC that a vCPU would read when its kvmclock reads `clock_ns`, by the page that KVM last
/// filled for it. `None` when the guest does not use kvmclock.
pub(super) fn tsc_at(
    memory: &GuestMemory,
    system_time_msr: u64,
    clock_ns: u64,
    khz: u32,
) -> Option<u64> {
    if system_time_msr & 1 == 0 {
        return None;
    }
    let mut page = PvclockV1::default();
    memory
        .read_slice(page.as_mut_bytes(), GuestAddress(system_time_msr & !1))
        .ok()?;
    // An odd version is a page under construction, 0 one that was never filled.
    if page.version == 0 || page.version % 2 == 1 {
        return None;
    }
    let since_ns = i128::from(clock_ns) - i128::from(page.system_time_ns);
    let ticks = since_ns * i128::from(khz) / 1_000_000;
    u64::try_from(i128::from(page.tsc_timestamp) + ticks).ok()
}

#[cfg(test)]
#[path = "pvclock_test.rs"]
mod pvclock_test;
