//! A VM goes back to a snapshot and stays the same VM: its name, process and sockets are those that
//! it had.
//!
//! The thread that builds VMs does it, so that no event of the machine comes in between. As a rule
//! the machine stays ([`in_place`](super::in_place)). If it cannot take the state over, it is
//! stopped and another is built in its place, as when the guest reboots. What can fail because of
//! the snapshot fails before: it is read, checked and pinned while the guest still runs.

use std::{
    sync::{
        Arc,
        mpsc::{Receiver, Sender, channel},
    },
    time::Instant,
};

use super::{VmError, reading::ReadSnapshot, running::RunningVm, supervisor::Supervisor};
use crate::{
    checkpoint::phases::micros,
    control::{AgentOrders, RewindRequest},
    error::ErrorKind,
    machine::Hold,
    ring::{Member, RewindReport},
    spec::{DiskSpec, VmSpec},
};

/// A rewind that was asked for, for the thread that builds VMs.
pub(super) struct WantedRewind {
    pub request: RewindRequest,
    pub asker: Asker,
}

/// A rewind for which the machine is to be built anew.
pub(super) struct Rewinding {
    /// The snapshot; the reason why there is none if the machine cannot run on either.
    pub read: Result<ReadSnapshot, VmError>,
    /// The VM's machine. It keeps its files: those that the snapshot names are not opened.
    pub spec: VmSpec,
    /// Orders for the guest's agent.
    pub orders: AgentOrders,
    /// The VM was paused, and is to be.
    pub paused: bool,
    pub asker: Asker,
}

/// The caller that waits for the end of a rewind.
#[derive(Clone)]
pub(super) struct Asker {
    asked: Instant,
    stopped: Instant,
    /// Name of the snapshot, when it is chosen.
    snapshot: String,
    answer: Sender<Result<RewindReport, VmError>>,
}

impl Asker {
    /// Someone who asks now for a rewind, and gets the answer.
    fn new(asked: Instant) -> (Self, Receiver<Result<RewindReport, VmError>>) {
        let (answer, answered) = channel();
        let asker = Self {
            asked,
            stopped: asked,
            snapshot: String::new(),
            answer,
        };
        (asker, answered)
    }

    /// The snapshot is chosen.
    pub fn to(self, snapshot: &str) -> Self {
        Self {
            snapshot: snapshot.to_owned(),
            ..self
        }
    }

    /// Notes that there is no guest from now on.
    pub fn stopping(&mut self) {
        self.stopped = Instant::now();
    }

    /// The VM is at the snapshot, in a machine that was built anew.
    pub fn done(self, vm: &str, paused: bool) {
        let report = RewindReport {
            vm: vm.to_owned(),
            total_us: micros(self.asked),
            stopped_us: micros(self.stopped),
            snapshot: self.snapshot.clone(),
            paused,
            phases: Vec::new(),
        };
        self.answer(Ok(report));
    }

    /// Time at which the rewind was asked for.
    pub fn asked(&self) -> Instant {
        self.asked
    }

    /// Gives the answer. Whoever asked may be gone.
    pub fn answer(self, answer: Result<RewindReport, VmError>) {
        let _ = self.answer.send(answer);
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
        self.answer(Err(lost.clone()));
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
        vm.settle_arrival(&mut *vm.operation_unless_stuck()?)?;
        let (asker, answer) = Asker::new(asked);
        self.ask_for_rewind(WantedRewind {
            request: request.clone(),
            asker,
        })?;
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
    /// The VM's operations are locked until the snapshot is pinned: a ring removes none meanwhile.
    pub(super) fn wanted(
        &self,
        vm: &RunningVm,
        request: &RewindRequest,
    ) -> Result<(String, bool), VmError> {
        match request {
            RewindRequest::To {
                name, stale_disks, ..
            } => Ok((name.clone(), *stale_disks)),
            RewindRequest::Back {
                checkpoints,
                stale_disks,
                ..
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
    /// Prepares a rewind for which the machine is built anew: the guest runs until this returns,
    /// and with disks it stands still then.
    ///
    /// # Errors
    /// The VM is not rewound, and goes on.
    pub(super) fn prepare_anew(
        self: &Arc<Self>,
        supervisor: &Supervisor,
        wanted: &WantedRewind,
    ) -> Result<Rewinding, VmError> {
        self.refuse_if_ending()?;
        let operation = self.operation_unless_stuck()?;
        let (snapshot, stale_disks) = supervisor.wanted(self, &wanted.request)?;
        let snapshot = &snapshot;
        let read = ReadSnapshot::read(self.holder.pool(), supervisor.name(), snapshot)?;
        drop(operation);
        self.refuse_other_machine(&read.saved.spec, snapshot)?;
        read.check_map()?;
        let paused = self.machine.is_held(Hold::Pause);
        if !stale_disks && self.spec.disks().next().is_some() {
            self.stand_still_unless_written(&read.saved, snapshot)?
                .keep();
        }
        supervisor.agent_is_open();
        Ok(Rewinding {
            read: Ok(read),
            spec: self.spec.clone(),
            orders: wanted.request.agent_orders(),
            paused,
            asker: wanted.asker.clone().to(snapshot),
        })
    }

    /// Refuses a rewind of a VM that is about to end.
    pub(super) fn refuse_if_ending(&self) -> Result<(), VmError> {
        if self.seen().ending {
            return Err(VmError::new(ErrorKind::Refused, "the VM is ending")
                .with_remedy("'nvvmm restore' the snapshot"));
        }
        Ok(())
    }

    /// Refuses a snapshot of a machine with other parts than this one.
    pub(super) fn refuse_other_machine(
        &self,
        saved: &VmSpec,
        snapshot: &str,
    ) -> Result<(), VmError> {
        if is_same_machine(saved, &self.spec) {
            return Ok(());
        }
        Err(VmError::new(
            ErrorKind::Refused,
            format!("the machine of '{snapshot}' has other CPUs, memory or devices than this VM"),
        )
        .with_remedy("restore it as a new VM"))
    }
}

/// Tells if both machines have the same parts, whatever was booted and wherever their disks are.
fn is_same_machine(saved: &VmSpec, now: &VmSpec) -> bool {
    saved.vcpus == now.vcpus
        && saved.memory_bytes == now.memory_bytes
        && saved.has_same_devices(now)
        && { saved.disks().map(DiskSpec::pool_disk) }.eq(now.disks().map(DiskSpec::pool_disk))
}
