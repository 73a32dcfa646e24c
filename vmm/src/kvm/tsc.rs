//! Time-stamp counters of all vCPUs together: a guest relies on them to agree.

use std::io;

use kvm_ioctls::VcpuFd;
use serde::{Deserialize, Serialize};

use super::error::vcpu_op;
use super::msrs::{self, MSR_IA32_TSC, MsrV1};
use super::{KvmError, Result};
use crate::sys;

/// Frequencies further apart than this are different ones. Two calibrations of one host's TSC differ by some
/// parts per million; KVM itself tolerates 250 by default (`tsc_tolerance_ppm`).
const TOLERANCE_PPM: u64 = 250;

/// One vCPU's TSC while it was paused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TscStateV1 {
    /// Frequency in kHz, where KVM tells it.
    pub khz: Option<u32>,
    /// Value at some moment of the save, not before the vCPU's last read of it.
    pub value: u64,
    /// What KVM adds to the host's TSC (`KVM_VCPU_TSC_OFFSET`), where it tells it (Linux 5.16).
    pub offset: Option<u64>,
}

impl TscStateV1 {
    pub(super) fn save(fd: &VcpuFd, vcpu: usize) -> Result<TscStateV1> {
        // The offset first, so that no later value can belong to an earlier offset; the two do not change
        // while the vCPU is paused anyway.
        let offset = match sys::kvm::get_tsc_offset(fd) {
            Ok(offset) => Some(offset),
            Err(_) => None,
        };
        let value = value(fd, vcpu)?;
        Ok(TscStateV1 {
            khz: fd.get_tsc_khz().ok(),
            value,
            offset,
        })
    }

    /// Makes the vCPU count at the saved frequency. Before [`restore_all`].
    pub(super) fn restore_frequency(&self, fd: &VcpuFd, vcpu: usize) -> Result<()> {
        let (Some(wanted), Ok(here)) = (self.khz, fd.get_tsc_khz()) else {
            return Ok(());
        };
        if u64::from(wanted.abs_diff(here)) * 1_000_000 <= u64::from(here) * TOLERANCE_PPM {
            return Ok(());
        }
        fd.set_tsc_khz(wanted).map_err(|_| {
            KvmError::Incompatible(format!(
                "vCPU {vcpu}: the snapshot's time-stamp counter runs at {wanted} kHz, this host's at {here} kHz, and \
                 its CPU cannot scale it (KVM_CAP_TSC_CONTROL); restore on a host with the same CPU"
            ))
        })
    }
}

fn value(fd: &VcpuFd, vcpu: usize) -> Result<u64> {
    let read = msrs::read(fd, vcpu, &[MSR_IA32_TSC])?;
    read.first().map(|msr| msr.value).ok_or_else(|| KvmError::Vcpu {
        vcpu,
        op: "reading its TSC",
        source: io::ErrorKind::Unsupported.into(),
    })
}

/// Makes every vCPU's TSC go on from its saved value, all of them as far apart as they were: to the tick
/// where KVM has offsets; else by writing them one after the other, which KVM takes as an attempt to set
/// them equal when it happens within a second.
///
/// Before the deadlines and the clock: KVM computes both against the TSC.
///
/// A software KVM (PVM) lets guests read the host's own TSC, and takes any value or offset without an effect. On the
/// host of the snapshot that is as good; elsewhere the guest's TSC jumps, which is logged.
pub(super) fn restore_all(vcpus: &[&VcpuFd], states: &[&TscStateV1]) -> Result<()> {
    set_all(vcpus, states)?;
    for (vcpu, (fd, state)) in vcpus.iter().zip(states).enumerate() {
        let now = value(fd, vcpu)?;
        if now < state.value {
            tracing::warn!(
                vcpu,
                saved = state.value,
                now,
                "this KVM does not set time-stamp counters: the guest's goes back"
            );
        }
    }
    Ok(())
}

fn set_all(vcpus: &[&VcpuFd], states: &[&TscStateV1]) -> Result<()> {
    let (Some(first), Some(first_state)) = (vcpus.first(), states.first()) else {
        return Ok(());
    };
    let offsets: Option<Vec<u64>> = states.iter().map(|state| state.offset).collect();
    if let (Some(saved), Ok(here)) = (offsets, sys::kvm::get_tsc_offset(first)) {
        // Host TSC (as the guest's frequency scales it) then and now; what it moved goes into every offset.
        let host_then = first_state.value.wrapping_sub(saved[0]);
        let host_now = value(first, 0)?.wrapping_sub(here);
        let moved = host_then.wrapping_sub(host_now);
        for (vcpu, (fd, offset)) in vcpus.iter().zip(saved).enumerate() {
            sys::kvm::set_tsc_offset(fd, offset.wrapping_add(moved))
                .map_err(vcpu_op(vcpu, "restoring its TSC offset"))?;
        }
        return Ok(());
    }
    // The latest of them for all: none of them steps back.
    let value = states.iter().map(|state| state.value).max().unwrap_or_default();
    for (vcpu, fd) in vcpus.iter().enumerate() {
        msrs::write(
            fd,
            vcpu,
            &[MsrV1 {
                index: MSR_IA32_TSC,
                value,
            }],
        )?;
    }
    Ok(())
}
