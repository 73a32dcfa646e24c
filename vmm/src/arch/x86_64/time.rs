//! Time as guests see it: the VM's kvmclock and the time-stamp counters of all vCPUs, taken and set
//! as one.
//!
//! A guest checks one against the other (Linux marks its TSC unstable when they drift by less than
//! a millisecond), and the TSCs against each other. But each is read and set by a call of its own,
//! and all of them go on meanwhile. So the counters are saved as they were at the very moment of
//! the saved clock; and when they are set, the clock, which goes on from its saved value by then,
//! tells by how much (KVM, `KVM_VCPU_TSC_OFFSET` in devices/vcpu.rst, does the same with a host TSC
//! that not every KVM tells).

use std::io;

use kvm_bindings::{KVM_CLOCK_HOST_TSC, KVM_CLOCK_REALTIME, kvm_clock_data};
use kvm_ioctls::VcpuFd;
use serde::{Deserialize, Serialize};

use super::msrs::{self, MSR_IA32_TSC, MsrV1};
use super::pvclock::{self, MSR_KVM_SYSTEM_TIME_NEW};
use crate::kvm::{KvmError, KvmVm, Result, vcpu_op, vm_op};
use crate::memory::GuestMemory;
use crate::sys;

/// Frequencies further apart than this are different ones. Two calibrations of one host's TSC
/// differ by some parts per million; KVM itself tolerates 250 by default (`tsc_tolerance_ppm`).
const TOLERANCE_PPM: u64 = 250;

/// Readings of clock and TSC, of which the one that took least time is used.
const READINGS: usize = 4;

/// The VM's kvmclock when it was paused (KVM API, `KVM_GET_CLOCK`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClockStateV1 {
    /// The guest's clock in nanoseconds.
    pub clock_ns: u64,
    /// The host's `CLOCK_REALTIME` at the same moment, in nanoseconds, where KVM tells it (Linux
    /// 5.16).
    pub realtime_ns: Option<u64>,
    /// The host's TSC at the same moment, where KVM tells it.
    pub host_tsc: Option<u64>,
}

/// One vCPU's TSC.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TscStateV1 {
    /// Frequency in kHz, where KVM tells it.
    pub khz: Option<u32>,
    /// Value at the moment of the saved clock.
    pub value: u64,
    /// The offset that KVM adds to the host's TSC (`KVM_VCPU_TSC_OFFSET`), where KVM tells it
    /// (Linux 5.16) and the host's TSC is stable. Where it is not stable, KVM changes the offset at
    /// any time.
    pub offset: Option<u64>,
}

/// kvmclock and the first vCPU's TSC at one moment.
struct Moment {
    clock: kvm_clock_data,
    tsc: u64,
}

impl Moment {
    fn now(vm: &KvmVm, first: &VcpuFd) -> Result<Moment> {
        let mut best: Option<(u64, Moment)> = None;
        for _ in 0..READINGS {
            let before = tsc(first, 0)?;
            let clock = vm.fd().get_clock().map_err(vm_op("reading the clock"))?;
            let took = tsc(first, 0)?.wrapping_sub(before);
            if best.as_ref().is_none_or(|(shortest, _)| took < *shortest) {
                best = Some((
                    took,
                    Moment {
                        clock,
                        tsc: before.wrapping_add(took / 2),
                    },
                ));
            }
        }
        best.map(|(_, moment)| moment)
            .ok_or_else(|| vm_op("reading the clock")(io::Error::other("no reading")))
    }
}

fn tsc(fd: &VcpuFd, vcpu: usize) -> Result<u64> {
    let read = msrs::read(fd, vcpu, &[MSR_IA32_TSC])?;
    read.first()
        .map(|msr| msr.value)
        .ok_or_else(|| KvmError::Vcpu {
            vcpu,
            op: "reading its TSC",
            source: io::ErrorKind::Unsupported.into(),
        })
}

/// The offset of a vCPU's TSC, if it is constant. On a host whose TSC is not stable, KVM gives
/// another one with every call.
fn settled_offset(fd: &VcpuFd) -> Option<u64> {
    let first = sys::kvm::get_tsc_offset(fd).ok()?;
    let second = sys::kvm::get_tsc_offset(fd).ok()?;
    (first == second).then_some(first)
}

/// Reads clock and TSCs. All vCPUs must be paused; no value is then before what a vCPU has read.
///
/// On a host whose own TSC is not stable, a vCPU's stands still while the vCPU is not running, and
/// KVM lets it catch up at the next entry: what can be read now is behind the clock by the time
/// since the pause. The guest's kvmclock page then tells what the TSC would be.
pub(super) fn save(
    vm: &KvmVm,
    vcpus: &[&VcpuFd],
    memory: &GuestMemory,
) -> Result<(ClockStateV1, Vec<TscStateV1>)> {
    let Some(first) = vcpus.first() else {
        return Err(KvmError::Mismatch("a machine without vCPUs".into()));
    };
    let moment = Moment::now(vm, first)?;
    let first_offset = settled_offset(first);
    let states = vcpus.iter().enumerate().map(|(vcpu, fd)| {
        let offset = settled_offset(fd);
        let value = match (first_offset, offset) {
            (Some(first), Some(offset)) => moment.tsc.wrapping_sub(first).wrapping_add(offset),
            _ => match caught_up(fd, vcpu, memory, moment.clock.clock)? {
                Some(value) => value,
                None if vcpu == 0 => moment.tsc,
                None => tsc(fd, vcpu)?,
            },
        };
        Ok(TscStateV1 {
            khz: fd.get_tsc_khz().ok(),
            value,
            offset,
        })
    });
    let (clock, states) = (moment.clock, states.collect::<Result<_>>()?);
    let clock = ClockStateV1 {
        clock_ns: clock.clock,
        realtime_ns: (clock.flags & KVM_CLOCK_REALTIME != 0).then_some(clock.realtime),
        host_tsc: (clock.flags & KVM_CLOCK_HOST_TSC != 0).then_some(clock.host_tsc),
    };
    Ok((clock, states))
}

/// The vCPU's TSC when its clock reads `clock_ns`, where the guest uses kvmclock.
fn caught_up(fd: &VcpuFd, vcpu: usize, memory: &GuestMemory, clock_ns: u64) -> Result<Option<u64>> {
    let Ok(khz) = fd.get_tsc_khz() else {
        return Ok(None);
    };
    let msr = msrs::read(fd, vcpu, &[MSR_KVM_SYSTEM_TIME_NEW])?;
    Ok(msr
        .first()
        .and_then(|msr| pvclock::tsc_at(memory, msr.value, clock_ns, khz)))
}

/// Makes clock and TSCs go on from their saved values: neither ever steps back, and the time
/// between save and restore did not pass. (`KVM_CLOCK_REALTIME` would add it, which a guest sees as
/// one long stall.) The TSCs stay as far apart as they were, to the tick, where KVM has offsets;
/// else the latest value is written to all, one after the other, which KVM takes as an attempt to
/// set them equal when it happens within a second.
///
/// After the frequencies ([`TscStateV1::restore_frequency`]), before timer deadlines, which KVM
/// computes against the TSC.
///
/// A software KVM (PVM) lets guests read the host's own TSC, and takes any value or offset without
/// an effect. On the host of the snapshot that is as good; elsewhere the guest's TSC jumps, which
/// is logged.
pub(super) fn restore(
    vm: &KvmVm,
    vcpus: &[&VcpuFd],
    clock: &ClockStateV1,
    tscs: &[&TscStateV1],
) -> Result<()> {
    let (Some(first), Some(first_state)) = (vcpus.first(), tscs.first()) else {
        return Ok(());
    };
    let data = kvm_clock_data {
        clock: clock.clock_ns,
        ..Default::default()
    };
    vm.fd()
        .set_clock(&data)
        .map_err(vm_op("restoring the clock"))?;
    let now = Moment::now(vm, first)?;
    let elapsed_ns = u128::from(now.clock.clock.saturating_sub(clock.clock_ns));
    let khz = first_state
        .khz
        .or_else(|| first.get_tsc_khz().ok())
        .unwrap_or(0);
    // A moment's worth of ticks: it fits.
    let elapsed = (elapsed_ns * u128::from(khz) / 1_000_000) as u64;
    let saved_offsets: Option<Vec<u64>> = tscs.iter().map(|state| state.offset).collect();
    if let (Some(offsets), Ok(here)) = (saved_offsets, sys::kvm::get_tsc_offset(first)) {
        let wanted = first_state.value.wrapping_add(elapsed);
        let first_offset = here.wrapping_add(wanted.wrapping_sub(now.tsc));
        for (vcpu, (fd, offset)) in vcpus.iter().zip(&offsets).enumerate() {
            let apart = offset.wrapping_sub(offsets[0]);
            sys::kvm::set_tsc_offset(fd, first_offset.wrapping_add(apart))
                .map_err(vcpu_op(vcpu, "restoring its TSC offset"))?;
        }
    } else {
        // The latest of them for all: none of them steps back.
        let latest = tscs
            .iter()
            .map(|state| state.value)
            .max()
            .unwrap_or_default();
        for (vcpu, fd) in vcpus.iter().enumerate() {
            msrs::write(
                fd,
                vcpu,
                &[MsrV1 {
                    index: MSR_IA32_TSC,
                    value: latest.wrapping_add(elapsed),
                }],
            )?;
        }
    }
    warn_of_steps_back(vcpus, tscs)
}

fn warn_of_steps_back(vcpus: &[&VcpuFd], tscs: &[&TscStateV1]) -> Result<()> {
    for (vcpu, (fd, state)) in vcpus.iter().zip(tscs).enumerate() {
        let now = tsc(fd, vcpu)?;
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

impl TscStateV1 {
    /// The saved frequency and that of the vCPU, if they are different ones.
    pub(super) fn other_frequency(&self, fd: &VcpuFd) -> Option<(u32, u32)> {
        let (wanted, here) = (self.khz?, fd.get_tsc_khz().ok()?);
        let is_same =
            u64::from(wanted.abs_diff(here)) * 1_000_000 <= u64::from(here) * TOLERANCE_PPM;
        (!is_same).then_some((wanted, here))
    }

    /// Makes the vCPU count at the saved frequency. Before [`restore`].
    pub(super) fn restore_frequency(&self, fd: &VcpuFd, vcpu: usize) -> Result<()> {
        let Some((wanted, here)) = self.other_frequency(fd) else {
            return Ok(());
        };
        fd.set_tsc_khz(wanted).map_err(|_| {
            KvmError::Incompatible(format!(
                "vCPU {vcpu}: the snapshot's time-stamp counter runs at {wanted} kHz, this host's \
                 at {here} kHz, and \
                 its CPU cannot scale it (KVM_CAP_TSC_CONTROL)"
            ))
        })
    }
}
