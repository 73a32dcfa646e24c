//! The CPUID of a guest: the features that KVM supports, without those whose state a snapshot
//! cannot hold or that a KVM only claims. The topology is one package with one thread per core.

use kvm_bindings::{CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};

use super::HostCpu;
use crate::kvm::{KvmError, Result};

const LEAF1_ECX_HYPERVISOR: u32 = 1 << 31;
const LEAF1_ECX_XSAVE: u32 = 1 << 26;
const LEAF1_ECX_TSC_DEADLINE: u32 = 1 << 24;
const LEAF1_ECX_X2APIC: u32 = 1 << 21;
const LEAF1_EDX_HTT: u32 = 1 << 28;
const EXT1_ECX_CMP_LEGACY: u32 = 1 << 1;

/// One register of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reg {
    Eax,
    Ebx,
    Ecx,
    Edx,
}

impl Reg {
    pub(super) fn of(self, entry: &kvm_cpuid_entry2) -> u32 {
        match self {
            Reg::Eax => entry.eax,
            Reg::Ebx => entry.ebx,
            Reg::Ecx => entry.ecx,
            Reg::Edx => entry.edx,
        }
    }

    fn of_mut(self, entry: &mut kvm_cpuid_entry2) -> &mut u32 {
        match self {
            Reg::Eax => &mut entry.eax,
            Reg::Ebx => &mut entry.ebx,
            Reg::Ecx => &mut entry.ecx,
            Reg::Edx => &mut entry.edx,
        }
    }
}

/// Features never given to a guest: (leaf, sub-leaf, register, bits).
const HIDDEN: [(u32, u32, Reg, u32); 9] = [
    // Nested virtualisation (VMX, SMX, SVM): its state is not saved.
    (1, 0, Reg::Ecx, 1 << 5 | 1 << 6),
    (0x8000_0001, 0, Reg::Ecx, 1 << 2),
    // MONITOR/MWAIT: KVM executes them as no-ops at best.
    (1, 0, Reg::Ecx, 1 << 3),
    // Perfmon and debug capabilities, AMD counter extensions: counters are the host's, and do not
    // move.
    (1, 0, Reg::Ecx, 1 << 15),
    (0x8000_0001, 0, Reg::Ecx, 1 << 23 | 1 << 24 | 1 << 28),
    // SGX: enclave pages are unreadable, hence cannot be shared with a snapshot.
    (7, 0, Reg::Ebx, 1 << 2),
    // Shadow stacks: the shadow stack pointer is not an MSR, so not in the saved state.
    (7, 0, Reg::Ecx, 1 << 7 | 1 << 30),
    // FRED: its event data is not in KVM_GET_VCPU_EVENTS.
    (7, 1, Reg::Eax, 1 << 17),
    // AMX: needs a permission that nvvmm does not ask for.
    (7, 0, Reg::Edx, 1 << 22 | 1 << 24 | 1 << 25),
];

/// Features that need XSAVE: AVX in all its forms, PKU, XOP, FMA4.
const NEEDS_XSAVE: [(u32, u32, Reg, u32); 6] = [
    (1, 0, Reg::Ecx, 1 << 12 | 1 << 28 | 1 << 29),
    (
        7,
        0,
        Reg::Ebx,
        1 << 5 | 1 << 14 | 1 << 16 | 1 << 17 | 1 << 21 | 0b11_0111 << 26,
    ),
    (
        7,
        0,
        Reg::Ecx,
        1 << 1 | 1 << 3 | 1 << 6 | 1 << 9 | 1 << 10 | 1 << 11 | 1 << 12 | 1 << 14,
    ),
    (7, 0, Reg::Edx, 1 << 2 | 1 << 3 | 1 << 8 | 1 << 23),
    (7, 1, Reg::Eax, 1 << 4 | 1 << 5 | 1 << 23),
    (0x8000_0001, 0, Reg::Ecx, 1 << 11 | 1 << 16),
];

/// Leaves answered with zeros: MONITOR, perfmon, SGX, PT, SVM, SEV, AMD perfmon v2.
const BLANK: [u32; 7] = [0x5, 0xa, 0x12, 0x14, 0x8000_000a, 0x8000_001f, 0x8000_0022];

/// The CPUID of vCPU `index` of `count`, on this host.
///
/// # Errors
/// [`KvmError::Mismatch`] when the entries are more than KVM takes.
pub fn for_vcpu(host: &HostCpu, index: u8, count: u8) -> Result<CpuId> {
    let entries = filtered(
        host.supported_cpuid().as_slice(),
        index,
        count,
        host.tsc_deadline(),
    );
    CpuId::from_entries(&entries).map_err(|_| KvmError::Mismatch("too many CPUID entries".into()))
}

/// As [`for_vcpu`], from the entries that a KVM supports. They do not tell `tsc_deadline`: that its
/// local APIC timer has the TSC-deadline mode.
pub(super) fn filtered(
    supported: &[kvm_cpuid_entry2],
    index: u8,
    count: u8,
    tsc_deadline: bool,
) -> Vec<kvm_cpuid_entry2> {
    let has_xsave = supported
        .iter()
        .any(|e| e.function == 1 && e.ecx & LEAF1_ECX_XSAVE != 0);
    let mut entries: Vec<_> = supported
        .iter()
        .copied()
        .filter(|e| e.function != 0xb && e.function != 0x1f)
        .collect();
    for entry in &mut entries {
        let needs_xsave = NEEDS_XSAVE.iter().filter(|_| !has_xsave);
        for &(leaf, sub_leaf, reg, bits) in HIDDEN.iter().chain(needs_xsave) {
            if (entry.function, entry.index) == (leaf, sub_leaf) {
                *reg.of_mut(entry) &= !bits;
            }
        }
        // A KVM without XSAVE for its guests (PVM) still gives them the host's leaf 0xd.
        if BLANK.contains(&entry.function) || (entry.function == 0xd && !has_xsave) {
            (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 0, 0, 0);
        }
        set_topology(entry, index, count);
        if entry.function == 1 {
            entry.ecx |= LEAF1_ECX_HYPERVISOR | LEAF1_ECX_X2APIC;
            entry.ecx &= !LEAF1_ECX_TSC_DEADLINE;
            if tsc_deadline {
                entry.ecx |= LEAF1_ECX_TSC_DEADLINE;
            }
        }
    }
    if entries.iter().any(|e| e.function == 0 && e.eax >= 0xb) {
        entries.extend(topology_leaf(index, count));
    }
    entries
}

/// Bits that an APIC id needs beyond which all cores agree.
fn core_bits(count: u8) -> u32 {
    u8::BITS - count.saturating_sub(1).leading_zeros()
}

/// Writes this machine's topology into leaves that hold the host's.
fn set_topology(entry: &mut kvm_cpuid_entry2, index: u8, count: u8) {
    let (id, cores) = (u32::from(index), u32::from(count));
    // Cache leaves (4 and 0x8000001d): a level-3 cache is shared by all, the others are each core's
    // own.
    let sharing = |eax: u32| if eax >> 5 & 7 >= 3 { cores - 1 } else { 0 };
    match entry.function {
        1 => {
            entry.ebx = entry.ebx & 0x0000_ffff | id << 24 | cores << 16;
            entry.edx &= !LEAF1_EDX_HTT;
            if cores > 1 {
                entry.edx |= LEAF1_EDX_HTT;
            }
        }
        4 if entry.eax & 0x1f != 0 => {
            entry.eax = entry.eax & 0x3fff | sharing(entry.eax) << 14 | (cores - 1).min(0x3f) << 26;
        }
        0x8000_0001 => {
            entry.ecx &= !EXT1_ECX_CMP_LEGACY;
            if cores > 1 {
                entry.ecx |= EXT1_ECX_CMP_LEGACY;
            }
        }
        0x8000_0008 => entry.ecx = entry.ecx & !0xf0ff | (cores - 1) | core_bits(count) << 12,
        0x8000_001d if entry.eax & 0x1f != 0 => {
            entry.eax = entry.eax & 0x3fff | sharing(entry.eax) << 14;
        }
        0x8000_001e => (entry.eax, entry.ebx, entry.ecx, entry.edx) = (id, id & 0xff, 0, 0),
        _ => {}
    }
}

/// Leaf 0xb, extended topology: one thread per core, all cores in one package, and the x2APIC id.
fn topology_leaf(index: u8, count: u8) -> [kvm_cpuid_entry2; 3] {
    let entry = |sub_leaf: u32, shift: u32, threads: u32, level: u32| kvm_cpuid_entry2 {
        function: 0xb,
        index: sub_leaf,
        flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
        eax: shift,
        ebx: threads,
        ecx: sub_leaf | level << 8,
        edx: u32::from(index),
        ..Default::default()
    };
    [
        entry(0, 0, 1, 1),
        entry(1, core_bits(count), u32::from(count), 2),
        entry(2, 0, 0, 0),
    ]
}
