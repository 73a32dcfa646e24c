//! Saved state of the VM as a whole: interrupt controllers, interval timer, clock.

use kvm_bindings::{
    KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, kvm_irqchip, kvm_pit_state2,
};
use serde::{Deserialize, Serialize};

use super::time::ClockStateV1;
use crate::kvm::{KvmError, KvmVm, Result, vm_op};

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

impl VmStateV1 {
    /// Reads all but the clock. No vCPU may be running.
    ///
    /// # Errors
    /// [`crate::kvm::KvmError::Vm`].
    pub(super) fn save(vm: &KvmVm, clock: ClockStateV1) -> Result<VmStateV1> {
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
        Ok(VmStateV1 {
            pic_master: chip(KVM_IRQCHIP_PIC_MASTER)?,
            pic_slave: chip(KVM_IRQCHIP_PIC_SLAVE)?,
            ioapic: chip(KVM_IRQCHIP_IOAPIC)?,
            pit: vm
                .fd()
                .get_pit2()
                .map_err(vm_op("saving the interval timer"))?,
            clock,
        })
    }

    /// Checks that each interrupt controller's state is that of the controller. Changes nothing.
    pub(super) fn check(&self) -> Result<()> {
        let chips = [
            (&self.pic_master, KVM_IRQCHIP_PIC_MASTER),
            (&self.pic_slave, KVM_IRQCHIP_PIC_SLAVE),
            (&self.ioapic, KVM_IRQCHIP_IOAPIC),
        ];
        match chips.iter().find(|(chip, number)| chip.chip_id != *number) {
            None => Ok(()),
            Some((chip, number)) => Err(KvmError::Mismatch(format!(
                "interrupt controller {number} has the state of number {}",
                chip.chip_id
            ))),
        }
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
}
