//! The VM process: builds the VM, answers for it, rebuilds it when the guest reboots, ends.

use std::{
    cell::OnceCell,
    os::unix::net::UnixStream,
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::{Duration, Instant},
};

use nvvmm_snapshot::{FaultPoint, Pool, fault_point};

use super::{
    ConsoleMode, Origin, RunPlan, VmError, VmExit,
    build::Builder,
    error::cow_error,
    process::{self, RestartFailed},
    running::RunningVm,
};
use crate::{
    agent::link::AgentLink,
    checkpoint::report::{AuditReport, SnapshotReport},
    control::{
        CaptureRequest, ControlError, ControlServer, ErrorKind, RestartRequest, SnapshotRequest, VmControl,
        VmOrigin, VmState, VmStatus,
    },
    cow::CowError,
    machine::MachineEvent,
    process::{CaptureReport, RestartReport},
};

/// Set (to anything) by tests: KVM's dirty log is switched on, so that `audit` can compare it with the engine.
const DIRTY_LOG_VARIABLE: &str = "NVVMM_TEST_DIRTY_LOG";
/// How often a start looks whether the guest has been entered.
const FIRST_ENTRY_POLL: Duration = Duration::from_micros(50);
/// How often an ended VM is looked at until nobody uses it any more.
const LET_GO_POLL: Duration = Duration::from_millis(1);

/// What `nvvmm ps` says of a VM that waits for space.
const NO_SPACE_NOTICE: &str =
    "the pool is full: a guest access waits for space (nvvmm rm, nvvmm pool grow, the end of another VM)";

/// Runs a VM until it ends. `on_ready` is called once, when the control socket answers and the guest runs (or is
/// built and paused, when that was asked for).
///
/// # Errors
/// Before `on_ready`: the VM could not be started. After it: the VM had to end.
pub fn run(plan: RunPlan, on_ready: &mut dyn FnMut(&VmStatus)) -> Result<VmExit, VmError> {
    let pool = Pool::open(&plan.pool)?;
    let supervisor = Arc::new(Supervisor::new(&plan));
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
        dirty_log: std::env::var_os(DIRTY_LOG_VARIABLE).is_some(),
        on_cow_failure,
    };
    let mut paused = plan.paused;
    let mut origin = plan.origin;
    let mut ready = false;
    let mut console = builder.console_streams()?;
    loop {
        let vm = Arc::new(builder.build(&origin, console)?);
        vm.start(paused)?;
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
        let ended = supervisor.wait(&vm);
        vm.digests.end();
        let spec = vm.spec.clone();
        let stopped = stop_machine(&vm, || ended.is_some() || supervisor.exit().is_some());
        supervisor.install(None);
        if !stopped {
            // A vCPU or device waits for memory that nobody will give it any more. It ends with the process, and so
            // what it uses must stay until then.
            std::mem::forget(vm);
            return ended
                .or_else(|| supervisor.exit().take())
                .unwrap_or_else(|| Err(cow_error(CowError::NoSpace)));
        }
        console = vm.machine.take_console();
        let_go(vm);
        match ended {
            Some(exit) => return exit,
            // The guest rebooted: the same machine from its kernel, with empty memory.
            None => (origin, paused) = (Origin::Boot(spec), false),
        }
    }
}

/// Ends the machine's threads, before anything that they use. False when one of them is stuck in an access to guest
/// memory and the VM `must_end`; a guest that reboots waits for space as one that runs does.
fn stop_machine(vm: &Arc<RunningVm>, must_end: impl Fn() -> bool) -> bool {
    let machine = Arc::clone(vm);
    let give_up = || vm.faults.is_stuck() && must_end();
    vm.faults
        .unless(move || machine.machine.stop(), give_up)
        .is_some()
}

/// Waits for whoever still does something to the VM, whose threads have ended: its place is to be taken by the next.
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

/// What the control socket and the failure paths talk to, whichever VM is there at the moment.
struct Supervisor {
    facts: Facts,
    vm: RwLock<Option<Arc<RunningVm>>>,
    exit: Mutex<Option<Result<VmExit, VmError>>>,
}

/// What does not change while the process lives.
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
    fn new(plan: &RunPlan) -> Self {
        Self {
            facts: Facts::of(plan),
            vm: RwLock::new(None),
            exit: Mutex::new(None),
        }
    }

    fn install(&self, vm: Option<Arc<RunningVm>>) {
        *self.vm.write().unwrap_or_else(PoisonError::into_inner) = vm;
    }

    fn vm(&self) -> Option<Arc<RunningVm>> {
        self.vm.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn running(&self) -> Result<Arc<RunningVm>, ControlError> {
        self.vm().ok_or_else(|| {
            VmError::new(ErrorKind::Refused, "the VM is being built").with_remedy("try again in a moment")
        })
    }

    fn exit(&self) -> std::sync::MutexGuard<'_, Option<Result<VmExit, VmError>>> {
        self.exit.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The VM is to end this way, unless something else ended it before.
    fn end(&self, exit: Result<VmExit, VmError>) {
        self.exit().get_or_insert(exit);
        if let Some(vm) = self.vm() {
            vm.machine.interrupter().interrupt();
        }
    }

    /// Blocks until the VM ends (how), or is to be built anew (`None`).
    fn wait(&self, vm: &RunningVm) -> Option<Result<VmExit, VmError>> {
        loop {
            if let Some(exit) = self.exit().take() {
                return Some(exit);
            }
            match vm.machine.wait_event() {
                MachineEvent::PoweredOff => return Some(Ok(VmExit::PoweredOff)),
                MachineEvent::Reset => return None,
                MachineEvent::Failed { vcpu, what } => {
                    return Some(Err(VmError::failed(format!("vCPU {vcpu} cannot go on: {what}"))));
                }
                // Perhaps the guest has let go of a window.
                MachineEvent::Interrupted => {
                    if let Err(error) = vm.machine.end_windows_let_go() {
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
        };
        if let Some(vm) = self.vm() {
            status.vcpus = vm.spec.vcpus;
            status.memory_bytes = vm.spec.memory_bytes;
            status.origin = vm.origin.clone();
            status.disks.clone_from(&vm.spec.disks);
            let counters = vm.engine.counters_now(&*vm.machine);
            status.ram = counters.unwrap_or_else(|_| vm.engine.counters());
            status.restore = vm.restore_report();
            status.notice = vm.faults.is_starved().then(|| NO_SPACE_NOTICE.to_owned());
            status.snapshots_taken.clone_from(&vm.seen().taken);
            status.state = vm.state();
        }
        status
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

    fn capture(&self, request: &CaptureRequest, agent: &UnixStream) -> Result<CaptureReport, ControlError> {
        process::capture(Arc::downgrade(&self.running()?), request, agent)
    }

    fn restart(&self, request: &RestartRequest, agent: &UnixStream) -> Result<RestartReport, ControlError> {
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
