//! Saved state of one vCPU.

use kvm_bindings::{
    CpuId, KVM_MAX_CPUID_ENTRIES, kvm_cpuid_entry2, kvm_debugregs, kvm_lapic_state, kvm_mp_state,
    kvm_regs, kvm_sregs, kvm_vcpu_events, kvm_xcrs,
};
use kvm_ioctls::{Cap, VcpuFd};
use serde::{Deserialize, Serialize};

use super::HostCpu;
use super::msrs::{self, MSR_IA32_TSC, MSR_IA32_TSC_DEADLINE, MsrV1};
use super::time::TscStateV1;
use crate::kvm::{KvmError, KvmVm, Result, vcpu_op};
use crate::sys;

/// State of one vCPU. Parts that this KVM does not offer are `None`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct VcpuStateV1 {
    /// Answers of the `cpuid` instruction (`KVM_GET_CPUID2`).
    pub cpuid: Vec<kvm_cpuid_entry2>,
    /// Running, halted, waiting for a start-up IPI (`KVM_GET_MP_STATE`).
    pub mp_state: kvm_mp_state,
    /// General registers.
    pub regs: kvm_regs,
    /// Segment and control registers, APIC base.
    pub sregs: kvm_sregs,
    /// x87, SSE, AVX, ... in XSAVE's standard form (`KVM_GET_XSAVE2`).
    pub xsave: Vec<u8>,
    /// Extended control registers; `None` without `KVM_CAP_XCRS`.
    pub xcrs: Option<kvm_xcrs>,
    /// Debug registers; `None` without `KVM_CAP_DEBUGREGS`.
    pub debug_regs: Option<kvm_debugregs>,
    /// Local APIC.
    pub lapic: kvm_lapic_state,
    /// All other MSRs that hold guest state and that this vCPU has (`HostCpu::saved_msrs`).
    pub msrs: Vec<MsrV1>,
    /// Pending and injected exceptions, interrupts, NMIs.
    pub events: kvm_vcpu_events,
    /// Time-stamp counter.
    pub tsc: TscStateV1,
}

impl VcpuStateV1 {
    /// Reads all but the TSC. The vCPU must be out of `KVM_RUN` with no I/O pending (KVM API,
    /// section 5: state is complete only then), and no other vCPU may be running.
    ///
    /// Order: `KVM_GET_MP_STATE` first, as it lets the local APIC take an INIT or SIPI and so
    /// changes what follows. Then `KVM_GET_VCPU_EVENTS`, as it writes what a pending exception
    /// carries into CR2 or DR6, which are read after it (where `KVM_CAP_EXCEPTION_PAYLOAD` is
    /// not enabled). The MSRs, with the timer's deadline, before the local APIC: where KVM
    /// delivers timers from its own timer callback, one may expire in between; then the
    /// saved deadline lies in the past and fires again after the restore. The other way round it
    /// would be in neither.
    pub(super) fn save(
        fd: &VcpuFd,
        vcpu: usize,
        vm: &KvmVm,
        cpu: &HostCpu,
        tsc: TscStateV1,
    ) -> Result<VcpuStateV1> {
        let mp_state = fd
            .get_mp_state()
            .map_err(vcpu_op(vcpu, "saving its run state"))?;
        let events = fd
            .get_vcpu_events()
            .map_err(vcpu_op(vcpu, "saving its pending events"))?;
        let regs = fd
            .get_regs()
            .map_err(vcpu_op(vcpu, "saving its registers"))?;
        let sregs = fd
            .get_sregs()
            .map_err(vcpu_op(vcpu, "saving its system registers"))?;
        let xsave = sys::kvm::get_xsave(fd, cpu.xsave_bytes())
            .map_err(vcpu_op(vcpu, "saving its extended state"))?;
        let xcrs = optional(vm, Cap::Xcrs, || fd.get_xcrs())
            .map_err(vcpu_op(vcpu, "saving its extended control registers"))?;
        let debug_regs = optional(vm, Cap::Debugregs, || fd.get_debug_regs())
            .map_err(vcpu_op(vcpu, "saving its debug registers"))?;
        let wanted: Vec<u32> = cpu
            .saved_msrs()
            .iter()
            .copied()
            .filter(|&index| index != MSR_IA32_TSC)
            .collect();
        let msrs = msrs::read(fd, vcpu, &wanted)?;
        let lapic = fd
            .get_lapic()
            .map_err(vcpu_op(vcpu, "saving its local APIC"))?;
        let cpuid = fd
            .get_cpuid2(KVM_MAX_CPUID_ENTRIES)
            .map_err(vcpu_op(vcpu, "saving its CPUID"))?;
        let cpuid = cpuid.as_slice().to_vec();
        Ok(VcpuStateV1 {
            cpuid,
            mp_state,
            regs,
            sregs,
            xsave,
            xcrs,
            debug_regs,
            lapic,
            msrs,
            events,
            tsc,
        })
    }

    /// Checks counts and numbers that KVM should not have to check. Changes nothing.
    pub(super) fn check(&self, vcpu: usize, cpu: &HostCpu) -> Result<()> {
        let too_many =
            |what: &str| Err(KvmError::Mismatch(format!("vCPU {vcpu}: too many {what}")));
        if self.cpuid.len() > KVM_MAX_CPUID_ENTRIES {
            return too_many("CPUID entries");
        }
        if { &self.xcrs }.is_some_and(|xcrs| xcrs.nr_xcrs as usize > xcrs.xcrs.len()) {
            return too_many("extended control registers");
        }
        self.checked_msrs(vcpu, cpu).map(drop)
    }

    fn checked_msrs(&self, vcpu: usize, cpu: &HostCpu) -> Result<Vec<MsrV1>> {
        msrs::checked(vcpu, &self.msrs, cpu.saved_msrs())
    }

    /// Writes CPUID and the frequency of the TSC: first, as KVM checks all else against CPUID.
    pub(super) fn restore_cpuid(&self, fd: &VcpuFd, vcpu: usize) -> Result<()> {
        let cpuid = CpuId::from_entries(&self.cpuid)
            .map_err(|_| KvmError::Mismatch(format!("vCPU {vcpu}: too many CPUID entries")))?;
        fd.set_cpuid2(&cpuid)
            .map_err(vcpu_op(vcpu, "restoring its CPUID"))?;
        self.tsc.restore_frequency(fd, vcpu)
    }

    /// Writes everything but the TSC, the timer deadline and the events, which wait for each other
    /// across vCPUs (module `state`).
    ///
    /// Order: after CPUID. System registers before the local APIC: the APIC base in them says which
    /// form (xAPIC or x2APIC) its state has. Registers before the run state: KVM makes a vCPU run
    /// whose system registers are set while it looks freshly reset. XCR0 before the state that it
    /// enables.
    pub(super) fn restore_registers(&self, fd: &VcpuFd, vcpu: usize, cpu: &HostCpu) -> Result<()> {
        fd.set_sregs(&self.sregs)
            .map_err(vcpu_op(vcpu, "restoring its system registers"))?;
        fd.set_regs(&self.regs)
            .map_err(vcpu_op(vcpu, "restoring its registers"))?;
        self.restore_run_state(fd, vcpu)?;
        if let Some(xcrs) = &self.xcrs {
            fd.set_xcrs(xcrs)
                .map_err(vcpu_op(vcpu, "restoring its extended control registers"))?;
        }
        sys::kvm::set_xsave(
            fd,
            &self.fitting_xsave(vcpu, cpu.xsave_bytes())?,
            cpu.xsave_bytes(),
        )
        .map_err(vcpu_op(vcpu, "restoring its extended state"))?;
        if let Some(debug_regs) = &self.debug_regs {
            fd.set_debug_regs(debug_regs)
                .map_err(vcpu_op(vcpu, "restoring its debug registers"))?;
        }
        Ok(())
    }

    /// Writes if the vCPU runs, is halted, or waits for a start-up IPI.
    pub(super) fn restore_run_state(&self, fd: &VcpuFd, vcpu: usize) -> Result<()> {
        fd.set_mp_state(self.mp_state)
            .map_err(vcpu_op(vcpu, "restoring its run state"))
    }

    /// Writes the local APIC and the MSRs. After the TSCs: KVM starts the APIC timer against the
    /// TSC.
    ///
    /// Order: the local APIC before the MSRs, the deadline last of these: KVM drops a deadline,
    /// without an error, while the APIC's timer is not in deadline mode, and forgets one when
    /// its mode changes.
    pub(super) fn restore_apic_and_msrs(
        &self,
        fd: &VcpuFd,
        vcpu: usize,
        cpu: &HostCpu,
    ) -> Result<()> {
        fd.set_lapic(&self.lapic)
            .map_err(vcpu_op(vcpu, "restoring its local APIC"))?;
        let (deadline, others): (Vec<MsrV1>, Vec<MsrV1>) = self
            .checked_msrs(vcpu, cpu)?
            .into_iter()
            .filter(|msr| msr.index != MSR_IA32_TSC)
            .partition(|msr| msr.index == MSR_IA32_TSC_DEADLINE);
        msrs::write(fd, vcpu, &others)?;
        msrs::write(fd, vcpu, &deadline)
    }

    /// Writes pending and injected events: last, as the writes before may clear or raise some.
    pub(super) fn restore_events(&self, fd: &VcpuFd, vcpu: usize) -> Result<()> {
        fd.set_vcpu_events(&self.events)
            .map_err(vcpu_op(vcpu, "restoring its pending events"))
    }

    /// The extended state at the size that KVM has here. A smaller one is filled up with zeros
    /// (initial state); of a larger one only zeros may be cut.
    pub(super) fn fitting_xsave(&self, vcpu: usize, size_bytes: usize) -> Result<Vec<u8>> {
        let mut xsave = self.xsave.clone();
        if xsave.iter().skip(size_bytes).any(|&byte| byte != 0) {
            return Err(KvmError::Incompatible(format!(
                "vCPU {vcpu}: the snapshot has {} bytes of extended CPU state, this host's KVM \
                 keeps {size_bytes}",
                self.xsave.len()
            )));
        }
        xsave.resize(size_bytes, 0);
        Ok(xsave)
    }
}

fn optional<T, E>(
    vm: &KvmVm,
    cap: Cap,
    read: impl FnOnce() -> std::result::Result<T, E>,
) -> std::result::Result<Option<T>, E> {
    if vm.host().kvm().check_extension(cap) {
        read().map(Some)
    } else {
        Ok(None)
    }
}
