//! The life of a VM: its machine is built, runs, is built anew when the guest reboots or the VM is
//! rewound, and ends.

use std::{cell::OnceCell, path::Path, sync::Arc, time::Duration};

use nvvmm_devices::{ConsoleStreams, HostSocket};
use nvvmm_snapshot::{FaultPoint, Pool, fault_point};

use super::{
    VmError, VmExit, VmOptions, VmSource, VsockSockets,
    build::{Builder, Prepared},
    error::cow_error,
    given::check_paths,
    in_place::{self, Outcome},
    options::{TakenListener, agent_path},
    rewind::{Asker, Rewinding, WantedRewind},
    running::RunningVm,
    standby::StandingBy,
    supervisor::Supervisor,
};
use crate::{
    agent::link::AgentLink,
    checkpoint::Cleaner,
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
    let vsock = options.vsock.as_deref();
    let (agent, vsock_socket) = guest_sockets(options.vsock_sockets, vsock, supervisor)?;
    let agent = agent.map(Arc::new);
    supervisor.look_for_agent(agent.as_ref());
    let mut builder = Builder {
        name: &options.name,
        pool,
        vsock,
        vsock_socket,
        files: options.files.map_or_else(OnceCell::new, OnceCell::from),
        agent: agent.as_deref(),
        dirty_log: options.dirty_log,
        techniques: options.techniques,
        cleaner: Arc::new(Cleaner::new(Arc::clone(pool))),
        arrivals: &supervisor.arrivals,
        on_cow_failure: on_cow_failure(supervisor),
    };
    let mut paused = options.paused;
    let mut next = Next::Start(source);
    let mut on_ready = Some(on_ready);
    let mut console = options.console;
    let mut stands_by = options.standby.then_some(options.hear_taken);
    loop {
        let built = match stands_by.take() {
            Some(taken) => stand_by(
                (next, taken),
                supervisor,
                &mut builder,
                console,
                &mut paused,
            )?,
            None => Some(next.build(&builder, console, paused)?),
        };
        let Some((vm, asker)) = built else {
            return supervisor.take_exit().unwrap_or(Ok(VmExit::Stopped));
        };
        // Of a holder that has died, or the VM before a rewind.
        builder.cleaner.clean_later();
        supervisor.install(Some(Arc::clone(&vm)));
        if let Some(agent) = &agent {
            hear_of_idle_frames(agent, &vm);
        }
        if let Some(on_ready) = on_ready.take() {
            tell_ready((&vm, paused), supervisor, on_ready);
        }
        if let Some(asker) = asker {
            wait_for_entry(&vm, paused);
            asker.done(builder.name, paused);
        }
        let mut ended = wait(supervisor, &vm, &builder, agent.as_ref());
        let must_end = begin_to_end(&mut ended, &vm, supervisor);
        if let Ended::Stuck = ended {
            supervisor.install(None);
            return leave_running(vm, ended, supervisor);
        }
        let spec = vm.spec.clone();
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

/// A machine that is built, and the caller that waits for it.
type Built = (Arc<RunningVm>, Option<Asker>);

/// Builds a machine and stands by, until somebody takes it. `None` when the VM is to end. Only a VM
/// of a snapshot does so; any other is built.
fn stand_by<'a>(
    (next, hear_taken): (Next, Option<TakenListener>),
    supervisor: &'a Supervisor,
    builder: &mut Builder<'a>,
    console: ConsoleStreams,
    paused: &mut bool,
) -> Result<Option<Built>, VmError> {
    let Next::Start(VmSource::Restore(restore)) = next else {
        return next.build(builder, console, *paused).map(Some);
    };
    let prepared = builder.prepare_restore(&restore, console)?;
    let standing_by = StandingBy {
        pool: builder.pool,
        supervisor,
        hear_taken,
        restore,
    };
    let taken = go_on(&standing_by, builder, prepared, paused);
    if let Err(error) = &taken {
        supervisor.answer_taker(Err(error.clone()));
    }
    Ok(taken?.map(|vm| (vm, None)))
}

/// Tells that the guest runs, or that it is paused.
fn tell_ready(
    (vm, paused): (&RunningVm, bool),
    supervisor: &Supervisor,
    on_ready: impl FnOnce(VmStatus),
) {
    wait_for_entry(vm, paused);
    fault_point(FaultPoint::RestoreEntered);
    on_ready(supervisor.status());
    if supervisor.answer_taker(Ok(())) {
        show_name(vm, supervisor.name());
    }
}

/// Prepares for the end of a machine. True if the VM ends with it.
fn begin_to_end(ended: &mut Ended, vm: &RunningVm, supervisor: &Supervisor) -> bool {
    supervisor.begin_change();
    if let Ended::Rewind(rewinding) = ended {
        rewinding.asker.stopping();
    }
    vm.digests.end();
    let must_end = matches!(ended, Ended::Exit(_));
    if must_end {
        // Whoever waits for a rewind is told that there is none.
        drop(supervisor.asked_rewind());
    }
    must_end
}

/// Ends the VM when its memory fails.
fn on_cow_failure(supervisor: &Arc<Supervisor>) -> Arc<dyn Fn(CowError) + Send + Sync> {
    let supervisor = Arc::clone(supervisor);
    Arc::new(move |error| supervisor.end(Err(cow_error(error))))
}

/// Has the pool's status name the VM, which nobody waits for.
fn show_name(vm: &RunningVm, name: &str) {
    if let Err(error) = vm.holder.show_name(name) {
        tracing::warn!(%error, "the pool's status names a spare VM, not this one");
    }
}

/// Waits until somebody takes the VM, and builds the rest of it then.
fn go_on<'a>(
    standing_by: &StandingBy<'a>,
    builder: &mut Builder<'a>,
    prepared: Prepared,
    paused: &mut bool,
) -> Result<Option<Arc<RunningVm>>, VmError> {
    let Some(request) = standing_by.wait(&prepared)? else {
        return Ok(None);
    };
    standing_by.rename(&request)?;
    builder.name = standing_by.supervisor.name();
    *paused = request.paused;
    let vm = Arc::new(standing_by.go_on(&request, prepared, builder)?);
    vm.start(*paused)?;
    Ok(Some(vm))
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
    supervisor: &Arc<Supervisor>,
) -> Result<(Option<AgentLink>, OnceCell<Arc<HostSocket>>), VmError> {
    let (agent, socket) = match bound {
        Some(sockets) => (
            Some(AgentLink::serve(sockets.agent).map_err(no_agent_link)?),
            OnceCell::from(Arc::new(sockets.guest)),
        ),
        None => (path.map(agent_link).transpose()?, OnceCell::new()),
    };
    if let Some(agent) = &agent {
        let (hears, told) = (Arc::clone(supervisor), Arc::clone(supervisor));
        agent.on_told(move |kept| told.told_of_connections(kept));
        agent.on_settled(move |failures| hears.settled(failures));
    }
    Ok((agent, socket))
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
    supervisor: &Arc<Supervisor>,
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
            true => in_place::rewind(vm, &wanted, supervisor, agent),
            false => Outcome::Anew,
        };
        match way {
            Outcome::Done => {}
            Outcome::Lost(rewinding) => return Ended::Rewind(rewinding),
            Outcome::Stuck => return Ended::Stuck,
            Outcome::Anew => match vm.prepare_anew(supervisor, &wanted) {
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
    ) -> Result<Built, VmError> {
        let started = |vm: RunningVm| {
            let vm = Arc::new(vm);
            vm.start(paused).map(|()| vm)
        };
        match self {
            Next::Start(source) => Ok((builder.build(&source, console).and_then(started)?, None)),
            Next::Rewind(rewinding) => {
                let Rewinding {
                    read,
                    spec,
                    orders,
                    asker,
                    ..
                } = *rewinding;
                let back = |read| builder.build_back(read, spec, orders, console);
                let built = read.and_then(back);
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
