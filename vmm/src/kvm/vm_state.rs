//! Saved state of the VM as a whole: interrupt controllers, interval timer, clock.

use kvm_bindings::{
    KVM_CLOCK_HOST_TSC, KVM_CLOCK_REALTIME, KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER,
    KVM_IRQCHIP_PIC_SLAVE, kvm_clock_data, kvm_irqchip, kvm_pit_state2,
};
use serde::{Deserialize, Serialize};

use super::error::vm_op;
use super::{KvmVm, Result};

/// State of the VM as a whole.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct VmStateV1 {
    /// Master PIC (`KVM_GET_IRQCHIP`).
    pub pic_master: kvm_irqchip,
    /// Slave PIC.
    pub pic_slave: kvm_irqchip,
    /// IOAPIC.
    pub ioapic: kvm_irqchip,
    /// Interval timer (`KVM_GET_PIT2`).
    pub pit: kvm_pit_state2,
    /// kvmclock.
    pub clock: ClockStateV1,
}

/// The VM's kvmclock when it was paused (KVM API, `KVM_GET_CLOCK`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClockStateV1 {
    /// The guest's clock in nanoseconds.
    pub clock_ns: u64,
    /// The host's `CLOCK_REALTIME` at the same moment, in nanoseconds, where KVM tells it (Linux 5.16).
    pub realtime_ns: Option<u64>,
    /// The host's TSC at the same moment, where KVM tells it.
    pub host_tsc: Option<u64>,
}

impl VmStateV1 {
    /// Reads it. No vCPU may be running.
    ///
    /// # Errors
    /// [`super::KvmError::Vm`].
    pub(super) fn save(vm: &KvmVm) -> Result<VmStateV1> {
        let chip = |chip_id| {
            let mut chip = kvm_irqchip {
                chip_id,
                ..Default::default()
            };
            vm.fd()
                .get_irqchip(&mut chip)
                .map_err(vm_op("saving an interrupt controller"))?;
            Ok(chip)
        };
        let clock = vm.fd().get_clock().map_err(vm_op("saving the clock"))?;
        Ok(VmStateV1 {
            pic_master: chip(KVM_IRQCHIP_PIC_MASTER)?,
            pic_slave: chip(KVM_IRQCHIP_PIC_SLAVE)?,
            ioapic: chip(KVM_IRQCHIP_IOAPIC)?,
            pit: vm.fd().get_pit2().map_err(vm_op("saving the interval timer"))?,
            clock: ClockStateV1 {
                clock_ns: clock.clock,
                realtime_ns: (clock.flags & KVM_CLOCK_REALTIME != 0).then_some(clock.realtime),
                host_tsc: (clock.flags & KVM_CLOCK_HOST_TSC != 0).then_some(clock.host_tsc),
            },
        })
    }

    /// Writes the interrupt controllers and the interval timer.
    pub(super) fn restore_chips(&self, vm: &KvmVm) -> Result<()> {
        for chip in [&self.pic_master, &self.pic_slave, &self.ioapic] {
            vm.fd()
                .set_irqchip(chip)
                .map_err(vm_op("restoring an interrupt controller"))?;
        }
        vm.fd()
            .set_pit2(&self.pit)
            .map_err(vm_op("restoring the interval timer"))
    }

    /// Sets the clock to the moment of the save: the guest's monotonic time goes on from there, and neither
    /// it nor the guest's wall clock ever steps back. `KVM_CLOCK_REALTIME` is left out on purpose: with it
    /// KVM would add the time since the save, which a guest sees as one long stall.
    pub(super) fn restore_clock(&self, vm: &KvmVm) -> Result<()> {
        let clock = kvm_clock_data {
            clock: self.clock.clock_ns,
            ..Default::default()
        };
        vm.fd().set_clock(&clock).map_err(vm_op("restoring the clock"))
    }
}
