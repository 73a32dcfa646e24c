//! Model-specific registers of one vCPU.

use std::collections::HashSet;
use std::ops::RangeInclusive;

use kvm_bindings::{Msrs, kvm_msr_entry};
use kvm_ioctls::VcpuFd;
use serde::{Deserialize, Serialize};

use crate::kvm::{KvmError, Result, vcpu_op};

/// Time-stamp counter. Saved and restored on its own (module `time`).
pub(super) const MSR_IA32_TSC: u32 = 0x10;
/// Local APIC timer deadline, in TSC ticks.
pub(super) const MSR_IA32_TSC_DEADLINE: u32 = 0x6e0;

/// Type of memory that no other memory type register covers, and the switch for all of them.
pub(super) const MSR_MTRR_DEF_TYPE: u32 = 0x2ff;

/// MSRs that a guest writes and KVM keeps, though most versions do not list them.
const UNLISTED: [RangeInclusive<u32>; 8] = [
    // Debug control.
    0x1d9..=0x1d9,
    // Memory types: variable and fixed ranges, default.
    0x200..=0x20f,
    0x250..=0x250,
    0x258..=0x259,
    0x268..=0x26f,
    MSR_MTRR_DEF_TYPE..=MSR_MTRR_DEF_TYPE,
    // Machine checks: control, status, address, cause, for each of the 32 banks of a vCPU.
    0x400..=0x47f,
    // AMD: lfence is serialising.
    0xc001_1029..=0xc001_1029,
];

/// Entries per ioctl. KVM takes fewer than 256 (`MAX_IO_MSRS`).
const CHUNK_ENTRIES: usize = 128;

/// One MSR.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MsrV1 {
    /// Its number.
    pub index: u32,
    /// Its value.
    pub value: u64,
}

/// `listed`, and the MSRs that KVM keeps without listing them.
pub(super) fn with_unlisted(listed: &[u32]) -> Vec<u32> {
    let unlisted = UNLISTED
        .into_iter()
        .flatten()
        .filter(|index| !listed.contains(index));
    listed.iter().copied().chain(unlisted).collect()
}

fn entries(msrs: &[MsrV1]) -> Option<Msrs> {
    let entries: Vec<_> = msrs
        .iter()
        .map(|m| kvm_msr_entry {
            index: m.index,
            data: m.value,
            ..Default::default()
        })
        .collect();
    Msrs::from_entries(&entries).ok()
}

fn too_many(vcpu: usize) -> KvmError {
    KvmError::Mismatch(format!("vCPU {vcpu}: too many MSRs in one call"))
}

/// Reads those of `indices` that this vCPU has. KVM lists MSRs for every kind of guest; one whose
/// feature this guest's CPUID lacks cannot be read, holds nothing, and is left out.
pub(super) fn read(fd: &VcpuFd, vcpu: usize, indices: &[u32]) -> Result<Vec<MsrV1>> {
    let mut found = Vec::with_capacity(indices.len());
    let mut rest = indices;
    while !rest.is_empty() {
        let asked = &rest[..rest.len().min(CHUNK_ENTRIES)];
        let blank: Vec<_> = asked
            .iter()
            .map(|&index| MsrV1 { index, value: 0 })
            .collect();
        let mut msrs = entries(&blank).ok_or_else(|| too_many(vcpu))?;
        let count = fd
            .get_msrs(&mut msrs)
            .map_err(vcpu_op(vcpu, "saving MSRs"))?
            .min(asked.len());
        found.extend(msrs.as_slice()[..count].iter().map(|m| MsrV1 {
            index: m.index,
            value: m.data,
        }));
        // KVM stops at the first one that it cannot read: pass over that one.
        let passed = if count < asked.len() {
            count + 1
        } else {
            count
        };
        rest = &rest[passed..];
    }
    Ok(found)
}

/// Writes `msrs` in their order.
///
/// # Errors
/// [`KvmError::Msr`] for one that KVM refuses although it differs from the vCPU's value. One that
/// is zero in the snapshot and unknown here is passed over: the guest never used it.
pub(super) fn write(fd: &VcpuFd, vcpu: usize, msrs: &[MsrV1]) -> Result<()> {
    let mut rest = msrs;
    while !rest.is_empty() {
        let asked = &rest[..rest.len().min(CHUNK_ENTRIES)];
        let list = entries(asked).ok_or_else(|| too_many(vcpu))?;
        let count = fd
            .set_msrs(&list)
            .map_err(vcpu_op(vcpu, "restoring MSRs"))?
            .min(asked.len());
        rest = &rest[count..];
        if count < asked.len() {
            let refused = asked[count];
            let held = read(fd, vcpu, &[refused.index])?
                .first()
                .map_or(0, |msr| msr.value);
            if held != refused.value {
                return Err(KvmError::Msr {
                    vcpu,
                    index: refused.index,
                    value: refused.value,
                });
            }
            rest = &rest[1..];
        }
    }
    Ok(())
}

/// Those of `msrs` that a restore writes: numbers in `allowed`, which is the list of those that a
/// snapshot of this host would have. KVM takes more from its owner than from a guest, so nothing
/// else reaches it.
///
/// # Errors
/// [`KvmError::UnknownMsr`] for any other number, unless its value is zero: the guest never used
/// it.
pub(super) fn checked(vcpu: usize, msrs: &[MsrV1], allowed: &[u32]) -> Result<Vec<MsrV1>> {
    let allowed: HashSet<u32> = allowed.iter().copied().collect();
    let mut kept = Vec::new();
    for &msr in msrs {
        let MsrV1 { index, value } = msr;
        match allowed.contains(&index) {
            true => kept.push(msr),
            false if value == 0 => {}
            false => return Err(KvmError::UnknownMsr { vcpu, index, value }),
        }
    }
    Ok(kept)
}

const MSR_IA32_MISC_ENABLE: u32 = 0x1a0;
const MISC_ENABLE_FAST_STRING: u64 = 1;
const MTRR_ENABLED_WRITE_BACK: u64 = 1 << 11 | 6;

/// Sets the MSRs that firmware would set: memory is write-back (Linux ignores PAT while MTRRs are
/// off), fast string instructions are on.
///
/// # Errors
/// [`KvmError::Msr`].
pub(super) fn set_boot_msrs(fd: &VcpuFd, vcpu: usize) -> Result<()> {
    let msrs = [
        MsrV1 {
            index: MSR_IA32_MISC_ENABLE,
            value: MISC_ENABLE_FAST_STRING,
        },
        MsrV1 {
            index: MSR_MTRR_DEF_TYPE,
            value: MTRR_ENABLED_WRITE_BACK,
        },
    ];
    write(fd, vcpu, &msrs)
}
