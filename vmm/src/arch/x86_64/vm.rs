//! A VM with the parts of a PC that are in the kernel: interrupt controllers and interval timer.

use std::sync::Arc;

use kvm_bindings::{KVM_PIT_SPEAKER_DUMMY, kvm_pit_config};
use kvm_ioctls::{Cap, VcpuFd};

use super::{HostCpu, cpuid};
use crate::kvm::{Host, KvmVm, Result, vcpu_op, vm_op};

/// Capabilities that nvvmm needs on x86-64, by their names in the KVM documentation.
const NEEDED: [(Cap, &str); 7] = [
    (Cap::Irqchip, "KVM_CAP_IRQCHIP"),
    (Cap::Pit2, "KVM_CAP_PIT2"),
    (Cap::PitState2, "KVM_CAP_PIT_STATE2"),
    (Cap::MpState, "KVM_CAP_MP_STATE"),
    (Cap::VcpuEvents, "KVM_CAP_VCPU_EVENTS"),
    (Cap::Xsave, "KVM_CAP_XSAVE"),
    (Cap::AdjustClock, "KVM_CAP_ADJUST_CLOCK"),
];

/// Guest-physical pages that KVM uses for itself on Intel hosts that cannot run real mode natively
/// (KVM API, `KVM_SET_TSS_ADDR`, `KVM_SET_IDENTITY_MAP_ADDR`). Inside the MMIO hole, away from
/// every device.
const KVM_IDENTITY_MAP_GPA: u64 = 0xfffb_c000;
const KVM_TSS_GPA: usize = 0xfffb_d000;

/// Checks that this host's KVM has all that machines of this architecture need.
///
/// # Errors
/// [`crate::kvm::KvmError::Lacks`] naming the missing capability.
pub fn check_host(host: &Host) -> Result<()> {
    host.check(&NEEDED)
}

/// Makes a VM with in-kernel PICs, IOAPIC, local APICs and PIT, and no memory.
///
/// # Errors
/// [`crate::kvm::KvmError::Lacks`] naming the missing capability, [`crate::kvm::KvmError::Vm`]
/// naming the step.
pub fn create_vm(host: Arc<Host>) -> Result<KvmVm> {
    check_host(&host)?;
    let vm = KvmVm::create(host)?;
    let fd = vm.fd();
    fd.set_identity_map_address(KVM_IDENTITY_MAP_GPA)
        .map_err(vm_op("setting the identity map page"))?;
    fd.set_tss_address(KVM_TSS_GPA)
        .map_err(vm_op("setting the TSS pages"))?;
    fd.create_irq_chip()
        .map_err(vm_op("creating the interrupt controllers"))?;
    let pit = kvm_pit_config {
        flags: KVM_PIT_SPEAKER_DUMMY,
        ..Default::default()
    };
    fd.create_pit2(pit)
        .map_err(vm_op("creating the interval timer"))?;
    Ok(vm)
}

/// Makes vCPU `index` of `count`. Its local APIC id is `index`.
///
/// # Errors
/// [`crate::kvm::KvmError::Vcpu`], or more CPUID entries than KVM takes.
pub fn create_vcpu(vm: &KvmVm, cpu: &HostCpu, index: u8, count: u8) -> Result<VcpuFd> {
    let cpuid = cpuid::for_vcpu(cpu, index, count)?;
    let vcpu = vm
        .fd()
        .create_vcpu(index.into())
        .map_err(vcpu_op(index.into(), "creating it"))?;
    vcpu.set_cpuid2(&cpuid)
        .map_err(vcpu_op(index.into(), "setting its CPUID"))?;
    Ok(vcpu)
}
