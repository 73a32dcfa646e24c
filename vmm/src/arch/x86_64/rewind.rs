//! vCPUs that have run take over the state of an earlier moment.
//!
//! KVM lets its owner write every part of a vCPU that is out of `KVM_RUN`, and QEMU's `loadvm` does
//! the same on vCPUs that have run. What a new vCPU does not have must be ended before:
//!
//! * CPUID cannot change after the first `KVM_RUN`. So it must be the one that the vCPU has.
//! * MSRs that the state does not name keep their values. So these must be zero.
//! * An INIT or start-up IPI that a local APIC has not taken yet. `KVM_GET_MP_STATE` has it taken,
//!   and all that this changes is written afterwards.
//! * A deadline of the local APIC's timer. `KVM_SET_LAPIC` starts the timer against the deadline
//!   that is set, and if that has passed, an interrupt is pending which no later write takes back.
//!   So the deadline is cleared first.
//! * Asynchronous page faults under way, whose ends would be told to a guest that knows nothing of
//!   them. To switch them off forgets them.
//!
//! The order is that of a restore, and the run state comes once more at the end: to write system
//! registers may make a vCPU run.

use kvm_bindings::{KVM_MAX_CPUID_ENTRIES, kvm_cpuid_entry2};
use kvm_ioctls::VcpuFd;

use super::msrs::{self, MSR_IA32_TSC, MSR_IA32_TSC_DEADLINE, MsrV1};
use super::state::{KvmStateV1, check_count, restore_vcpus};
use super::{HostCpu, VcpuStateV1};
use crate::kvm::{KvmError, KvmVm, Result, vcpu_op};

/// Switches asynchronous page faults on (KVM's Documentation/virt/kvm/x86/msr.rst).
const MSR_KVM_ASYNC_PF_EN: u32 = 0x4b56_4d02;

/// Parts of CPUID that KVM derives from the vCPU's registers: leaf, sub-leaf, and the bits of EBX,
/// ECX and EDX.
const DERIVED: [(u32, u32, [u32; 3]); 5] = [
    // OSXSAVE, MONITOR; APIC.
    (1, 0, [0, 1 << 27 | 1 << 3, 1 << 9]),
    // OSPKE.
    (7, 0, [0, 1 << 4, 0]),
    // Sizes of the extended state for the features that are switched on.
    (0xd, 0, [u32::MAX, 0, 0]),
    (0xd, 1, [u32::MAX, 0, 0]),
    // APIC, as AMD has it.
    (0x8000_0001, 0, [0, 0, 1 << 9]),
];

/// Checks that vCPUs can take over a state although they have run. Changes nothing.
///
/// # Errors
/// [`KvmError::Mismatch`] with what differs, [`KvmError::Incompatible`], [`KvmError::UnknownMsr`].
pub fn check(cpu: &HostCpu, vcpus: &[&VcpuFd], state: &KvmStateV1) -> Result<()> {
    check_count(vcpus, state)?;
    for (index, (fd, vcpu)) in vcpus.iter().zip(&state.vcpus).enumerate() {
        vcpu.check(index, cpu)?;
        vcpu.fitting_xsave(index, cpu.xsave_bytes())?;
        check_cpuid(fd, index, vcpu)?;
        check_unnamed_msrs(fd, index, cpu, vcpu)?;
        if vcpu.tsc.other_frequency(fd).is_some() {
            return mismatch(index, "its TSC runs at another frequency");
        }
    }
    state.vm.check()
}

fn mismatch(vcpu: usize, what: &str) -> Result<()> {
    Err(KvmError::Mismatch(format!("vCPU {vcpu}: {what}")))
}

fn check_cpuid(fd: &VcpuFd, index: usize, vcpu: &VcpuStateV1) -> Result<()> {
    let given = fd
        .get_cpuid2(KVM_MAX_CPUID_ENTRIES)
        .map_err(vcpu_op(index, "reading its CPUID"))?;
    let fixed = |entries: &[kvm_cpuid_entry2]| entries.iter().map(fixed_part).collect::<Vec<_>>();
    if fixed(given.as_slice()) != fixed(&vcpu.cpuid) {
        return mismatch(index, "its CPUID is another one");
    }
    Ok(())
}

/// The words of an entry, without the bits that KVM derives.
pub(super) fn fixed_part(entry: &kvm_cpuid_entry2) -> [u32; 7] {
    let [mut ebx, mut ecx, mut edx] = [entry.ebx, entry.ecx, entry.edx];
    for (leaf, sub_leaf, derived) in DERIVED {
        if (entry.function, entry.index) == (leaf, sub_leaf) {
            ebx &= !derived[0];
            ecx &= !derived[1];
            edx &= !derived[2];
        }
    }
    let place = [entry.function, entry.index, entry.flags];
    [place[0], place[1], place[2], entry.eax, ebx, ecx, edx]
}

fn check_unnamed_msrs(fd: &VcpuFd, index: usize, cpu: &HostCpu, vcpu: &VcpuStateV1) -> Result<()> {
    let named: std::collections::HashSet<u32> = vcpu.msrs.iter().map(|msr| msr.index).collect();
    let unnamed: Vec<u32> = cpu
        .saved_msrs()
        .iter()
        .copied()
        .filter(|msr| *msr != MSR_IA32_TSC && !named.contains(msr))
        .collect();
    let found = msrs::read(fd, index, &unnamed)?;
    match found.iter().find(|msr| msr.value != 0) {
        None => Ok(()),
        Some(msr) => mismatch(index, &format!("the state has no MSR {:#x}", msr.index)),
    }
}

/// Writes the whole state into a VM whose vCPUs have run. Every vCPU must be out of `KVM_RUN` with
/// no I/O pending, and [`check`] was asked. Guest memory must be that of the state.
///
/// # Errors
/// KVM refuses a step, which the error names with its vCPU. The VM is of no moment then.
pub fn rewind(vm: &KvmVm, cpu: &HostCpu, vcpus: &[&VcpuFd], state: &KvmStateV1) -> Result<()> {
    let each = || vcpus.iter().zip(&state.vcpus).enumerate();
    for (index, (fd, vcpu)) in each() {
        vcpu.end_what_is_under_way(fd, index)?;
    }
    state.vm.restore_chips(vm)?;
    restore_vcpus(vm, cpu, vcpus, state)?;
    for (index, (fd, vcpu)) in each() {
        vcpu.restore_run_state(fd, index)?;
    }
    Ok(())
}

impl VcpuStateV1 {
    /// Ends what a vCPU that has run may be at, and what no part of its state takes back.
    fn end_what_is_under_way(&self, fd: &VcpuFd, vcpu: usize) -> Result<()> {
        fd.get_mp_state()
            .map_err(vcpu_op(vcpu, "having it take its IPIs"))?;
        let off: Vec<MsrV1> = [MSR_IA32_TSC_DEADLINE, MSR_KVM_ASYNC_PF_EN]
            .into_iter()
            .filter(|index| self.msrs.iter().any(|msr| msr.index == *index))
            .map(|index| MsrV1 { index, value: 0 })
            .collect();
        msrs::write(fd, vcpu, &off)
    }
}
