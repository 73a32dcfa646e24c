//! The vCPUs that a host's KVM can make.

use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES, kvm_xsave};
use kvm_ioctls::Cap;

use super::msrs;
use crate::kvm::{KvmVm, Result, vm_op};

/// Properties of all vCPUs of this host's KVM.
#[derive(Debug)]
pub struct HostCpu {
    supported_cpuid: CpuId,
    saved_msrs: Vec<u32>,
    xsave_bytes: usize,
    tsc_deadline: bool,
}

impl HostCpu {
    /// Asks KVM.
    ///
    /// # Errors
    /// [`crate::kvm::KvmError::Vm`].
    pub fn read(vm: &KvmVm) -> Result<HostCpu> {
        let kvm = vm.host().kvm();
        let supported_cpuid = kvm
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .map_err(vm_op("reading the supported CPUID"))?;
        let list = kvm
            .get_msr_index_list()
            .map_err(vm_op("reading the list of MSRs to save"))?;
        let xsave2 = usize::try_from(vm.fd().check_extension_int(Cap::Xsave2)).unwrap_or(0);
        Ok(HostCpu {
            supported_cpuid,
            saved_msrs: msrs::with_unlisted(list.as_slice()),
            xsave_bytes: xsave2.max(size_of::<kvm_xsave>()),
            tsc_deadline: kvm.check_extension(Cap::TscDeadlineTimer),
        })
    }

    /// The CPUID that this KVM can give a guest (`KVM_GET_SUPPORTED_CPUID`), unfiltered.
    pub fn supported_cpuid(&self) -> &CpuId {
        &self.supported_cpuid
    }

    /// Bits of a guest physical address. Where KVM does not tell, as many as every x86-64 CPU has.
    pub fn physical_bits(&self) -> u32 {
        const BITS_MIN: u32 = 36;
        let mut leaves = self.supported_cpuid.as_slice().iter();
        let sizes = leaves.find(|leaf| leaf.function == 0x8000_0008);
        sizes.map_or(BITS_MIN, |leaf| (leaf.eax & 0xff).max(BITS_MIN))
    }

    /// The MSRs that make up a vCPU's state: those that KVM lists (`KVM_GET_MSR_INDEX_LIST`) and
    /// those that it keeps without listing them.
    pub(super) fn saved_msrs(&self) -> &[u32] {
        &self.saved_msrs
    }

    /// Size in bytes of a vCPU's extended state.
    pub(super) fn xsave_bytes(&self) -> usize {
        self.xsave_bytes
    }

    /// The guest may use the TSC-deadline mode of its local APIC timer.
    pub(super) fn tsc_deadline(&self) -> bool {
        self.tsc_deadline
    }
}
