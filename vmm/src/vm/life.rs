//! The life of a VM: its machine is built, runs, is built anew when the guest reboots or the VM is
//! rewound, and ends.

use std::{cell::OnceCell, path::Path, sync::Arc, time::Duration};

use nvvmm_devices::{ConsoleStreams, HostSocket};
use nvvmm_snapshot::{FaultPoint, Pool, fault_point};

use super::{
    VmError, VmExit, VmOptions, VmSource, VsockSockets,
    build::Builder,
    error::cow_error,
    given::check_paths,
    in_place::{self, Outcome},
    options::agent_path,
    rewind::{Asker, Rewinding, WantedRewind},
    running::RunningVm,
    supervisor::Supervisor,
};
use crate::{
    agent::link::AgentLink,
    control::{VmControl, VmStatus},
    cow::{CowError, Lack},
};

/// Interval of checks for the first entry into the guest.
const FIRST_ENTRY_POLL: Duration = Duration::from_micros(50);
/// Interval of checks for the last user of a machine that has ended.
const RELEASE_POLL: Duration = Duration::from_millis(1);

/// Runs a VM until it ends. Calls `on_ready` once, when the guest runs, or when the machine is
/// built and paused if that was asked for.
///
/// # Errors
/// Before `on_ready`: the VM could not be started. After it: the VM had to end.
pub(super) fn live(
    pool: &Arc<Pool>,
    supervisor: &Arc<Supervisor>,
    source: VmSource,
    options: VmOptions,
    on_ready: impl FnOnce(VmStatus),
) -> Result<VmExit, VmError> {
    check_paths(pool, &source, &options)?;
    let on_cow_failure = {
        let supervisor = Arc::clone(supervisor);
        Arc::new(move |error| supervisor.end(Err(cow_error(error))))
    };
    let (agent, vsock_socket) = guest_sockets(options.vsock_sockets, options.vsock.as_deref())?;
    let agent = agent.map(Arc::new);
    if let Some(agent) = &agent {
        let supervisor = supervisor.clone();
        agent.on_settled(move |failures| supervisor.settled(failures));
    }
    let builder = Builder {
        name: &options.name,
        pool,
        vsock: options.vsock.as_deref(),
        vsock_socket,
        files: options.files.map_or_else(OnceCell::new, OnceCell::from),
        agent: agent.as_deref(),
        dirty_log: options.dirty_log,
        techniques: options.techniques,
        on_cow_failure,
    };
    let mut paused = options.paused;
    let mut next = Next::Start(source);
    let mut on_ready = Some(on_ready);
    let mut console = options.console;
    loop {
        let (vm, asker) = next.build(&builder, console, paused)?;
        supervisor.install(Some(Arc::clone(&vm)));
        if let Some(agent) = &agent {
            hear_of_idle_frames(agent, &vm);
        }
        if let Some(on_ready) = on_ready.take() {
            wait_for_entry(&vm, paused);
            fault_point(FaultPoint::RestoreEntered);
            on_ready(supervisor.status());
        }
        if let Some(asker) = asker {
            wait_for_entry(&vm, paused);
            asker.done(builder.name, paused);
        }
        let mut ended = wait(supervisor, &vm, &builder, agent.as_ref());
        supervisor.begin_change();
        if let Ended::Stuck = ended {
            supervisor.install(None);
            return leave_running(vm, ended, supervisor);
        }
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
        let stopped = stop_machine(&vm, || must_end || supervisor.is_to_end());
        supervisor.install(None);
        if !stopped {
            return leave_running(vm, ended, supervisor);
        }
        console = vm.machine.take_console();
        release(vm);
        (next, paused) = match ended {
            Ended::Exit(exit) => {
                builder.files.get().iter().for_each(|files| files.settle());
                return exit;
            }
            Ended::Stuck => unreachable!("left above"),
            // The same machine from its kernel, with empty memory.
            Ended::Reboot => (Next::Start(VmSource::Boot(spec)), false),
            Ended::Rewind(rewinding) => {
                let paused = rewinding.paused;
                (Next::Rewind(rewinding), paused)
            }
        };
    }
}

/// The exit of a VM of which a vCPU or device waits for memory that nobody will give it any more.
/// It ends with the process, and so what it uses stays until then.
fn leave_running(
    vm: Arc<RunningVm>,
    ended: Ended,
    supervisor: &Supervisor,
) -> Result<VmExit, VmError> {
    let lack = vm.faults.starved_of().unwrap_or(Lack::Blocks);
    std::mem::forget(vm);
    match ended {
        Ended::Exit(exit) => exit,
        _ => supervisor
            .take_exit()
            .unwrap_or_else(|| Err(cow_error(CowError::NoSpace(lack)))),
    }
}

/// The link to the guest's agent, and the socket of the vsock device if it is bound already.
fn guest_sockets(
    bound: Option<VsockSockets>,
    path: Option<&Path>,
) -> Result<(Option<AgentLink>, OnceCell<Arc<HostSocket>>), VmError> {
    Ok(match bound {
        Some(sockets) => (
            Some(AgentLink::serve(sockets.agent).map_err(no_agent_link)?),
            OnceCell::from(Arc::new(sockets.guest)),
        ),
        None => (path.map(agent_link).transpose()?, OnceCell::new()),
    })
}

/// Listens for the guest's agent.
fn agent_link(vsock: &Path) -> Result<AgentLink, VmError> {
    AgentLink::start(&agent_path(vsock)).map_err(no_agent_link)
}

fn no_agent_link(error: std::io::Error) -> VmError {
    VmError::io("make the socket for the guest's agent", &error)
}

fn hear_of_idle_frames(agent: &AgentLink, vm: &Arc<RunningVm>) {
    let vm = Arc::downgrade(vm);
    agent.on_idle(move |frames| {
        if let Some(vm) = vm.upgrade() {
            vm.set_idle(frames);
        }
    });
}

/// End of a machine.
pub(super) enum Ended {
    /// The VM ends with the machine.
    Exit(Result<VmExit, VmError>),
    /// The guest reboots.
    Reboot,
    /// The VM goes back to a snapshot, in a machine that is built anew.
    Rewind(Box<Rewinding>),
    /// The VM ends, and a thread that uses it waits for memory.
    Stuck,
}

/// End of a wait for a machine.
pub(super) enum Waited {
    /// The machine ends.
    End(Ended),
    /// The VM is to go back to a snapshot.
    Rewind(Box<WantedRewind>),
}

/// Waits for the end of a machine. Takes it back to snapshots meanwhile.
fn wait(
    supervisor: &Supervisor,
    vm: &Arc<RunningVm>,
    builder: &Builder<'_>,
    agent: Option<&Arc<AgentLink>>,
) -> Ended {
    loop {
        let wanted = match supervisor.wait(vm) {
            Waited::End(ended) => return ended,
            Waited::Rewind(wanted) => wanted,
        };
        let way = match builder.techniques.rewind_in_place {
            true => in_place::rewind(vm, &wanted, builder.name, agent, || supervisor.is_to_end()),
            false => Outcome::Anew,
        };
        match way {
            Outcome::Done => {}
            Outcome::Lost(rewinding) => return Ended::Rewind(rewinding),
            Outcome::Stuck => return Ended::Stuck,
            Outcome::Anew => match vm.prepare_anew(builder.name, &wanted) {
                Ok(rewinding) => return Ended::Rewind(Box::new(rewinding)),
                Err(error) => wanted.asker.answer(Err(error)),
            },
        }
    }
}

/// Source of the next machine.
enum Next {
    Start(VmSource),
    Rewind(Box<Rewinding>),
}

impl Next {
    /// Builds and starts the machine. Returns the caller that waits for it, too.
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
            Next::Start(source) => Ok((builder.build(&source, console).and_then(started)?, None)),
            Next::Rewind(rewinding) => {
                let Rewinding {
                    read, spec, asker, ..
                } = *rewinding;
                let built = read.and_then(|read| builder.build_back(read, spec, console));
                match built.and_then(started) {
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
    let give_up = || vm.faults.is_held_up() && must_end();
    vm.faults
        .end_unless(move || machine.machine.stop(), give_up)
        .is_some()
}

/// Waits for whoever still uses the VM, whose threads have ended, and drops it: the next VM takes
/// its place.
fn release(vm: Arc<RunningVm>) {
    while Arc::strong_count(&vm) > 1 {
        std::thread::sleep(RELEASE_POLL);
    }
}

fn wait_for_entry(vm: &RunningVm, paused: bool) {
    while !paused && vm.machine.first_entry().is_none() && !vm.faults.is_held_up() {
        std::thread::sleep(FIRST_ENTRY_POLL);
    }
}
