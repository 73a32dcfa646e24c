//! The VM process: builds the VM, answers for it, rebuilds it when the guest reboots, ends.

use std::{
    cell::OnceCell,
    os::unix::net::UnixStream,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use nvvmm_devices::ConsoleStreams;
use nvvmm_snapshot::{FaultPoint, Pool, fault_point};

use super::{
    ConsoleMode, Origin, RunPlan, VmError, VmExit,
    build::Builder,
    error::cow_error,
    process::{self, RestartFailed},
    rewind::{Asker, Rewinding},
    running::RunningVm,
};
use crate::{
    agent::link::AgentLink,
    checkpoint::report::{AuditReport, SnapshotReport},
    control::{
        CaptureRequest, ControlError, ControlServer, ErrorKind, RestartRequest, RewindRequest,
        RingRequest, SnapshotRequest, VmControl, VmOrigin, VmState, VmStatus,
    },
    cow::{CowError, Techniques},
    machine::MachineEvent,
    process::{CaptureReport, RestartReport},
    ring::{RewindReport, Ring, RingStatus},
    stats::VmStats,
};

/// Switches KVM's dirty log on, so that `audit` can compare it with the engine. Only builds with
/// debug assertions read it; tests set it, to anything.
const DIRTY_LOG_VARIABLE: &str = "NVVMM_TEST_DIRTY_LOG";
/// How often a start looks whether the guest has been entered.
const FIRST_ENTRY_POLL: Duration = Duration::from_micros(50);
/// How often an ended VM is looked at until nobody uses it any more.
const LET_GO_POLL: Duration = Duration::from_millis(1);

/// Notice of `nvvmm ps` for a VM that waits for space.
const NO_SPACE_NOTICE: &str = "the pool is full: the guest waits for space ('nvvmm rm', 'nvvmm \
                               pool grow', or the end of another VM)";

/// Runs a VM until it ends. `on_ready` is called once, when the control socket answers and the
/// guest runs (or is built and paused, when that was asked for).
///
/// # Errors
/// Before `on_ready`: the VM could not be started. After it: the VM had to end.
pub fn run(plan: RunPlan, on_ready: &mut dyn FnMut(&VmStatus)) -> Result<VmExit, VmError> {
    let pool = Pool::open(&plan.pool)?;
    let supervisor = Supervisor::new(&plan);
    let _server = ControlServer::start(
        &plan.runtime.control,
        Arc::clone(&supervisor) as Arc<dyn VmControl>,
    )?;
    let on_cow_failure = {
        let supervisor = Arc::clone(&supervisor);
        Arc::new(move |error| supervisor.end(Err(cow_error(error))))
    };
    let agent = AgentLink::start(&plan.runtime.agent)
        .map_err(|e| VmError::io("make the socket for the guest's agent", &e))?;
    let builder = Builder {
        name: &plan.name,
        pool: &pool,
        console: &plan.runtime.console,
        vsock: &plan.runtime.vsock,
        vsock_socket: OnceCell::new(),
        agent: &agent,
        stdio: match &plan.console {
            ConsoleMode::Stdio { input } => Some(input),
            ConsoleMode::SocketOnly => None,
        },
        dirty_log: cfg!(debug_assertions) && std::env::var_os(DIRTY_LOG_VARIABLE).is_some(),
        techniques: Techniques::from_environment()
            .map_err(|cause| VmError::new(ErrorKind::Usage, cause))?,
        on_cow_failure,
    };
    let mut paused = plan.paused;
    let mut next = Next::Start(plan.origin);
    let mut ready = false;
    let mut console = builder.console_streams()?;
    loop {
        let (vm, asker) = next.build(&builder, console, paused)?;
        supervisor.install(Some(Arc::clone(&vm)));
        let of_agent = Arc::downgrade(&vm);
        agent.on_idle(move |frames| {
            if let Some(vm) = of_agent.upgrade() {
                vm.set_idle(frames);
            }
        });
        if !ready {
            wait_for_entry(&vm, paused);
            fault_point(FaultPoint::RestoreEntered);
            on_ready(&supervisor.status());
            ready = true;
        }
        if let Some(asker) = asker {
            wait_for_entry(&vm, paused);
            asker.done(&plan.name, paused);
        }
        let mut ended = supervisor.wait(&vm);
        supervisor.changing.store(true, Ordering::SeqCst);
        if let Ended::Rewind(rewinding) = &mut ended {
            rewinding.asker.stopping();
        }
        vm.digests.end();
        let spec = vm.spec.clone();
        let must_end = matches!(ended, Ended::Exit(_));
        if must_end {
            // Whoever waits for a rewind is told that there is none.
            drop(supervisor.asked_rewind());
        }
        let stopped = stop_machine(&vm, || must_end || supervisor.exit().is_some());
        supervisor.install(None);
        if !stopped {
            // A vCPU or device waits for memory that nobody will give it any more. It ends with the
            // process, and so what it uses must stay until then.
            std::mem::forget(vm);
            return match ended {
                Ended::Exit(exit) => exit,
                _ => supervisor
                    .exit()
                    .take()
                    .unwrap_or_else(|| Err(cow_error(CowError::NoSpace))),
            };
        }
        console = vm.machine.take_console();
        let_go(vm);
        (next, paused) = match ended {
            Ended::Exit(exit) => return exit,
            // The same machine from its kernel, with empty memory.
            Ended::Reboot => (Next::Start(Origin::Boot(spec)), false),
            Ended::Rewind(rewinding) => {
                let paused = rewinding.paused;
                (Next::Rewind(rewinding), paused)
            }
        };
    }
}

/// How a machine came to its end.
enum Ended {
    /// With the VM.
    Exit(Result<VmExit, VmError>),
    /// The guest reboots.
    Reboot,
    /// The VM goes back to a snapshot.
    Rewind(Box<Rewinding>),
}

/// Where the next machine comes from.
enum Next {
    Start(Origin),
    Rewind(Box<Rewinding>),
}

impl Next {
    /// Builds and starts it; and who waits for that.
    fn build(
        self,
        builder: &Builder<'_>,
        console: ConsoleStreams,
        paused: bool,
    ) -> Result<(Arc<RunningVm>, Option<Asker>), VmError> {
        let started = |vm: RunningVm| {
            let vm = Arc::new(vm);
            vm.start(paused).map(|()| vm)
        };
        match self {
            Next::Start(origin) => Ok((builder.build(&origin, console).and_then(started)?, None)),
            Next::Rewind(rewinding) => {
                let Rewinding {
                    read, disks, asker, ..
                } = *rewinding;
                match builder.build_back(read, &disks, console).and_then(started) {
                    Ok(vm) => Ok((vm, Some(asker))),
                    Err(error) => Err(asker.failed(builder.name, &error)),
                }
            }
        }
    }
}

/// Ends the machine's threads, before anything that they use. False when one of them is stuck in an
/// access to guest memory and the VM `must_end`; a guest that reboots waits for space as one that
/// runs does.
fn stop_machine(vm: &Arc<RunningVm>, must_end: impl Fn() -> bool) -> bool {
    let machine = Arc::clone(vm);
    let give_up = || vm.faults.is_stuck() && must_end();
    vm.faults
        .unless(move || machine.machine.stop(), give_up)
        .is_some()
}

/// Waits for whoever still does something to the VM, whose threads have ended: its place is to be
/// taken by the next.
fn let_go(vm: Arc<RunningVm>) {
    while Arc::strong_count(&vm) > 1 {
        std::thread::sleep(LET_GO_POLL);
    }
}

fn wait_for_entry(vm: &RunningVm, paused: bool) {
    while !paused && vm.machine.first_entry().is_none() && !vm.faults.is_stuck() {
        std::thread::sleep(FIRST_ENTRY_POLL);
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
    rewind: Mutex<Option<Box<Rewinding>>>,
    ring: Mutex<Option<Ring>>,
}

/// Facts that do not change while the VM lives.
struct Facts {
    name: String,
    pool: std::path::PathBuf,
    console: std::path::PathBuf,
    started: Instant,
    vcpus: u8,
    memory_bytes: u64,
    origin: VmOrigin,
}

impl Facts {
    fn of(plan: &RunPlan) -> Self {
        let (vcpus, memory_bytes, origin) = match &plan.origin {
            Origin::Boot(spec) => (
                spec.vcpus,
                spec.memory_bytes,
                VmOrigin::Boot {
                    kernel: spec.kernel.clone(),
                },
            ),
            Origin::Restore { snapshot, .. } => (
                0,
                0,
                VmOrigin::Snapshot {
                    name: snapshot.clone(),
                },
            ),
        };
        Self {
            name: plan.name.clone(),
            pool: plan.pool.clone(),
            console: plan.runtime.console.clone(),
            started: Instant::now(),
            vcpus,
            memory_bytes,
            origin,
        }
    }
}

impl Supervisor {
    fn new(plan: &RunPlan) -> Arc<Self> {
        Arc::new_cyclic(|me| Self {
            me: Weak::clone(me),
            facts: Facts::of(plan),
            vm: RwLock::new(None),
            exit: Mutex::new(None),
            changing: AtomicBool::new(true),
            rewind: Mutex::new(None),
            ring: Mutex::new(None),
        })
    }

    /// Itself, for threads that it starts.
    pub fn me(&self) -> &Weak<Supervisor> {
        &self.me
    }

    /// The VM's name.
    pub fn name(&self) -> &str {
        &self.facts.name
    }

    fn install(&self, vm: Option<Arc<RunningVm>>) {
        let changing = vm.is_none();
        *self.vm.write().unwrap_or_else(PoisonError::into_inner) = vm;
        self.changing.store(changing, Ordering::SeqCst);
    }

    /// The VM is being stopped, or built.
    pub fn is_changing(&self) -> bool {
        self.changing.load(Ordering::SeqCst)
    }

    /// The ring of checkpoints, if one was ever begun.
    pub fn ring(&self) -> MutexGuard<'_, Option<Ring>> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the VM rewound, by the thread that builds it.
    pub fn ask_for_rewind(&self, rewinding: Rewinding) -> Result<(), ControlError> {
        let mut rewind = self.rewind.lock().unwrap_or_else(PoisonError::into_inner);
        if rewind.is_some() || self.is_changing() {
            return Err(VmError::new(ErrorKind::Refused, "the VM is being rebuilt")
                .with_remedy("try again in a moment"));
        }
        *rewind = Some(Box::new(rewinding));
        Ok(())
    }

    fn asked_rewind(&self) -> Option<Box<Rewinding>> {
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

    pub fn running(&self) -> Result<Arc<RunningVm>, ControlError> {
        self.vm().ok_or_else(|| {
            VmError::new(ErrorKind::Refused, "the VM is being built")
                .with_remedy("try again in a moment")
        })
    }

    fn exit(&self) -> MutexGuard<'_, Option<Result<VmExit, VmError>>> {
        self.exit.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The VM is to end this way, unless something else ended it before.
    fn end(&self, exit: Result<VmExit, VmError>) {
        self.exit().get_or_insert(exit);
        if let Some(vm) = self.vm() {
            vm.machine.interrupter().interrupt();
        }
    }

    /// Blocks until the VM ends, or is to be built anew.
    fn wait(&self, vm: &RunningVm) -> Ended {
        loop {
            if let Some(exit) = self.exit().take() {
                return Ended::Exit(exit);
            }
            if let Some(rewinding) = self.asked_rewind() {
                return Ended::Rewind(rewinding);
            }
            match vm.machine.wait_event() {
                MachineEvent::PoweredOff => return Ended::Exit(Ok(VmExit::PoweredOff)),
                MachineEvent::Reset => return Ended::Reboot,
                MachineEvent::Failed { vcpu, what } => {
                    return Ended::Exit(Err(VmError::failed(format!(
                        "vCPU {vcpu} cannot go on: {what}"
                    ))));
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
            name: facts.name.clone(),
            pid: std::process::id(),
            state: VmState::Booting,
            notice: None,
            vcpus: facts.vcpus,
            memory_bytes: facts.memory_bytes,
            pool: facts.pool.clone(),
            origin: facts.origin.clone(),
            disks: Vec::new(),
            uptime_ms: facts.started.elapsed().as_millis() as u64,
            console: Some(facts.console.clone()),
            ram: Default::default(),
            restore: None,
            snapshots_taken: Vec::new(),
            ring: self.ring().as_ref().map(Ring::status),
        };
        if let Some(vm) = self.vm() {
            status.vcpus = vm.spec.vcpus;
            status.memory_bytes = vm.spec.memory_bytes;
            status.origin = vm.origin.clone();
            status.disks = vm.spec.disks().cloned().collect();
            let counters = vm.engine.counters_now(&*vm.machine);
            status.ram = counters.unwrap_or_else(|_| vm.engine.counters());
            status.restore = vm.restore_report();
            status.notice = vm.faults.is_starved().then(|| NO_SPACE_NOTICE.to_owned());
            status.snapshots_taken.clone_from(&vm.seen().taken);
            status.state = vm.state();
        }
        status
    }

    fn stats(&self) -> Result<VmStats, ControlError> {
        let uptime_ms = self.facts.started.elapsed().as_millis() as u64;
        Ok(self.running()?.stats(&self.facts.name, uptime_ms))
    }

    fn pause(&self) -> Result<(), ControlError> {
        self.running()?.pause()
    }

    fn resume(&self) -> Result<(), ControlError> {
        self.running()?.resume()
    }

    fn stop(&self) -> Result<(), ControlError> {
        self.end(Ok(VmExit::Stopped));
        Ok(())
    }

    fn audit(&self) -> Result<AuditReport, ControlError> {
        self.running()?.audit()
    }

    fn start_ring(&self, request: &RingRequest) -> Result<RingStatus, ControlError> {
        self.begin_ring(request)
    }

    fn stop_ring(&self) -> Result<RingStatus, ControlError> {
        self.end_ring()
    }

    fn rewind(&self, request: &RewindRequest) -> Result<RewindReport, ControlError> {
        self.go_back(request)
    }

    fn capture(
        &self,
        request: &CaptureRequest,
        agent: &UnixStream,
    ) -> Result<CaptureReport, ControlError> {
        process::capture(Arc::downgrade(&self.running()?), request, agent)
    }

    fn restart(
        &self,
        request: &RestartRequest,
        agent: &UnixStream,
    ) -> Result<RestartReport, ControlError> {
        let vm = Arc::downgrade(&self.running()?);
        process::restart(vm, &self.facts.name, request, agent).map_err(|failed| match failed {
            RestartFailed::Refused(error) => error,
            RestartFailed::VmIsLost(error) => {
                self.end(Err(error.clone()));
                error
            }
        })
    }

    fn snapshot(&self, request: &SnapshotRequest) -> Result<SnapshotReport, ControlError> {
        let report = self.running()?.snapshot(request)?;
        if request.stop {
            self.end(Ok(VmExit::Snapshotted {
                snapshot: report.name.clone(),
            }));
        }
        Ok(report)
    }
}
