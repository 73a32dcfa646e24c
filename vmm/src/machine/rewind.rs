//! A machine that has run takes over the state of an earlier moment.

use super::{Machine, MachineError, MachineStateV1, Result};
use crate::arch;

impl Machine {
    /// Checks that this machine can take over a state without being built anew. Changes nothing.
    /// vCPUs and devices must be paused.
    ///
    /// # Errors
    /// A vCPU has failed and runs no more, or what the vCPUs cannot take over.
    pub fn check_rewind(&self, state: &MachineStateV1) -> Result<()> {
        if !self.shared.gate.is_paused() {
            return Err(MachineError::State("vCPUs must be paused to rewind them"));
        }
        if self.shared.gate.has_failed() {
            return Err(MachineError::State("a vCPU has failed"));
        }
        let fds = self.vcpu_fds();
        let fds: Vec<_> = fds.iter().map(|fd| &**fd).collect();
        Ok(arch::rewind::check(&self.cpu, &fds, &state.kvm)?)
    }

    /// Takes windows away from the guest: it goes back to a moment at which there were none.
    ///
    /// # Errors
    /// KVM refuses a step.
    pub fn take_windows_away(&self) -> Result<()> {
        for (_, backing) in &self.board.pmem {
            backing.take_away();
        }
        self.end_released_windows()
    }

    /// Takes over a state. [`Machine::check_rewind`] was asked. Guest memory must be that of the
    /// state, and whatever resolves faults in it must be running. vCPUs and devices stay paused.
    /// Requests of the guest that nobody has taken, such as to power off, are forgotten.
    ///
    /// # Errors
    /// The machine is of no moment then, and must not run again.
    pub fn rewind(&self, state: &MachineStateV1) -> Result<()> {
        {
            let fds = self.vcpu_fds();
            let fds: Vec<_> = fds.iter().map(|fd| &**fd).collect();
            arch::rewind::rewind(&self.vm, &self.cpu, &fds, &state.kvm)?;
        }
        self.board.rewind(&state.devices)?;
        self.shared.events.forget();
        self.note_kind(state);
        *self.shared.first_entry() = None;
        self.renew_identity()
    }
}
