//! The VM as others reach it, whichever machine it has at the moment.

use std::{
    os::unix::net::UnixStream,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use nvvmm_snapshot::{Pool, SizeText};

use super::{
    VmError, VmExit, VmOptions, VmSource,
    arriving::Arrivals,
    error::machine_error,
    life::{Ended, Waited},
    process::{self, RestartFailed},
    reboots::Reboots,
    rewind::WantedRewind,
    running::RunningVm,
    standby::{Standby, Taken},
};
use crate::{
    agent::link::AgentLink,
    checkpoint::report::{
        AuditReport, GuestClock, GuestConnections, RestoreReport, SnapshotReport,
    },
    control::{
        CaptureRequest, MemoryStatus, ReplicaStatus, ResizedDisk, RestartRequest, RewindRequest,
        RingRequest, SandboxStatus, SnapshotRequest, TakeRequest, ToldReplica, VmControl, VmOrigin,
        VmState, VmStatus, arriving::ArrivingStatus,
    },
    cow::Lack,
    error::ErrorKind,
    machine::MachineEvent,
    process::{CaptureReport, RestartReport},
    ring::{OwnCheckpoints, RewindReport, Ring, RingStatus},
    stats::VmStats,
    sys::peer::Caller,
};

/// Words of an agent that could not set the guest's clock (`guest/agent/src/notice.rs`).
const CLOCK_FAILURE: &str = "cannot set the time of day";

/// Notice of `nvvmm ps` for a VM that waits for space.
fn no_space_notice(lack: Lack, pool: &Pool) -> String {
    let medium = match lack {
        Lack::Medium => format!(" ({}, {})", pool.medium(), pool.path().display()),
        Lack::Blocks | Lack::Kernel | Lack::Store => String::new(),
    };
    format!("{lack}{medium}: the guest waits; {}", lack.remedy())
}

/// Notice of `nvvmm ps` for a VM whose memory arrives.
fn arriving_notice(arriving: &ArrivingStatus) -> String {
    let lacking = SizeText::of(arriving.lacking_bytes);
    match &arriving.away {
        None => format!("its memory arrives: {lacking} of it are to come"),
        Some(why) => format!(
            "{lacking} of its memory do not arrive for now: {why}; it is tried again, and \
             'nvvmm pull URL/NAME --for VM' fetches it if nobody does"
        ),
    }
}

/// The VM for the control socket and the failure paths, whichever machine it has at the moment.
pub(super) struct Supervisor {
    me: Weak<Supervisor>,
    facts: Facts,
    vm: RwLock<Option<Arc<RunningVm>>>,
    exit: Mutex<Option<Result<VmExit, VmError>>>,
    /// The VM is being stopped, and maybe another built in its place.
    changing: AtomicBool,
    /// The VM has ended.
    ended: AtomicBool,
    rewind: Mutex<Option<Box<WantedRewind>>>,
    ring: Mutex<Option<Ring>>,
    replica: Mutex<Option<ToldReplica>>,
    /// The checkpoints of this VM's name that are its own.
    pub(super) own: Mutex<OwnCheckpoints>,
    /// Outcomes that depend on the guest's agent.
    outcomes: Mutex<Outcomes>,
    /// The link to the guest's agent.
    agent: OnceLock<Weak<AgentLink>>,
    reboots: Reboots,
    /// Memory that is to arrive.
    pub(super) arrivals: Arrivals,
    /// Standing by, before somebody takes the VM.
    pub(super) standby: Standby,
}

/// Outcomes for a restored guest, once its agent has answered.
#[derive(Clone, Copy, Default)]
struct Outcomes {
    clock: Option<GuestClock>,
    connections: Option<GuestConnections>,
}

impl Outcomes {
    /// Puts what is known into a report of the restore.
    fn put_into(self, report: &mut RestoreReport) {
        if let (Some(clock), true) = (self.clock, report.clock != GuestClock::Kept) {
            report.clock = clock;
        }
        if let Some(connections) = &mut report.connections {
            *connections = self.connections.unwrap_or(*connections);
        }
    }
}

/// Facts that do not change while the VM lives.
struct Facts {
    name: String,
    pool: std::path::PathBuf,
    console: Option<std::path::PathBuf>,
    started: Instant,
    vcpus: u8,
    memory_bytes: u64,
    origin: VmOrigin,
    sandbox: Option<SandboxStatus>,
    /// Facts that count instead, once a VM that stood by was taken.
    taken: OnceLock<Taken>,
}

impl Facts {
    fn of(pool: &Pool, source: &VmSource, options: &VmOptions) -> Self {
        let (vcpus, memory_bytes, origin) = match source {
            VmSource::Boot(spec) => (
                spec.vcpus,
                spec.memory_bytes,
                VmOrigin::Boot {
                    kernel: spec.kernel.clone().unwrap_or_default(),
                },
            ),
            VmSource::Restore(restore) => (
                0,
                0,
                VmOrigin::Snapshot {
                    name: restore.snapshot.clone(),
                },
            ),
        };
        let console = options.console.socket.as_ref();
        Self {
            name: options.name.clone(),
            pool: pool.path().to_owned(),
            console: console.map(|socket| socket.path().to_owned()),
            started: Instant::now(),
            vcpus,
            memory_bytes,
            origin,
            sandbox: options.sandbox,
            taken: OnceLock::new(),
        }
    }

    fn name(&self) -> &str {
        self.taken.get().map_or(&self.name, |taken| &taken.name)
    }

    fn console(&self) -> Option<&std::path::PathBuf> {
        let own = self.console.as_ref();
        self.taken.get().map_or(own, |taken| taken.console.as_ref())
    }

    fn uptime_ms(&self) -> u64 {
        let since = self.taken.get().map_or(self.started, |taken| taken.at);
        since.elapsed().as_millis() as u64
    }
}

impl Supervisor {
    /// Prepares for a VM that is about to be built.
    pub fn new(pool: &Pool, source: &VmSource, options: &VmOptions) -> Arc<Self> {
        Arc::new_cyclic(|me| Self {
            me: Weak::clone(me),
            facts: Facts::of(pool, source, options),
            vm: RwLock::new(None),
            exit: Mutex::new(None),
            changing: AtomicBool::new(true),
            ended: AtomicBool::new(false),
            rewind: Mutex::new(None),
            ring: Mutex::new(None),
            replica: Mutex::default(),
            own: Mutex::default(),
            outcomes: Mutex::default(),
            agent: OnceLock::new(),
            reboots: Reboots::of(options),
            arrivals: Arrivals::default(),
            standby: Standby::default(),
        })
    }

    /// Itself, for threads that it starts.
    pub fn me(&self) -> &Weak<Supervisor> {
        &self.me
    }

    /// The VM's name.
    pub fn name(&self) -> &str {
        self.facts.name()
    }

    /// Gives the VM its name, once.
    pub fn set_taken(&self, taken: Taken) {
        let _ = self.facts.taken.set(taken);
    }

    /// Source of the VM when it was started.
    pub fn origin(&self) -> &VmOrigin {
        &self.facts.origin
    }

    /// Has this machine be the VM's from now on, or none.
    pub fn install(&self, vm: Option<Arc<RunningVm>>) {
        let changing = vm.is_none();
        *self.vm.write().unwrap_or_else(PoisonError::into_inner) = vm;
        self.changing.store(changing, Ordering::SeqCst);
    }

    /// There is no VM any more, and no more will be.
    pub fn set_ended(&self) {
        self.ended.store(true, Ordering::SeqCst);
        self.standby.end();
    }

    /// The machine is about to be stopped.
    pub fn begin_change(&self) {
        self.changing.store(true, Ordering::SeqCst);
    }

    /// The VM is being stopped, or built.
    pub fn is_changing(&self) -> bool {
        self.changing.load(Ordering::SeqCst)
    }

    /// The ring of checkpoints, if one was ever begun.
    pub fn ring(&self) -> MutexGuard<'_, Option<Ring>> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The replicas, as they were told of last.
    fn replica(&self) -> MutexGuard<'_, Option<ToldReplica>> {
        self.replica.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the VM rewound, by the thread that builds it.
    pub fn ask_for_rewind(&self, wanted: WantedRewind) -> Result<(), VmError> {
        let mut rewind = self.rewind.lock().unwrap_or_else(PoisonError::into_inner);
        if rewind.is_some() || self.is_changing() {
            return Err(VmError::new(ErrorKind::Refused, "the VM is being rebuilt")
                .with_remedy("try again in a moment"));
        }
        *rewind = Some(Box::new(wanted));
        Ok(())
    }

    /// The rewind that was asked for, if one was.
    pub fn asked_rewind(&self) -> Option<Box<WantedRewind>> {
        self.rewind
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }

    pub fn vm(&self) -> Option<Arc<RunningVm>> {
        self.vm
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub fn running(&self) -> Result<Arc<RunningVm>, VmError> {
        self.vm().ok_or_else(|| {
            if self.ended.load(Ordering::SeqCst) {
                return VmError::new(ErrorKind::Refused, "the VM has ended");
            }
            VmError::new(ErrorKind::Refused, "the VM is being built")
                .with_remedy("try again in a moment")
        })
    }

    fn exit(&self) -> MutexGuard<'_, Option<Result<VmExit, VmError>>> {
        self.exit.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The VM is to end.
    pub fn is_to_end(&self) -> bool {
        self.exit().is_some()
    }

    /// The end that was asked for, if one was.
    pub fn take_exit(&self) -> Option<Result<VmExit, VmError>> {
        self.exit().take()
    }

    /// The VM is to end this way, unless something else ended it before.
    pub fn end(&self, exit: Result<VmExit, VmError>) {
        self.exit().get_or_insert(exit);
        self.standby.wake();
        if let Some(vm) = self.vm() {
            vm.machine.interrupter().interrupt();
        }
    }

    /// Has the status tell if an agent of the guest is there.
    pub fn look_for_agent(&self, agent: Option<&Arc<AgentLink>>) {
        let _ = self
            .agent
            .set(agent.map(Arc::downgrade).unwrap_or_default());
    }

    fn has_agent(&self) -> bool {
        let agent = self.agent.get().and_then(Weak::upgrade);
        agent.is_some_and(|agent| agent.has_agent())
    }

    /// The guest's agent has done all that a restore needs, but for these failures.
    pub fn settled(&self, failures: &[String]) {
        let clock = match failures.iter().any(|text| text.contains(CLOCK_FAILURE)) {
            true => GuestClock::Failed,
            false => GuestClock::Set,
        };
        self.outcomes().clock = Some(clock);
    }

    /// The guest's agent knows that connections are to stay, or is too old for that.
    pub fn told_of_connections(&self, kept: bool) {
        self.outcomes().connections = Some(match kept {
            true => GuestConnections::Kept,
            false => GuestConnections::Ended,
        });
    }

    fn outcomes(&self) -> MutexGuard<'_, Outcomes> {
        self.outcomes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The VM was rewound: its agent is to answer anew.
    pub fn agent_is_open(&self) {
        *self.outcomes() = Outcomes::default();
    }

    /// The report of the restore, with what is known by now.
    fn restore_report(&self, vm: &RunningVm) -> Option<RestoreReport> {
        let mut report = vm.restore_report()?;
        let outcomes = *self.outcomes();
        outcomes.put_into(&mut report);
        Some(report)
    }

    /// The guest's agent may still do what somebody waits for.
    pub fn waits_for_agent(&self) -> bool {
        let restore = self.vm().and_then(|vm| self.restore_report(&vm));
        restore.is_some_and(|restore| restore.awaits_agent())
            && !self.is_changing()
            && !self.is_to_end()
    }

    /// The end of a machine that its guest resets: a reboot where that is wanted and possible,
    /// `exit` where it is not.
    fn reset(&self, exit: VmExit, can_reboot: bool) -> Ended {
        if !can_reboot || self.reboots.end_the_vm() {
            return Ended::Exit(Ok(exit));
        }
        self.reboots.add(Instant::now());
        Ended::Reboot
    }

    /// Blocks until the machine ends, or the VM is to be rewound.
    pub fn wait(&self, vm: &RunningVm) -> Waited {
        loop {
            if let Some(exit) = self.exit().take() {
                return Waited::End(Ended::Exit(exit));
            }
            if let Some(wanted) = self.asked_rewind() {
                return Waited::Rewind(wanted);
            }
            match vm.machine.wait_event() {
                MachineEvent::PoweredOff => {
                    return Waited::End(Ended::Exit(Ok(VmExit::PoweredOff)));
                }
                MachineEvent::Reset => {
                    return Waited::End(self.reset(VmExit::Rebooted, true));
                }
                MachineEvent::TripleFault { vcpu, what, resets } => {
                    let what = format!("vCPU {vcpu} cannot go on: {what}");
                    tracing::warn!("{what}");
                    return Waited::End(self.reset(VmExit::TripleFault { what }, resets));
                }
                MachineEvent::Failed { vcpu, what } => {
                    let error = VmError::failed(format!("vCPU {vcpu} cannot go on: {what}"));
                    return Waited::End(Ended::Exit(Err(error)));
                }
                // Perhaps the guest has let go of a window.
                MachineEvent::Interrupted => {
                    if let Err(error) = vm.machine.end_released_windows() {
                        tracing::error!(%error, "a window that the guest has let go of stays");
                    }
                }
            }
        }
    }
}

impl VmControl for Supervisor {
    fn status(&self) -> VmStatus {
        let facts = &self.facts;
        let mut status = VmStatus {
            name: facts.name().to_owned(),
            pid: std::process::id(),
            state: match self.ended.load(Ordering::SeqCst) {
                true => VmState::Stopping,
                false => VmState::Booting,
            },
            notice: facts.sandbox.and_then(SandboxStatus::notice),
            waits_for_pid: None,
            vcpus: facts.vcpus,
            memory_bytes: facts.memory_bytes,
            pool: facts.pool.clone(),
            origin: facts.origin.clone(),
            disks: Vec::new(),
            nets: Vec::new(),
            uptime_ms: facts.uptime_ms(),
            console: facts.console().cloned(),
            ram: Default::default(),
            restore: None,
            snapshots_taken: Vec::new(),
            ring: self.ring().as_ref().map(Ring::status),
            replica: self.replica().as_ref().map(ToldReplica::status),
            arriving: None,
            sandbox: facts.sandbox,
            reboot_count: self.reboots.count(),
            has_agent: self.has_agent(),
        };
        if let Some(notice) = self.reboots.notice(Instant::now()) {
            status.notice = Some(notice);
        }
        if let Some((vcpus, memory_bytes)) = self.standby.machine() {
            (status.vcpus, status.memory_bytes) = (vcpus, memory_bytes);
            status.state = VmState::Spare;
        }
        if let Some(vm) = self.vm() {
            status.vcpus = vm.spec.vcpus;
            status.memory_bytes = vm.spec.memory_bytes;
            status.origin = vm.episode().origin.clone();
            status.disks = vm.disk_statuses();
            status.nets = vm.net_statuses();
            status.notice = vm.lost_network().or(status.notice);
            status.ram = vm.ram_counters();
            status.restore = self.restore_report(&vm);
            status.arriving = vm.arriving_status();
            if let Some(lack) = vm.faults.starved_of().filter(|lack| *lack != Lack::Store) {
                status.notice = Some(no_space_notice(lack, vm.holder.pool()));
            } else if let Some(arriving) = &status.arriving {
                status.notice = Some(arriving_notice(arriving));
            } else if let Some(notice) = &vm.reboot_notice {
                status.notice = Some(notice.clone());
            }
            if let Err(error) = vm.holder.pool().require_name() {
                status.notice = Some(error.to_string());
            }
            vm.tell_lock_wait(&mut status);
            status.snapshots_taken.clone_from(&vm.seen().taken);
            status.state = vm.state();
        }
        status
    }

    fn stats(&self) -> Result<VmStats, VmError> {
        let facts = &self.facts;
        let replica = self.replica().as_ref().map(ToldReplica::status);
        let lag = replica.and_then(|replica| replica.lag());
        Ok(VmStats {
            replica_lag_ms: lag.map(|lag| lag.as_millis() as u64),
            ..self.running()?.stats(facts.name(), facts.uptime_ms())
        })
    }

    fn replicated(&self, status: ReplicaStatus) {
        *self.replica() = Some(ToldReplica::now(status));
    }

    fn pause(&self) -> Result<(), VmError> {
        self.running()?.pause()
    }

    fn resume(&self) -> Result<(), VmError> {
        self.running()?.resume()
    }

    fn power_button(&self, press: bool) -> Result<bool, VmError> {
        let vm = self.running()?;
        if press {
            vm.machine.press_power_button().map_err(machine_error)?;
        }
        Ok(vm.machine.is_power_button_unread())
    }

    fn stop(&self) -> Result<(), VmError> {
        self.end(Ok(VmExit::Stopped));
        Ok(())
    }

    fn measure_disks(&self) -> Result<Vec<ResizedDisk>, VmError> {
        self.running()?.measure_disks()
    }

    fn memory(&self, target_bytes: Option<u64>) -> Result<MemoryStatus, VmError> {
        self.running()?.memory(target_bytes)
    }

    fn resize_disk(&self, name: &str, size_bytes: u64) -> Result<Vec<ResizedDisk>, VmError> {
        self.running()?.resize_disk(name, size_bytes)
    }

    fn audit(&self) -> Result<AuditReport, VmError> {
        self.running()?.audit()
    }

    fn start_ring(&self, request: &RingRequest) -> Result<RingStatus, VmError> {
        Supervisor::start_ring(self, request)
    }

    fn stop_ring(&self) -> Result<RingStatus, VmError> {
        Supervisor::stop_ring(self)
    }

    fn rewind(&self, request: &RewindRequest) -> Result<RewindReport, VmError> {
        Supervisor::rewind(self, request)
    }

    fn capture(
        &self,
        request: &CaptureRequest,
        agent: &UnixStream,
    ) -> Result<CaptureReport, VmError> {
        process::capture(Arc::downgrade(&self.running()?), request, agent)
    }

    fn restart(
        &self,
        request: &RestartRequest,
        agent: &UnixStream,
    ) -> Result<RestartReport, VmError> {
        let vm = Arc::downgrade(&self.running()?);
        process::restart(vm, self.name(), request, agent).map_err(|failed| match failed {
            RestartFailed::Refused(error) => error,
            RestartFailed::VmIsLost(error) => {
                self.end(Err(error.clone()));
                error
            }
        })
    }

    fn arrive(&self, fetcher: UnixStream) -> Result<(), VmError> {
        self.arrivals.attach(fetcher)
    }

    fn take_over(&self, request: &TakeRequest) -> Result<VmStatus, VmError> {
        self.take(request)
    }

    fn snapshot(&self, request: &SnapshotRequest) -> Result<SnapshotReport, VmError> {
        self.snapshot_for(request, &Caller::default())
    }

    fn snapshot_for(
        &self,
        request: &SnapshotRequest,
        caller: &Caller,
    ) -> Result<SnapshotReport, VmError> {
        let report = self.running()?.snapshot_for(request, caller)?;
        if request.stop {
            self.end(Ok(VmExit::Snapshotted {
                snapshot: report.name.clone(),
            }));
        }
        Ok(report)
    }
}
