//! Saved state of a whole KVM virtual machine, and the order in which it comes back.

use kvm_bindings::KVM_MAX_CPUID_ENTRIES;
use kvm_ioctls::VcpuFd;
use serde::{Deserialize, Serialize};

use super::time::{self, TscStateV1};
use super::{HostCpu, VcpuStateV1, VmStateV1, compat};
use crate::kvm::{KvmError, KvmVm, Result, vcpu_op};
use crate::memory::GuestMemory;

/// State of a KVM virtual machine: the VM as a whole and every vCPU.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct KvmStateV1 {
    /// Interrupt controllers, interval timer, clock.
    pub vm: VmStateV1,
    /// The vCPUs in the order of their APIC ids.
    pub vcpus: Vec<VcpuStateV1>,
}

/// Reads the whole state. Every vCPU must be paused: out of `KVM_RUN` with no I/O pending.
///
/// vCPUs before the VM: letting a vCPU take its pending INIT (`KVM_GET_MP_STATE`) is the last thing
/// that can touch the interrupt controllers. Time may be read at any moment of the pause.
///
/// # Errors
/// [`KvmError`] naming the vCPU and the step.
pub fn save(
    vm: &KvmVm,
    cpu: &HostCpu,
    vcpus: &[&VcpuFd],
    memory: &GuestMemory,
) -> Result<KvmStateV1> {
    let (clock, tscs) = time::save(vm, vcpus, memory)?;
    let states = vcpus.iter().zip(tscs).enumerate();
    let vcpus = states
        .map(|(index, (fd, tsc))| VcpuStateV1::save(fd, index, vm, cpu, tsc))
        .collect::<Result<_>>()?;
    Ok(KvmStateV1 {
        vm: VmStateV1::save(vm, clock)?,
        vcpus,
    })
}

/// Writes the whole state into a VM whose vCPUs have never run. Guest memory must be mapped: KVM
/// writes its clock and wall-clock pages there.
///
/// Order: interrupt controllers; each vCPU's registers; clock and TSCs together; local APICs and
/// MSRs, which start timers against the TSC; events.
///
/// # Errors
/// [`KvmError::Incompatible`] when this host lacks something that the state needs,
/// [`KvmError::UnknownMsr`] for an MSR that nvvmm does not save, [`KvmError::Mismatch`] for another
/// number of vCPUs or an impossible count (nothing was changed then), or what KVM refuses, naming
/// the vCPU and the step.
pub fn restore(vm: &KvmVm, cpu: &HostCpu, vcpus: &[&VcpuFd], state: &KvmStateV1) -> Result<()> {
    check_count(vcpus, state)?;
    for (index, (fd, vcpu)) in vcpus.iter().zip(&state.vcpus).enumerate() {
        let given = fd
            .get_cpuid2(KVM_MAX_CPUID_ENTRIES)
            .map_err(vcpu_op(index, "reading its CPUID"))?;
        compat::check(
            &vcpu.cpuid,
            cpu.supported_cpuid().as_slice(),
            given.as_slice(),
        )?;
        vcpu.check(index, cpu)?;
    }
    state.vm.check()?;
    state.vm.restore_chips(vm)?;
    let each = || vcpus.iter().zip(&state.vcpus).enumerate();
    for (index, (fd, vcpu)) in each() {
        vcpu.restore_cpuid(fd, index)?;
    }
    restore_vcpus(vm, cpu, vcpus, state)
}

/// Writes registers, time, APICs, MSRs and events of all vCPUs, in the order that KVM needs. CPUID
/// and the chips are written before.
pub(super) fn restore_vcpus(
    vm: &KvmVm,
    cpu: &HostCpu,
    vcpus: &[&VcpuFd],
    state: &KvmStateV1,
) -> Result<()> {
    let each = || vcpus.iter().zip(&state.vcpus).enumerate();
    for (index, (fd, vcpu)) in each() {
        vcpu.restore_registers(fd, index, cpu)?;
    }
    let tscs: Vec<&TscStateV1> = state.vcpus.iter().map(|vcpu| &vcpu.tsc).collect();
    time::restore(vm, vcpus, &state.vm.clock, &tscs)?;
    for (index, (fd, vcpu)) in each() {
        vcpu.restore_apic_and_msrs(fd, index, cpu)?;
    }
    for (index, (fd, vcpu)) in each() {
        vcpu.restore_events(fd, index)?;
    }
    Ok(())
}

/// Checks that the machine has as many vCPUs as the state.
pub(super) fn check_count(vcpus: &[&VcpuFd], state: &KvmStateV1) -> Result<()> {
    if vcpus.len() == state.vcpus.len() {
        return Ok(());
    }
    Err(KvmError::Mismatch(format!(
        "the machine has {} vCPUs, the state {}",
        vcpus.len(),
        state.vcpus.len()
    )))
}
