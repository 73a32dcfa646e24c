//! The state in which vCPUs enter a guest.

use kvm_bindings::{KVM_MAX_CPUID_ENTRIES, KVM_MP_STATE_RUNNABLE, kvm_mp_state, kvm_xcr, kvm_xcrs};
use kvm_ioctls::VcpuFd;

use super::boot::{Entry, registers};
use super::{VcpuStateV1, msrs};
use crate::kvm::{Result, vcpu_op};

/// The vCPU is that of a flat guest, which never has an interrupt descriptor table and never leaves
/// user privilege.
pub fn is_flat(vcpu: &VcpuStateV1) -> bool {
    vcpu.sregs.idt.limit == 0 && vcpu.sregs.ss.dpl == 3
}

/// Sets the registers with which vCPU `index` starts.
///
/// # Errors
/// The step that KVM refuses.
pub fn set_entry(fd: &VcpuFd, index: usize, entry: Entry) -> Result<()> {
    let op = |op| vcpu_op(index, op);
    msrs::set_boot_msrs(fd, index)?;
    let (regs, sregs) = match entry {
        // The others wait for vCPU 0 to send them a start-up IPI.
        Entry::Linux { .. } if index > 0 => return Ok(()),
        Entry::Linux { rip } => {
            let initial = fd.get_sregs().map_err(op("reading its system registers"))?;
            (registers::linux_regs(rip), registers::linux_sregs(initial))
        }
        Entry::Flat { rip, .. } => {
            let initial = fd.get_sregs().map_err(op("reading its system registers"))?;
            let cpuid = fd
                .get_cpuid2(KVM_MAX_CPUID_ENTRIES)
                .map_err(op("reading its CPUID"))?;
            let has = |leaf, bit: fn(&kvm_bindings::kvm_cpuid_entry2) -> bool| {
                cpuid
                    .as_slice()
                    .iter()
                    .any(|entry| entry.function == leaf && bit(entry))
            };
            let has_xsave = has(1, |leaf| leaf.ecx & 1 << 26 != 0);
            let has_nx = has(0x8000_0001, |leaf| leaf.edx & 1 << 20 != 0);
            (
                registers::flat_regs(rip, index),
                registers::flat_sregs(initial, has_xsave, has_nx),
            )
        }
    };
    fd.set_sregs(&sregs)
        .map_err(op("setting its system registers"))?;
    fd.set_regs(&regs).map_err(op("setting its registers"))?;
    if sregs.cr4 & registers::CR4_OSXSAVE != 0 {
        let mut xcrs = kvm_xcrs {
            nr_xcrs: 1,
            ..Default::default()
        };
        xcrs.xcrs[0] = kvm_xcr {
            xcr: 0,
            value: registers::FLAT_XCR0,
            ..Default::default()
        };
        fd.set_xcrs(&xcrs)
            .map_err(op("setting its extended control registers"))?;
    }
    let runnable = kvm_mp_state {
        mp_state: KVM_MP_STATE_RUNNABLE,
    };
    fd.set_mp_state(runnable)
        .map_err(op("making it runnable"))?;
    Ok(())
}
