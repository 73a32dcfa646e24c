//! `/dev/kvm` and what it offers.

use std::io;

use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES};
use kvm_ioctls::{Cap, Kvm};

use super::error::vm_op;
use super::{KvmError, Result, msrs};

/// The host's KVM, opened and found fit for nvvmm.
#[derive(Debug)]
pub struct Host {
    kvm: Kvm,
    supported_cpuid: CpuId,
    saved_msrs: Vec<u32>,
}

/// What nvvmm cannot do without, by the name that a user finds in the KVM documentation.
const NEEDED: [(Cap, &str); 12] = [
    (Cap::UserMemory, "KVM_CAP_USER_MEMORY"),
    (Cap::Irqchip, "KVM_CAP_IRQCHIP"),
    (Cap::Pit2, "KVM_CAP_PIT2"),
    (Cap::PitState2, "KVM_CAP_PIT_STATE2"),
    (Cap::Irqfd, "KVM_CAP_IRQFD"),
    (Cap::Ioeventfd, "KVM_CAP_IOEVENTFD"),
    (Cap::MpState, "KVM_CAP_MP_STATE"),
    (Cap::VcpuEvents, "KVM_CAP_VCPU_EVENTS"),
    (Cap::Xsave, "KVM_CAP_XSAVE"),
    (Cap::AdjustClock, "KVM_CAP_ADJUST_CLOCK"),
    (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT"),
    (Cap::SyncMmu, "KVM_CAP_SYNC_MMU"),
];

impl Host {
    /// Opens `/dev/kvm` and checks that it can run nvvmm's machines.
    ///
    /// # Errors
    /// [`KvmError::Open`] with a remedy, [`KvmError::Lacks`] naming the missing capability.
    pub fn open() -> Result<Host> {
        let kvm = Kvm::new().map_err(|errno| open_error(errno.into()))?;
        if kvm.get_api_version() != 12 {
            return Err(KvmError::Lacks("API version 12"));
        }
        for (cap, name) in NEEDED {
            if !kvm.check_extension(cap) {
                return Err(KvmError::Lacks(name));
            }
        }
        let supported_cpuid = kvm
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .map_err(vm_op("reading the supported CPUID"))?;
        let list = kvm
            .get_msr_index_list()
            .map_err(vm_op("reading the list of MSRs to save"))?;
        Ok(Host {
            saved_msrs: msrs::with_unlisted(list.as_slice()),
            kvm,
            supported_cpuid,
        })
    }

    /// The opened device.
    pub(super) fn kvm(&self) -> &Kvm {
        &self.kvm
    }

    /// The CPUID that this KVM can give a guest (`KVM_GET_SUPPORTED_CPUID`), unfiltered.
    pub fn supported_cpuid(&self) -> &CpuId {
        &self.supported_cpuid
    }

    /// Bits of a guest physical address; what every x86-64 CPU has where KVM does not say.
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

    /// The guest may use the TSC-deadline mode of its local APIC timer.
    pub fn tsc_deadline(&self) -> bool {
        self.kvm.check_extension(Cap::TscDeadlineTimer)
    }

    /// The most vCPUs one VM may have here.
    pub fn vcpus_max(&self) -> usize {
        self.kvm.get_max_vcpus()
    }
}

fn open_error(source: io::Error) -> KvmError {
    let remedy = match source.kind() {
        io::ErrorKind::NotFound => {
            "there is no KVM here: enable virtualisation in the firmware, load kvm_intel or kvm_amd, or on a \
             virtual machine ask for nested virtualisation"
        }
        io::ErrorKind::PermissionDenied => {
            "run as root or join the group that owns it (usually: sudo usermod -aG kvm $USER, then log in again)"
        }
        _ => "see `dmesg | grep -i kvm` for what the kernel says",
    };
    KvmError::Open { remedy, source }
}
