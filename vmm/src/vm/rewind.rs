//! A VM goes back to a snapshot and stays the same VM: its name, process and sockets are those that
//! it had.
//!
//! As when the guest reboots, the machine is stopped and another is built in its place. What can
//! fail because of the snapshot fails before: it is read, checked and pinned, by the holder of
//! the VM to come, while the guest still runs.

use std::{
    sync::mpsc::{Receiver, Sender, channel},
    time::Instant,
};

use super::{VmError, build::ReadSnapshot, running::RunningVm, supervisor::Supervisor};
use crate::{
    checkpoint::phases::micros,
    control::RewindRequest,
    error::ErrorKind,
    machine::Hold,
    ring::{Member, RewindReport},
    spec::VmSpec,
};

/// A rewind that was asked for, for the thread that builds VMs.
pub(super) struct Rewinding {
    pub read: ReadSnapshot,
    /// The VM's machine. It keeps its files: those that the snapshot names are not opened.
    pub spec: VmSpec,
    /// The VM was paused, and is to be.
    pub paused: bool,
    pub asker: Asker,
}

/// The caller that waits for the end of a rewind.
pub(super) struct Asker {
    asked: Instant,
    stopped: Instant,
    snapshot: String,
    answer: Sender<Result<RewindReport, VmError>>,
}

impl Asker {
    /// Notes that there is no guest from now on.
    pub fn stopping(&mut self) {
        self.stopped = Instant::now();
    }

    /// The VM is at the snapshot.
    pub fn done(self, vm: &str, paused: bool) {
        let report = RewindReport {
            vm: vm.to_owned(),
            total_us: micros(self.asked),
            stopped_us: micros(self.stopped),
            snapshot: self.snapshot,
            paused,
        };
        // Whoever asked may be gone.
        let _ = self.answer.send(Ok(report));
    }

    /// The VM could not be built. What it was at is lost, the snapshot is not.
    pub fn failed(self, vm: &str, error: &VmError) -> VmError {
        let lost = VmError::new(
            error.kind,
            format!(
                "the VM was stopped, but could not be rebuilt: {}",
                error.message
            ),
        )
        .with_remedy(format!(
            "remove the cause, then run 'nvvmm restore {} --name {vm}'",
            self.snapshot
        ));
        let _ = self.answer.send(Err(lost.clone()));
        lost
    }
}

impl Supervisor {
    /// Takes the VM back to a snapshot of it; returns when it runs from there.
    pub fn rewind(&self, request: &RewindRequest) -> Result<RewindReport, VmError> {
        let asked = Instant::now();
        let vm = self.running()?;
        if vm.faults.is_stuck() {
            return Err(vm.no_space());
        }
        // A ring commits nothing meanwhile: the checkpoint that is chosen is there to be pinned.
        let operation = vm.operation_unless_stuck()?;
        let (snapshot, stale_disks) = self.wanted(&vm, request)?;
        let (rewinding, answer) = vm.rewind_to(self.name(), &snapshot, asked)?;
        drop(operation);
        let look = !stale_disks && vm.spec.disks().next().is_some();
        let still = look
            .then(|| vm.stand_still_unless_written(&rewinding.read.saved, &snapshot))
            .transpose()?;
        self.ask_for_rewind(rewinding)?;
        if let Some(still) = still {
            still.keep();
        }
        vm.machine.interrupter().interrupt();
        drop(vm);
        answer.recv().unwrap_or_else(|_| {
            Err(VmError::new(
                ErrorKind::Refused,
                "the VM ended before it could be rewound",
            ))
        })
    }
}

impl Supervisor {
    /// The name of the snapshot that is asked for, and if it is gone back to with stale disks.
    fn wanted(&self, vm: &RunningVm, request: &RewindRequest) -> Result<(String, bool), VmError> {
        match request {
            RewindRequest::To { name, stale_disks } => Ok((name.clone(), *stale_disks)),
            RewindRequest::Back {
                checkpoints,
                stale_disks,
            } => {
                let members = Member::all(vm.holder.pool(), self.name())?;
                let members = self.own_checkpoints(vm, members)?;
                let name = number_back(&members, self.name(), *checkpoints as usize)?;
                Ok((name, *stale_disks))
            }
        }
    }
}

/// The checkpoint with this number, counted from the newest.
fn number_back(members: &[Member], vm: &str, back: usize) -> Result<String, VmError> {
    let found = back
        .checked_sub(1)
        .and_then(|back| members.iter().nth_back(back));
    let found = found.map(|member| member.name.clone());
    found.ok_or_else(|| {
        let remedy = match members.len() {
            0 => format!(
                "take checkpoints with 'nvvmm checkpoint {vm}', or use --to with a \
                          snapshot of the VM"
            ),
            1 => "use -n 1".to_owned(),
            count => format!("use -n 1 (the newest) to -n {count}"),
        };
        let there_are = match members.len() {
            0 => "there are none".to_owned(),
            1 => "there is 1".to_owned(),
            count => format!("there are {count}"),
        };
        VmError::new(
            ErrorKind::NotFound,
            format!("VM '{vm}' has no checkpoint number {back} from the newest: {there_are}"),
        )
        .with_remedy(remedy)
    })
}

impl RunningVm {
    fn rewind_to(
        &self,
        name: &str,
        snapshot: &str,
        asked: Instant,
    ) -> Result<(Rewinding, Receiver<Result<RewindReport, VmError>>), VmError> {
        let refuse = |why: String, remedy: &str| {
            Err(VmError::new(ErrorKind::Refused, why).with_remedy(remedy))
        };
        if self.seen().ending {
            return refuse("the VM is ending".into(), "'nvvmm restore' the snapshot");
        }
        let read = ReadSnapshot::read(self.holder.pool(), name, snapshot)?;
        if !is_same_machine(&read.saved.spec, &self.spec) {
            return refuse(
                format!(
                    "the machine of '{snapshot}' has other CPUs, memory or devices than this VM"
                ),
                "restore it as a new VM",
            );
        }
        read.check_map()?;
        let (answer, answered) = channel();
        let rewinding = Rewinding {
            read,
            spec: self.spec.clone(),
            paused: self.machine.is_held(Hold::Pause),
            asker: Asker {
                asked,
                stopped: asked,
                snapshot: snapshot.to_owned(),
                answer,
            },
        };
        Ok((rewinding, answered))
    }
}

/// Tells if both machines have the same parts, whatever was booted and wherever their disks are.
fn is_same_machine(saved: &VmSpec, now: &VmSpec) -> bool {
    saved.vcpus == now.vcpus
        && saved.memory_bytes == now.memory_bytes
        && saved.has_same_devices(now)
}
