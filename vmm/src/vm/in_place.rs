//! A rewind in place: the machine stays, with its KVM VM, memory slots, threads and devices.
//!
//! While the guest runs, the snapshot is pinned, read, checked, and compared with what the VM is
//! based on. Then the guest stands still, and memory, vCPUs and devices get the state of the
//! snapshot. Blocks that were replaced are freed when the guest runs again.
//!
//! Up to the first change the rewind can be refused, or left to the building of a new machine
//! ([`Outcome::Anew`]), and the guest goes on. After it the guest must not run on: if a step fails,
//! the machine is stopped and another is built from the snapshot ([`Outcome::Lost`]).

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use nvvmm_snapshot::{FrameMap, SnapshotEntry, SnapshotId};

use super::{
    RestoreOptions, VmError, build,
    episode::Episode,
    error::{cow_error, machine_error, no_thread},
    reading::{self, ReadSnapshot},
    rewind::{Asker, Rewinding, WantedRewind},
    running::{Operation, RunningVm},
    supervisor::Supervisor,
};
use crate::{
    agent::link::AgentLink,
    checkpoint::{
        blob::SavedVm,
        phases::{Phases, micros, micros_of},
        report::{GuestClock, GuestConnections, RestoreReport},
        went_on_at,
    },
    control::{RewindRequest, VmOrigin},
    cow::RewindTo,
    disk,
    machine::Hold,
    memory::WriteLog,
    ring::RewindReport,
};

/// Blocks that setting the state of a vCPU may need. Without so many, replaced blocks are freed
/// before and not after.
const ROOM_PER_VCPU: u32 = 16;

/// End of an attempt.
pub(super) enum Outcome {
    /// The VM is at the snapshot, or the rewind was refused. Whoever asked has the answer.
    Done,
    /// Nothing has changed. This machine cannot take the state over.
    Anew,
    /// The machine cannot run on, and is to be built anew.
    Lost(Box<Rewinding>),
    /// The VM is to end, and its state is being set by a thread that waits for memory.
    Stuck,
}

/// Why the machine is not at the snapshot.
enum Failure {
    /// Nothing has changed.
    Refused(VmError),
    /// Nothing has changed; a machine that is built anew can do it.
    Anew,
    /// The machine cannot run on. It was on its way to the snapshot of this name.
    Lost(String, VmError),
}

impl<E: Into<VmError>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Refused(error.into())
    }
}

/// Says who decides about a rewind that has changed nothing yet: the thread that does it, by
/// beginning, or the one that waits for it, by withdrawing.
#[derive(Debug, Default)]
struct Turn(AtomicBool);

impl Turn {
    /// True for the first one who asks.
    fn take(&self) -> bool {
        !self.0.swap(true, Ordering::SeqCst)
    }
}

/// Takes a VM back to a snapshot in the machine that it has.
pub(super) fn rewind(
    vm: &Arc<RunningVm>,
    wanted: &WantedRewind,
    supervisor: &Arc<Supervisor>,
    agent: Option<&Arc<AgentLink>>,
) -> Outcome {
    let turn = Arc::new(Turn::default());
    let attempt = Attempt {
        vm: Arc::clone(vm),
        supervisor: Arc::clone(supervisor),
        request: wanted.request.clone(),
        agent: agent.map(Arc::clone),
        turn: Arc::clone(&turn),
        asker: wanted.asker.clone(),
    };
    let withdrawn = AtomicBool::new(false);
    let give_up = || {
        let withdraw = vm.faults.is_stuck() && turn.take();
        withdrawn.fetch_or(withdraw, Ordering::SeqCst);
        withdraw || vm.faults.is_held_up() && supervisor.is_to_end()
    };
    let refuse = |error| {
        wanted.asker.clone().answer(Err(error));
        Outcome::Done
    };
    match vm.faults.unless(move || attempt.run(), give_up) {
        Err(error) => refuse(no_thread(error)),
        Ok(None) if withdrawn.load(Ordering::SeqCst) => refuse(vm.no_space()),
        Ok(None) => Outcome::Stuck,
        Ok(Some(Ok(()))) => Outcome::Done,
        Ok(Some(Err(Failure::Refused(error)))) => refuse(error),
        Ok(Some(Err(Failure::Anew))) => Outcome::Anew,
        Ok(Some(Err(Failure::Lost(snapshot, error)))) => {
            tracing::warn!("the machine is built anew, as the rewind in place failed: {error}");
            Outcome::Lost(Box::new(Rewinding {
                read: ReadSnapshot::read(vm.holder.pool(), supervisor.name(), &snapshot),
                spec: vm.spec.clone(),
                orders: wanted.request.agent_orders(),
                paused: vm.machine.is_held(Hold::Pause),
                asker: wanted.asker.clone().to(&snapshot),
            }))
        }
    }
}

/// A snapshot that the VM's holder pins, read and checked.
struct Target {
    look_at_disks: bool,
    entry: SnapshotEntry,
    saved: SavedVm,
    memory: RewindTo,
}

/// One rewind.
struct Attempt {
    vm: Arc<RunningVm>,
    supervisor: Arc<Supervisor>,
    request: RewindRequest,
    agent: Option<Arc<AgentLink>>,
    turn: Arc<Turn>,
    asker: Asker,
}

impl Attempt {
    fn run(self) -> Result<(), Failure> {
        let vm = &*self.vm;
        let mut operation = vm.operation_unless_stuck()?;
        vm.refuse_if_ending()?;
        let mut phases = Phases::begun_at(self.asker.asked());
        let target = phases.run("ReadSnapshot", || self.read(&operation))?;
        let (id, name) = (target.entry.id, target.entry.name.clone());
        let stopped = Instant::now();
        let changed = self.change(&mut operation, target, &mut phases);
        match changed {
            Ok(()) => {}
            Err(lost @ Failure::Lost(..)) => return Err(lost),
            Err(nothing_changed) => {
                self.go_on(&operation, &mut phases)?;
                self.unpin(&operation, id);
                return Err(nothing_changed);
            }
        }
        self.go_on(&operation, &mut phases)
            .map_err(|error| Failure::Lost(name.clone(), error))?;
        let resumed = Instant::now();
        phases.run("FreePins", || self.unpin_others(id));
        let went_on = match operation.quiesced {
            false => went_on_at(&vm.machine, &mut phases, stopped, resumed),
            true => resumed,
        };
        let report = RewindReport {
            vm: self.supervisor.name().to_owned(),
            snapshot: name,
            total_us: micros(self.asker.asked()),
            stopped_us: micros_of(went_on - stopped),
            paused: operation.quiesced,
            phases: phases.into_times(),
        };
        self.asker.answer(Ok(report));
        vm.engine.free_replaced();
        vm.cleaner.clean_later();
        Ok(())
    }

    /// Pins, reads and checks the snapshot. The guest runs.
    fn read(&self, operation: &Operation) -> Result<Target, Failure> {
        let (vm, pool) = (&*self.vm, self.vm.holder.pool());
        let (snapshot, stale_disks) = self.supervisor.wanted(vm, &self.request)?;
        // A holder of another kind would mark what is taken of the VM from there on.
        if pool.find(&snapshot)?.foreign != vm.holder.is_foreign() {
            return Err(Failure::Anew);
        }
        let (entry, frames) = match vm.holder.pin(&snapshot) {
            Err(nvvmm_snapshot::Error::TooManyPins { .. }) => return Err(Failure::Anew),
            pinned => pinned?,
        };
        let id = entry.id;
        self.check(entry, frames, !stale_disks, operation)
            .inspect_err(|_| self.unpin(operation, id))
    }

    fn check(
        &self,
        entry: SnapshotEntry,
        frames: FrameMap,
        look_at_disks: bool,
        operation: &Operation,
    ) -> Result<Target, Failure> {
        reading::check_kind(&entry)?;
        let saved = reading::read_state(self.vm.holder.pool(), &entry)?;
        self.vm.refuse_other_machine(&saved.spec, &entry.name)?;
        let base = operation.base.map(|id| self.vm.holder.frame_map(id));
        let base = base.transpose()?;
        let memory = RewindTo::new(frames, entry.frames_mapped, base.as_ref());
        Ok(Target {
            memory: memory.map_err(cow_error)?,
            look_at_disks,
            entry,
            saved,
        })
    }

    /// Has the guest stand still, and puts memory and machine back.
    fn change(
        &self,
        operation: &mut Operation,
        target: Target,
        phases: &mut Phases,
    ) -> Result<(), Failure> {
        let vm = &*self.vm;
        phases
            .run("PauseVcpus", || vm.machine.pause_vcpus(Hold::Operation))
            .map_err(machine_error)?;
        if !operation.quiesced {
            phases
                .run("QuiesceDevices", || vm.machine.quiesce_devices())
                .map_err(machine_error)?;
        }
        phases.run("CheckState", || self.check_standing(&target))?;
        if !self.turn.take() {
            return Err(vm.no_space().into());
        }
        // One commit for all of them, or nothing has changed.
        if disk::any_of_pool(vm.machine.disks()) {
            phases.run("PutBackDisks", || {
                disk::rewind(vm.machine.disks(), target.entry.id)
            })?;
        }
        // From here on the guest must not run on.
        let name = target.entry.name.clone();
        let lost = |error: VmError| Failure::Lost(name.clone(), error);
        operation.process.stop(&*vm.engine, &vm.holder);
        operation.shown.clear();
        phases
            .run("EndWindows", || vm.machine.take_windows_away())
            .map_err(|error| lost(machine_error(error)))?;
        let Target {
            entry,
            saved,
            memory,
            ..
        } = target;
        phases
            .run("PutBackMemory", || {
                vm.engine.rewind(memory, &*vm.machine).map_err(cow_error)?;
                // KVM writes its clock pages into memory.
                let room = ROOM_PER_VCPU * u32::from(vm.spec.vcpus);
                if vm.holder.reserve_up_to(0, room).is_err() {
                    vm.engine.free_replaced();
                }
                self.forget_dirty_log()
            })
            .map_err(lost)?;
        phases
            .run("SetState", || vm.machine.rewind(&saved.machine))
            .map_err(|error| lost(machine_error(error)))?;
        let orders = self.request.agent_orders();
        let told = (
            build::guest_clock(orders.time_of_day, &saved),
            build::guest_connections(orders, &saved),
        );
        self.note(operation, &entry, told, phases);
        match &self.agent {
            None => Ok(()),
            Some(agent) => {
                let restore = RestoreOptions::with_orders(&name, orders);
                let slept_ns = build::slept_ns(&saved, &entry);
                build::tell(agent, self.supervisor.name(), &restore, slept_ns).map_err(lost)?;
                self.supervisor.agent_is_open();
                Ok(())
            }
        }
    }

    /// Checks what can only be checked while the guest stands still.
    fn check_standing(&self, target: &Target) -> Result<(), Failure> {
        let vm = &*self.vm;
        if target.look_at_disks {
            vm.refuse_written_disks(&target.saved, &target.entry.name)?;
        }
        vm.machine
            .check_rewind(&target.saved.machine)
            .map_err(|error| {
                tracing::info!("the machine is built anew for this rewind: {error}");
                Failure::Anew
            })
    }

    /// For tests: the log begins with the rewind, as with a snapshot.
    fn forget_dirty_log(&self) -> Result<(), VmError> {
        let vm = &*self.vm;
        let slots = match vm.dirty_log && !vm.engine.needs_write_log() {
            true => vm.engine.ram().slots().len(),
            false => 0,
        };
        (0..slots)
            .try_for_each(|slot| vm.machine.take_slot(slot).map(drop))
            .map_err(|error| VmError::io("clear KVM's dirty log", &error))
    }

    /// Notes what the VM is now.
    fn note(
        &self,
        operation: &mut Operation,
        entry: &SnapshotEntry,
        (clock, connections): (GuestClock, Option<GuestConnections>),
        phases: &Phases,
    ) {
        let vm = &*self.vm;
        operation.base = Some(entry.id);
        vm.seen().taken.clear();
        let report = RestoreReport {
            snapshot: entry.name.clone(),
            vm: self.supervisor.name().to_owned(),
            phases: phases.times(),
            first_instruction_us: 0.0,
            frames_mapped: entry.frames_mapped,
            once: false,
            prefault: false,
            clock,
            connections,
            notes: Vec::new(),
        };
        let origin = VmOrigin::Snapshot {
            name: entry.name.clone(),
        };
        let restore = (self.asker.asked(), report);
        let episode = Episode::next(origin, restore, &*vm.engine, &vm.faults);
        vm.begin_episode(episode);
    }

    /// Lets the guest go on, if it ran before.
    fn go_on(&self, operation: &Operation, phases: &mut Phases) -> Result<(), VmError> {
        let machine = &self.vm.machine;
        let resumed = match operation.quiesced {
            true => Ok(()),
            false => phases.run("ResumeDevices", || machine.resume_devices()),
        };
        phases.run("ResumeVcpus", || machine.resume_vcpus(Hold::Operation));
        resumed.map_err(machine_error)
    }

    /// Ends the pin of a snapshot that the VM is not at.
    fn unpin(&self, operation: &Operation, id: SnapshotId) {
        if operation.base != Some(id)
            && let Err(error) = self.vm.holder.unpin(id)
        {
            tracing::warn!("a snapshot that this VM is not at stays pinned: {error}");
        }
    }

    /// Ends all other pins. One too many costs space until the VM ends, and is no reason to fail.
    fn unpin_others(&self, id: SnapshotId) {
        if let Err(error) = self.vm.holder.unpin_others(id) {
            tracing::warn!("what this VM was based on stays pinned: {error}");
        }
    }
}
