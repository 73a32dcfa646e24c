//! Puts a VM together: from a kernel, or from a snapshot.

use std::{
    cell::OnceCell,
    path::Path,
    sync::{Arc, Mutex},
    time::Instant,
};

use nvvmm_devices::{ConsoleStreams, HostSocket, virtio::VirtioMmioStateV1};
use nvvmm_protocol::{Restored, Role};
use nvvmm_snapshot::{
    EngineKind, FaultPoint, Holder, Pool, SnapshotEntry, SnapshotId, fault_point, fill_random,
};

use super::{
    RestoreOptions, VmError, VmSource,
    arriving::{Arrivals, Arriving},
    episode::Episode,
    error::{cow_error, machine_error, memory_error, no_thread},
    host_paths::{machine_of, nothing_to_boot, reboot_notice},
    reading::ReadSnapshot,
    running::{Operation, RunningVm},
    stale_disks,
};
use crate::{
    agent::link::{AgentLink, News, unix_ns_now},
    checkpoint::{
        Cleaner, Digests,
        blob::SavedVm,
        phases::Phases,
        report::{GuestClock, GuestConnections, RestoreReport},
    },
    control::{AgentOrders, TimeOfDay, VmOrigin},
    cow::{self, Budget, CowEngine, FaultThread, PrivateEngine, RedirectEngine},
    disk::{self, DiskUser, DisksFrom},
    error::ErrorKind,
    machine::{Machine, MachineParts, check_devices},
    memory::GuestRam,
    spec::{
        VmSpec,
        files::{OpenError, OpenedFiles},
    },
};

/// Bit of a virtio device's status: its driver is ready (Virtio 1.2 section 2.1).
const VIRTIO_CONFIG_S_DRIVER_OK: u32 = 4;

/// Parts that every machine of a VM is built with, however often the guest reboots.
pub struct Builder<'a> {
    /// The VM's name.
    pub name: &'a str,
    /// The pool of its memory.
    pub pool: &'a Arc<Pool>,
    /// Path of the vsock device's socket.
    pub vsock: Option<&'a Path>,
    /// Made for the first machine that has a vsock device; the next ones take it over.
    pub vsock_socket: OnceCell<Arc<HostSocket>>,
    /// Opened for the first machine; all others use them, too.
    pub files: OnceCell<OpenedFiles>,
    /// Tells the guest's agent that it was restored.
    pub agent: Option<&'a AgentLink>,
    /// Switches KVM's dirty log on, for [`RunningVm::audit`].
    pub dirty_log: bool,
    /// Ways in which memory is copied.
    pub techniques: cow::Techniques,
    /// Cleans freed blocks.
    pub cleaner: Arc<Cleaner>,
    /// The place for memory that arrives.
    pub arrivals: &'a Arrivals,
    /// Hears of a failure after which the VM cannot go on.
    pub on_cow_failure: Arc<dyn Fn(cow::CowError) + Send + Sync>,
}

/// Way in which a snapshot is restored.
struct Restoring {
    /// The machine, with the files of this host that it uses.
    spec: VmSpec,
    once: bool,
    prefault: bool,
    /// Memory that is to arrive.
    arriving: Option<Arriving>,
    console: ConsoleStreams,
    /// Notes for the report.
    notes: Vec<String>,
    orders: AgentOrders,
}

/// A machine that is built for a snapshot, but does not have its state yet.
pub(super) struct Prepared {
    // Dropped in this order, as in `RunningVm`.
    machine: Arc<Machine>,
    faults: FaultThread,
    engine: Arc<dyn CowEngine>,
    holder: Arc<Holder>,
    arriving: Option<Arriving>,
    started: Instant,
    phases: Phases,
    pub entry: SnapshotEntry,
    saved: SavedVm,
    pub spec: VmSpec,
    once: bool,
    prefault: bool,
    notes: Vec<String>,
    orders: AgentOrders,
}

impl Prepared {
    /// Has the restore begin now, for its report: the machine was built ahead of it.
    pub fn begin_now(&mut self, orders: AgentOrders) {
        (self.started, self.phases) = (Instant::now(), Phases::begin());
        self.orders = orders;
    }
}

impl Builder<'_> {
    /// Builds the VM; its vCPUs do not run yet.
    pub fn build(&self, source: &VmSource, console: ConsoleStreams) -> Result<RunningVm, VmError> {
        match source {
            VmSource::Boot(spec) => {
                if let Some(agent) = self.agent {
                    agent.new_guest(None);
                }
                self.boot(spec, console)
            }
            VmSource::Restore(restore) => {
                let (vm, slept_ns) = self.restore(restore, console)?;
                self.tell(restore, slept_ns)?;
                Ok(vm)
            }
        }
    }

    fn boot(&self, spec: &VmSpec, console: ConsoleStreams) -> Result<RunningVm, VmError> {
        let files = self.files(spec, DisksFrom::Newest, OpenedFiles::open)?;
        files.boot().map_err(nothing_to_boot)?;
        self.fresh(spec, console, |machine, _| {
            machine.load().map_err(machine_error)
        })
    }

    /// Builds a VM in zeroed memory; `load` fills its memory and state.
    pub fn fresh(
        &self,
        spec: &VmSpec,
        console: ConsoleStreams,
        load: impl FnOnce(&Machine, &GuestRam) -> Result<(), VmError> + Send + 'static,
    ) -> Result<RunningVm, VmError> {
        let files = self.files(spec, DisksFrom::Newest, OpenedFiles::open)?;
        let holder = Arc::new(self.pool.hold(self.name)?);
        if files.are_disks_foreign() {
            holder.mark_foreign();
        }
        let (engine, faults) = self.memory(spec, &holder, cow::RamOrigin::Empty)?;
        let machine = Arc::new(self.machine(spec, files, (&*engine, &faults), console)?);
        let loaded = {
            let (machine, engine) = (Arc::clone(&machine), Arc::clone(&engine));
            faults.unless_stuck(move || load(&machine, engine.ram()))
        };
        let loaded = loaded.map_err(no_thread)?;
        let Some(loaded) = loaded else {
            return Err(stuck((machine, engine, faults)));
        };
        loaded?;
        let origin = VmOrigin::Boot {
            kernel: spec.kernel.clone().unwrap_or_default(),
        };
        Ok(RunningVm {
            digests: Digests::new(Arc::clone(self.pool)),
            cleaner: Arc::clone(&self.cleaner),
            spec: spec.clone(),
            reboot_notice: files.boot().err().map(reboot_notice),
            dirty_log: self.dirty_log,
            arriving: None,
            episode: Mutex::new(Arc::new(Episode::first(origin, None))),
            operation: Mutex::new(Operation::new(None)),
            seen: Mutex::default(),
            machine,
            faults,
            engine,
            holder,
        })
    }

    /// Builds the VM as it was at a snapshot that was read before, as a machine that uses the
    /// files of `spec`, whatever the snapshot names.
    pub(super) fn build_back(
        &self,
        read: ReadSnapshot,
        spec: VmSpec,
        orders: AgentOrders,
        console: ConsoleStreams,
    ) -> Result<RunningVm, VmError> {
        let restore = RestoreOptions::with_orders(&read.entry.name, orders);
        disk::rewind(self.opened(&spec)?.open_disks(), read.entry.id)?;
        let how = Restoring {
            spec,
            once: false,
            prefault: false,
            arriving: None,
            console,
            notes: Vec::new(),
            orders,
        };
        let (vm, slept_ns) = self.restore_read(read, (Instant::now(), Phases::begin()), how)?;
        self.tell(&restore, slept_ns)?;
        Ok(vm)
    }

    fn restore(
        &self,
        restore: &RestoreOptions,
        console: ConsoleStreams,
    ) -> Result<(RunningVm, u64), VmError> {
        self.finish(self.prepare_restore(restore, console)?)
    }

    /// Does all of a restore that comes before the machine gets its state.
    pub(super) fn prepare_restore(
        &self,
        restore: &RestoreOptions,
        console: ConsoleStreams,
    ) -> Result<Prepared, VmError> {
        let (started, mut phases) = (Instant::now(), Phases::begin());
        let read = phases.run("ReadSnapshot", || match restore.arriving {
            true => ReadSnapshot::read_arriving(self.pool, self.name, &restore.snapshot),
            false => ReadSnapshot::read(self.pool, self.name, &restore.snapshot),
        })?;
        fault_point(FaultPoint::RestorePinned);
        phases.run("CheckMap", || read.check_map())?;
        let spec = machine_of(read.saved.spec.clone(), &read.entry, restore)?;
        let from = restore.disks_from();
        let files = self.files(&spec, from, OpenedFiles::open_restored)?;
        if files.disks_snapshot().is_some_and(|id| id != read.entry.id) {
            return Err(replaced(&read.entry.name));
        }
        let (read, arriving) = match read.entry.incomplete {
            true => self.begin_to_arrive(read, &mut phases)?,
            false => (read, None),
        };
        let how = Restoring {
            arriving,
            notes: stale_disks::check(&read.saved, &read.entry, restore, files.open_disks())?,
            spec,
            once: restore.once,
            prefault: restore.prefault,
            console,
            orders: restore.agent_orders(),
        };
        self.prepare(read, (started, phases), how)
    }

    fn restore_read(
        &self,
        read: ReadSnapshot,
        begun: (Instant, Phases),
        how: Restoring,
    ) -> Result<(RunningVm, u64), VmError> {
        self.finish(self.prepare(read, begun, how)?)
    }

    fn prepare(
        &self,
        read: ReadSnapshot,
        (started, mut phases): (Instant, Phases),
        how: Restoring,
    ) -> Result<Prepared, VmError> {
        let ReadSnapshot {
            holder,
            entry,
            frames,
            saved,
        } = read;
        let Restoring {
            spec,
            once,
            prefault,
            arriving,
            console,
            notes,
            orders,
        } = how;
        let files = self.opened(&spec)?;
        if files.are_disks_foreign() {
            holder.mark_foreign();
        }
        let origin = match &arriving {
            Some(Arriving(arrival)) => cow::RamOrigin::Arriving(Arc::clone(arrival)),
            None => cow::RamOrigin::Snapshot {
                frames,
                frames_mapped: entry.frames_mapped,
            },
        };
        let (engine, faults) =
            phases.run("ReserveMemory", || self.memory(&spec, &holder, origin))?;
        fault_point(FaultPoint::RestoreReserved);
        let machine = Arc::new(phases.run("BuildMachine", || {
            self.machine(&spec, files, (&*engine, &faults), console)
        })?);
        Ok(Prepared {
            started,
            phases,
            holder,
            arriving,
            entry,
            saved,
            spec,
            once,
            prefault,
            notes,
            orders,
            machine,
            faults,
            engine,
        })
    }

    /// Gives a machine its state. Returns the time that the guest slept, too, in nanoseconds.
    pub(super) fn finish(&self, prepared: Prepared) -> Result<(RunningVm, u64), VmError> {
        let Prepared {
            started,
            mut phases,
            holder,
            arriving,
            entry,
            saved,
            spec,
            once,
            prefault,
            notes,
            orders,
            machine,
            faults,
            engine,
        } = prepared;
        let clock = guest_clock(orders.time_of_day, &saved);
        let connections = guest_connections(orders, &saved);
        let slept_ns = slept_ns(&saved, &entry);
        let files = self.opened(&spec)?;
        let restored = phases.run("RestoreState", || {
            let machine = Arc::clone(&machine);
            faults.unless_stuck(move || machine.restore(&saved.machine))
        });
        let restored = restored.map_err(no_thread)?;
        let Some(restored) = restored else {
            return Err(stuck((machine, engine, faults)));
        };
        restored.map_err(machine_error)?;
        fault_point(FaultPoint::RestoreStateSet);
        let mut base = Some(entry.id);
        if once {
            base = phases.run("Consume", || consume(&holder, &*engine, entry.id))?;
        }
        if prefault {
            phases
                .run("Prefault", || engine.prefault())
                .map_err(cow_error)?;
        }
        let report = RestoreReport {
            snapshot: entry.name.clone(),
            vm: self.name.into(),
            phases: phases.into_times(),
            first_instruction_us: 0.0,
            frames_mapped: entry.frames_mapped,
            once,
            prefault,
            clock,
            connections,
            notes,
        };
        let origin = VmOrigin::Snapshot { name: entry.name };
        let vm = RunningVm {
            digests: Digests::new(Arc::clone(self.pool)),
            cleaner: Arc::clone(&self.cleaner),
            spec,
            reboot_notice: files.boot().err().map(reboot_notice),
            dirty_log: self.dirty_log,
            episode: Mutex::new(Arc::new(Episode::first(origin, Some((started, report))))),
            operation: Mutex::new(Operation {
                is_arriving: arriving.is_some(),
                ..Operation::new(base)
            }),
            arriving,
            seen: Mutex::default(),
            machine,
            faults,
            engine,
            holder,
        };
        Ok((vm, slept_ns))
    }

    /// Has the guest's agent told that the guest was restored.
    pub(super) fn tell(&self, restore: &RestoreOptions, slept_ns: u64) -> Result<(), VmError> {
        match self.agent {
            Some(agent) => tell(agent, self.name, restore, slept_ns),
            None => Ok(()),
        }
    }

    /// The machine's files. They are opened for the first machine.
    fn files(
        &self,
        spec: &VmSpec,
        from: DisksFrom<'_>,
        open: impl FnOnce(&VmSpec, &DiskUser<'_>) -> Result<OpenedFiles, OpenError>,
    ) -> Result<&OpenedFiles, VmError> {
        if self.files.get().is_some() {
            return self.opened(spec);
        }
        check_devices(spec).map_err(machine_error)?;
        let user = DiskUser {
            pool: Some(self.pool),
            vm: self.name,
            from,
        };
        let files = open(spec, &user).map_err(|error| machine_error(error.into()))?;
        files.tell_writes_apart(self.pool);
        Ok(self.files.get_or_init(|| files))
    }

    /// The machine's files, which are open.
    fn opened(&self, spec: &VmSpec) -> Result<&OpenedFiles, VmError> {
        // Whoever opened them may have looked at another machine.
        let files = self.files.get().filter(|files| files.is_of(spec));
        files.ok_or_else(|| VmError::failed("the files that are open are not those of the machine"))
    }

    fn memory(
        &self,
        spec: &VmSpec,
        holder: &Arc<Holder>,
        origin: cow::RamOrigin,
    ) -> Result<(Arc<dyn CowEngine>, FaultThread), VmError> {
        let (pool, holder) = (Arc::clone(self.pool), Arc::clone(holder));
        let engine: Arc<dyn CowEngine> = match self.pool.medium().cow_engine() {
            EngineKind::Userfaultfd => {
                let ram = GuestRam::reserve(spec.memory_bytes).map_err(memory_error)?;
                let budget = Budget::of(self.techniques.copy_policy);
                Arc::new(
                    RedirectEngine::new(ram, pool, holder, origin, budget, self.techniques)
                        .map_err(cow_error)?,
                )
            }
            EngineKind::Private => {
                let ram =
                    GuestRam::reserve_noting_writes(spec.memory_bytes).map_err(memory_error)?;
                let budget = Budget::of(self.techniques.copy_policy);
                Arc::new(PrivateEngine::new(ram, pool, holder, origin, budget).map_err(cow_error)?)
            }
        };
        let failed = Arc::clone(&self.on_cow_failure);
        let faults = FaultThread::start(Arc::clone(&engine), move |error| failed(error))
            .map_err(|e| VmError::io("start the fault thread", &e))?;
        Ok((engine, faults))
    }

    fn machine(
        &self,
        spec: &VmSpec,
        files: &OpenedFiles,
        (engine, faults): (&dyn CowEngine, &FaultThread),
        console: ConsoleStreams,
    ) -> Result<Machine, VmError> {
        Machine::create(MachineParts {
            spec,
            files,
            memory: Arc::clone(engine.ram().memory()),
            slots: engine.ram().slots(),
            console,
            vsock: self.vsock_socket(spec)?,
            free_pages: Some(Arc::clone(faults.releases()) as _),
            dirty_log: self.dirty_log || engine.needs_write_log(),
        })
        .map_err(machine_error)
    }

    fn vsock_socket(&self, spec: &VmSpec) -> Result<Option<Arc<HostSocket>>, VmError> {
        if !spec.has_vsock() {
            return Ok(None);
        }
        if let Some(socket) = self.vsock_socket.get() {
            return Ok(Some(Arc::clone(socket)));
        }
        let path = self.vsock.ok_or_else(|| {
            VmError::new(
                ErrorKind::Usage,
                "the machine has a vsock device, but there is no path for its socket",
            )
            .with_remedy("set VmOptions::vsock")
        })?;
        let socket =
            HostSocket::bind(path).map_err(|e| VmError::io("make the vsock socket", &e))?;
        Ok(Some(Arc::clone(
            self.vsock_socket.get_or_init(|| Arc::new(socket)),
        )))
    }
}

/// The disks are copies of another snapshot of this name, which is gone.
fn replaced(snapshot: &str) -> VmError {
    VmError::new(
        ErrorKind::Refused,
        format!("the snapshot '{snapshot}' was replaced while it was being restored"),
    )
    .with_remedy("restore it again")
}

/// Has the agent in the guest of the VM `name` told that the guest was restored.
pub(super) fn tell(
    agent: &AgentLink,
    name: &str,
    restore: &RestoreOptions,
    slept_ns: u64,
) -> Result<(), VmError> {
    let mut seed = [0; 32];
    fill_random(&mut seed)?;
    let restored = Restored {
        snapshot: restore.snapshot.clone(),
        vm: name.into(),
        role: match restore.once {
            true => Role::Original,
            false => Role::Copy,
        },
        slept_ns,
        host_time_ns: unix_ns_now(),
        step_clock: restore.time_of_day != TimeOfDay::Keep,
        seed,
    };
    agent.new_guest(Some(News {
        restored,
        keep_connections: restore.keep_connections,
    }));
    Ok(())
}

/// Time since the snapshot was taken, in nanoseconds.
pub(super) fn slept_ns(saved: &SavedVm, entry: &SnapshotEntry) -> u64 {
    let taken_ns = saved.machine.kvm.vm.clock.realtime_ns;
    unix_ns_now().saturating_sub(taken_ns.unwrap_or(entry.created_unix_ns))
}

/// The pool is full before the guest has run. What is built must stay until the process ends: a
/// thread still waits for memory.
fn stuck(built: (Arc<Machine>, Arc<dyn CowEngine>, FaultThread)) -> VmError {
    let lack = built.2.starved_of().unwrap_or(cow::Lack::Blocks);
    std::mem::forget(built);
    cow_error(cow::CowError::NoSpace(lack))
}

/// Takes the snapshot out of the pool: its blocks become the VM's own wherever nothing else refers
/// to them. Returns what of it had to stay, as the base of the next snapshot.
fn consume(
    holder: &Holder,
    engine: &dyn CowEngine,
    id: SnapshotId,
) -> Result<Option<SnapshotId>, VmError> {
    let consumed = holder.consume(id)?;
    let rest = consumed.rest;
    engine.take_over(consumed).map_err(cow_error)?;
    Ok(rest)
}

/// State of the guest's clock when it is restored. A guest of the flat protocol has none.
pub(super) fn guest_clock(time_of_day: TimeOfDay, saved: &SavedVm) -> GuestClock {
    let has_clock = || !{ saved.machine.kvm.vcpus.first() }.is_some_and(crate::arch::is_flat);
    match time_of_day {
        TimeOfDay::Keep => GuestClock::Kept,
        TimeOfDay::StepAwaited if had_vsock_driver(saved) => GuestClock::NotSet,
        TimeOfDay::Step if had_vsock_driver(saved) => GuestClock::Expected,
        TimeOfDay::Step if !has_clock() => GuestClock::Kept,
        TimeOfDay::Step | TimeOfDay::StepAwaited => GuestClock::NoAgent,
    }
}

/// State of the guest's connections when it is restored, if they are to stay. Where there was no
/// agent nobody ends them.
pub(super) fn guest_connections(orders: AgentOrders, saved: &SavedVm) -> Option<GuestConnections> {
    let at_first = || match had_vsock_driver(saved) {
        true => GuestConnections::Awaited,
        false => GuestConnections::Kept,
    };
    orders.keep_connections.then(at_first)
}

/// True if a driver of the guest worked with the vsock device: without it no agent is reached.
fn had_vsock_driver(saved: &SavedVm) -> bool {
    saved.machine.devices.iter().any(|device| {
        let state = device.decode::<VirtioMmioStateV1>("virtio-mmio", 1, "vsock0");
        state.is_ok_and(|state| state.status & VIRTIO_CONFIG_S_DRIVER_OK != 0)
    })
}
