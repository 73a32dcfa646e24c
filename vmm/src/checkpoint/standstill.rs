//! Stopping a machine for a snapshot, and having it go on.

use std::time::Instant;

use nvvmm_snapshot::{Error, Holder};

use super::{
    Pending,
    error::{TakeError, withdrawn},
};
use crate::{
    machine::{Hold, Machine, MachineError},
    stats::Phases,
};

/// Blocks of metadata that a snapshot needs.
pub struct BlocksNeeded {
    /// Rather so many.
    pub likely: u32,
    /// At most so many, as the guest may write before it is paused.
    pub at_most: u32,
    /// At most so many if the VM were paused now.
    pub paused: u32,
}

/// Takes the blocks while the guest runs, so that a full pool refuses before anything stands still.
pub fn reserve(
    holder: &Holder,
    pending: &Pending,
    is_running: bool,
    needed: &BlocksNeeded,
) -> Result<(), TakeError> {
    let reservation = match holder.reserve_up_to(needed.likely, needed.at_most) {
        Err(Error::PoolFull { free, .. }) if is_running => {
            return Err(TakeError::NoRoom {
                needed: needed.at_most,
                free,
                needed_paused: needed.paused,
            });
        }
        other => other?,
    };
    match pending.keep(reservation) {
        true => Ok(()),
        false => Err(withdrawn(pending)),
    }
}

/// Stops vCPUs and devices, if they run.
pub fn pause(machine: &Machine, is_running: bool, phases: &mut Phases) -> Result<(), MachineError> {
    if is_running {
        phases.run("PauseVcpus", || machine.pause_vcpus(Hold::Operation))?;
        phases.run("QuiesceDevices", || machine.quiesce_devices())?;
    }
    Ok(())
}

/// Has devices and vCPUs go on, if they ran.
pub fn go_on(machine: &Machine, is_running: bool, phases: &mut Phases) -> Result<(), MachineError> {
    if is_running {
        phases.run("ResumeDevices", || machine.resume_devices())?;
        phases.run("ResumeVcpus", || machine.resume_vcpus(Hold::Operation));
    }
    Ok(())
}

/// Time at which the last vCPU went on that was held from `paused_at` on and released by
/// `resumed_at`: the end of the pause and of the phase `ResumeVcpus`. It is read some time after
/// the resume, because the thread that releases vCPUs may lose its own CPU to one of them. If some
/// vCPUs are held again by now, `resumed_at`.
pub fn went_on_at(
    machine: &Machine,
    phases: &mut Phases,
    paused_at: Instant,
    resumed_at: Instant,
) -> Instant {
    let found = machine.vcpus_went_on_at().filter(|at| *at >= paused_at);
    if let Some(at) = found {
        phases.ended_at("ResumeVcpus", at);
    }
    found.unwrap_or(resumed_at)
}
