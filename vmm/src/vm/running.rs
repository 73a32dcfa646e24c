//! A VM that is built: what can be asked of it.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, TryLockError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use nvvmm_snapshot::{Holder, LockWait, SnapshotId};

use super::{
    VmError,
    arriving::Arriving,
    episode::Episode,
    error::{kind_of_lack, machine_error, no_thread, take_error},
    process::ProcessWork,
    stale_disks,
};
use crate::{
    checkpoint::{
        self, Cleaner, Digests, Pending, TakeError, Taken, Taking, TakingDisks,
        phases::micros,
        report::{PhaseTime, RestoreReport, SnapshotReport},
    },
    control::{DiskStatus, NetStatus, NetTraffic, ResizedDisk, SnapshotRequest, VmState, VmStatus},
    cow::{CowEngine, FaultThread, Lack},
    disk::{self, OpenDisk},
    error::ErrorKind,
    machine::{Hold, Machine},
    ring::is_member_name,
    spec::{DiskSource, DiskSpec, NetSource, VmSpec},
    stats::VmStats,
    sys::peer::Caller,
    window::ShownBlocks,
};

/// One built VM.
///
/// Fields are dropped in this order, and it matters: no vCPU or device thread may live without the
/// fault thread, nothing that writes guest RAM without the userfaultfd in the engine, and nothing
/// that maps blocks without the holder that leases and pins them.
pub struct RunningVm {
    /// Digests of snapshots that are still to be made.
    pub digests: Digests,
    /// Cleans blocks that commits have freed.
    pub cleaner: Arc<Cleaner>,
    /// The vCPUs and devices.
    pub machine: Arc<Machine>,
    /// Answers accesses to memory that is not mapped.
    pub faults: FaultThread,
    /// Maps guest RAM and copies what is written.
    pub engine: Arc<dyn CowEngine>,
    /// Leases and pins of this VM in the pool.
    pub holder: Arc<Holder>,
    /// The machine's parts.
    pub spec: VmSpec,
    /// Says why the VM ends when its guest reboots, if it does.
    pub reboot_notice: Option<String>,
    /// KVM's dirty log is on, for [`RunningVm::audit`].
    pub dirty_log: bool,
    /// Facts since the guest started last.
    pub(super) episode: Mutex<Arc<Episode>>,
    /// Memory that arrives.
    pub(super) arriving: Option<Arriving>,
    /// Locked while something is done to the VM: one thing at a time.
    pub(super) operation: Mutex<Operation>,
    /// Never held while anything is waited for.
    pub(super) seen: Mutex<Seen>,
}

/// State that operations on a VM change.
pub(super) struct Operation {
    /// Devices stand still. vCPUs do before them and go on after them.
    pub quiesced: bool,
    /// The snapshot this VM pins: the one it came from or took last.
    pub base: Option<SnapshotId>,
    /// The VM is based on a snapshot that arrives.
    pub is_arriving: bool,
    /// A process of the guest that is being captured or restarted.
    pub process: ProcessWork,
    /// Blocks that each window showed last.
    pub shown: BTreeMap<usize, Arc<ShownBlocks>>,
}

/// State that others may see at any time, also while an operation lasts.
#[derive(Default)]
pub(super) struct Seen {
    /// The VM is to end: nothing more is done to it.
    pub ending: bool,
    /// Names of snapshots taken, oldest first.
    pub taken: Vec<String>,
}

impl Seen {
    /// Takes note of a snapshot. Those of `nvvmm replicate` come and go.
    fn note(&mut self, name: &str) {
        if !is_member_name(name) {
            self.taken.push(name.to_owned());
        }
    }
}

impl Operation {
    /// State of a VM whose threads have not been started.
    pub fn new(base: Option<SnapshotId>) -> Self {
        Self {
            quiesced: true,
            base,
            is_arriving: false,
            process: ProcessWork::default(),
            shown: BTreeMap::new(),
        }
    }
}

/// Wait for the pool's lock from which on people are told.
const LOCK_WAIT_SHOWN_FROM: Duration = Duration::from_secs(1);
/// Interval of checks for the end of another operation.
const OPERATION_POLL: Duration = Duration::from_millis(1);

impl RunningVm {
    pub(super) fn operation(&self) -> MutexGuard<'_, Operation> {
        self.operation
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts the threads; the guest runs unless `paused`.
    pub fn start(self: &Arc<Self>, paused: bool) -> Result<(), VmError> {
        let machine = Arc::downgrade(&self.machine);
        self.faults.on_shortage(move |lasts| {
            if let Some(machine) = machine.upgrade() {
                hold_for_space(&machine, lasts);
            }
        });
        for disk in self.machine.disks().iter().filter_map(OpenDisk::pool_disk) {
            disk.on_waiting(self.faults.disk_listener());
        }
        let mut operation = self.operation();
        self.machine.start(!paused).map_err(machine_error)?;
        operation.quiesced = paused;
        Ok(())
    }

    /// Holds the vCPUs at once and stops the devices. When an access waits for space this does not
    /// wait with it: the VM stays paused when the access is answered.
    pub fn pause(self: &Arc<Self>) -> Result<(), VmError> {
        let was_held = self.machine.is_held(Hold::Pause);
        self.machine.hold_vcpus(Hold::Pause);
        let vm = Arc::clone(self);
        let paused = self.faults.unless_stuck(move || vm.come_to_rest());
        paused
            .map_err(|error| {
                if !was_held {
                    self.machine.resume_vcpus(Hold::Pause);
                }
                no_thread(error)
            })?
            .unwrap_or(Ok(()))
    }

    fn come_to_rest(&self) -> Result<(), VmError> {
        let mut operation = self.operation();
        // Somebody may have resumed it while another operation was waited for.
        if operation.quiesced || !self.machine.is_held(Hold::Pause) {
            return Ok(());
        }
        let at_rest = self
            .machine
            .pause_vcpus(Hold::Pause)
            .and_then(|()| self.machine.quiesce_devices());
        operation.quiesced = at_rest.is_ok();
        at_rest.map_err(|error| {
            self.machine.resume_vcpus(Hold::Pause);
            machine_error(error)
        })
    }

    /// Lets a paused VM go on. Refused while an access waits for space: a VM that was paused
    /// meanwhile stays so.
    pub fn resume(&self) -> Result<(), VmError> {
        let mut operation = self.operation_unless_stuck()?;
        if self.seen().ending {
            return Ok(());
        }
        if operation.quiesced {
            self.machine.resume_devices().map_err(machine_error)?;
            operation.quiesced = false;
        }
        self.machine.resume_vcpus(Hold::Pause);
        Ok(())
    }

    /// Makes a disk of the pool larger, and tells the guest.
    pub fn resize_disk(&self, name: &str, size_bytes: u64) -> Result<Vec<ResizedDisk>, VmError> {
        {
            let _operation = self.operation_unless_stuck()?;
            let mut disks = self.machine.disks().iter().filter_map(OpenDisk::pool_disk);
            let disk = disks.find(|disk| disk.pool_name() == name).ok_or_else(|| {
                let text = format!("the VM has no disk '{name}' of the pool");
                VmError::new(ErrorKind::NotFound, text)
            })?;
            disk.resize(size_bytes)?;
        }
        self.measure_disks()
    }

    /// Finds the sizes of the disks anew, and tells the guest.
    pub fn measure_disks(&self) -> Result<Vec<ResizedDisk>, VmError> {
        let _operation = self.operation_unless_stuck()?;
        let resized = self.machine.measure_disks().map_err(machine_error)?;
        let resized = resized.into_iter().map(|disk| ResizedDisk {
            path: disk.backend().name().into(),
            size_bytes: disk.backend().size_bytes(),
        });
        Ok(resized.collect())
    }

    /// Waits for the operation under way, unless it waits for space, or the guest does.
    pub(super) fn operation_unless_stuck(&self) -> Result<MutexGuard<'_, Operation>, VmError> {
        loop {
            if self.faults.is_stuck() {
                return Err(self.no_space());
            }
            match self.operation.try_lock() {
                Ok(operation) => return Ok(operation),
                Err(TryLockError::Poisoned(poisoned)) => return Ok(poisoned.into_inner()),
                Err(TryLockError::WouldBlock) => std::thread::sleep(OPERATION_POLL),
            }
        }
    }

    /// Takes a snapshot. With `stop` the VM stays at the snapshot's instant. While an access waits
    /// for space there is no instant to take: that is refused at once, and nothing is changed.
    pub fn snapshot(
        self: &Arc<Self>,
        request: &SnapshotRequest,
    ) -> Result<SnapshotReport, VmError> {
        self.snapshot_for(request, &Caller::default())
    }

    /// Does the same for a caller who may go: the snapshot is withdrawn when that happens before it
    /// begins, and not committed when it happens later.
    pub fn snapshot_for(
        self: &Arc<Self>,
        request: &SnapshotRequest,
        caller: &Caller,
    ) -> Result<SnapshotReport, VmError> {
        if !request.disks_only {
            self.wait_for_arrival(caller)?;
        }
        let request = request.clone();
        self.unless_no_space(caller, move |vm, pending| {
            vm.take_snapshot(&request, pending)
        })
    }

    /// Does what comes to a snapshot, unless an access waits for space.
    pub(super) fn unless_no_space<T: Send + 'static>(
        self: &Arc<Self>,
        caller: &Caller,
        work: impl FnOnce(&RunningVm, &Pending) -> Result<T, VmError> + Send + 'static,
    ) -> Result<T, VmError> {
        if self.faults.is_stuck() {
            return Err(self.no_space());
        }
        let pending = Arc::new(Pending::of(caller.clone()));
        let (vm, asked) = (Arc::clone(self), Arc::clone(&pending));
        let done = self.faults.unless(
            move || work(&vm, &asked),
            || self.faults.is_stuck() && pending.withdraw(),
        );
        done.map_err(no_thread)?
            .unwrap_or_else(|| Err(self.no_space()))
    }

    fn take_snapshot(
        &self,
        request: &SnapshotRequest,
        pending: &Pending,
    ) -> Result<SnapshotReport, VmError> {
        let mut operation = self.operation();
        if let Some(durability) = request.durability {
            self.holder.pool().require_durability(durability)?;
        }
        if request.disks_only {
            return self.take_disks(&operation, request, pending);
        }
        let stop = request.stop;
        let taken = self.take_whole(&mut operation, &request.name, &[], stop, pending)?;
        let mut seen = self.seen();
        seen.note(&taken.report.name);
        if request.stop {
            disk::note_saved(self.machine.disks());
            operation.quiesced = true;
            seen.ending = true;
        }
        drop((operation, seen));
        let mut report = taken.report;
        if request.verify {
            self.make_digests(taken.id, &mut report)?;
        } else if !request.stop {
            self.digests.make_later(taken.id);
        }
        Ok(report)
    }

    /// Takes a snapshot of the whole VM, whose commit removes others.
    pub(super) fn take_whole(
        &self,
        operation: &mut Operation,
        name: &str,
        replaced: &[SnapshotId],
        stop: bool,
        pending: &Pending,
    ) -> Result<Taken, VmError> {
        self.check_can_take(pending)?;
        self.settle_arrival(operation)?;
        // After the snapshot nothing keeps the blocks of images any more.
        self.machine.end_released_windows().map_err(machine_error)?;
        if self.machine.shows_windows() {
            return Err(VmError::new(
                ErrorKind::Refused,
                "a process of the guest uses the memory of a window (restore --window), which a \
                 snapshot of the VM cannot contain",
            )
            .with_remedy("end the process, or restart it without --window"));
        }
        operation.process.stop(&*self.engine, &self.holder);
        self.faults.longest_held().watch();
        let mut taken = checkpoint::take(&Taking {
            machine: &self.machine,
            engine: &*self.engine,
            holder: &self.holder,
            spec: &self.spec,
            base: operation.base,
            name,
            replaced,
            running: !operation.quiesced,
            pending,
            stop,
            audited: self.dirty_log && !self.engine.needs_write_log(),
            outside_disks: stale_disks::outside(self.machine.disks()),
            counters: &self.episode().snapshots,
        })
        .map_err(take_error)?;
        taken.report.held_us_max = self.faults.longest_held().watched_us();
        operation.base = Some(taken.id);
        self.cleaner.clean_later();
        Ok(taken)
    }

    /// Refuses a snapshot that makes no sense any more.
    fn check_can_take(&self, pending: &Pending) -> Result<(), VmError> {
        if self.seen().ending {
            return Err(VmError::new(ErrorKind::Refused, "the VM is ending"));
        }
        if pending.caller_is_gone() {
            return Err(take_error(TakeError::CallerGone));
        }
        if pending.is_withdrawn() {
            return Err(self.no_space());
        }
        Ok(self.holder.pool().require_name()?)
    }

    /// Takes a snapshot of the disks of the pool only.
    fn take_disks(
        &self,
        operation: &Operation,
        request: &SnapshotRequest,
        pending: &Pending,
    ) -> Result<SnapshotReport, VmError> {
        self.check_can_take(pending)?;
        if !disk::any_of_pool(self.machine.disks()) {
            let without = VmError::new(ErrorKind::Refused, "the VM has no disk of the pool");
            return Err(without.with_remedy(
                "'nvvmm disk import' makes one of an image; 'nvvmm run --disk NAME' attaches it",
            ));
        }
        let taken = checkpoint::take_disks(&TakingDisks {
            machine: &self.machine,
            holder: &self.holder,
            name: &request.name,
            running: !operation.quiesced,
            pending,
            outside_disks: stale_disks::outside(self.machine.disks()),
        })
        .map_err(take_error)?;
        self.seen().note(&taken.report.name);
        let mut report = taken.report;
        if request.verify {
            self.make_digests(taken.id, &mut report)?;
        } else {
            self.digests.make_later(taken.id);
        }
        Ok(report)
    }

    fn make_digests(&self, id: SnapshotId, report: &mut SnapshotReport) -> Result<(), VmError> {
        let began = Instant::now();
        let without = |kind, why: &str| {
            let text = format!(
                "snapshot {} was taken, but not all of it has digests: {why}",
                report.name
            );
            VmError::new(kind, text)
                .with_remedy("'nvvmm pool scrub' computes them, and lists what is damaged")
        };
        let made = self
            .digests
            .make_now(id)
            .map_err(|error| without(ErrorKind::Failed, &error.to_string()))?;
        if !made.is_clean() {
            return Err(without(ErrorKind::PoolDamaged, "the pool is damaged"));
        }
        if made.interrupted || made.snapshots_gone > 0 {
            return Err(without(
                ErrorKind::Refused,
                "the VM ended, or the snapshot was removed",
            ));
        }
        report.digests_made = Some(made.digests_made);
        report.phases.push(PhaseTime {
            phase: "MakeDigests".into(),
            us: micros(began),
        });
        Ok(())
    }

    /// Puts into the status which process has the pool's lock, when this one waits for it.
    pub fn tell_lock_wait(&self, status: &mut VmStatus) {
        let wait = self.holder.pool().lock_wait();
        if let Some(wait) = wait.filter(|wait| wait.waited >= LOCK_WAIT_SHOWN_FROM) {
            let holder = wait.holder;
            status.notice = Some(format!("waits for the pool's lock, held by {holder}"));
            status.waits_for_pid = holder.pid();
        }
    }

    /// Error of an operation on a VM whose guest waits for space.
    pub fn no_space(&self) -> VmError {
        let wait = self.holder.pool().lock_wait();
        if self.faults.waits_for_lock()
            && let Some(LockWait {
                holder, hopeless, ..
            }) = wait
        {
            return nvvmm_snapshot::Error::PoolLocked { holder, hopeless }.into();
        }
        let goes_on = if self.machine.is_held(Hold::Pause) {
            "the VM stays paused"
        } else {
            "the VM runs on by itself"
        };
        let lack = self.faults.starved_of().unwrap_or(Lack::Blocks);
        VmError::new(
            kind_of_lack(lack),
            format!("{lack}, and the guest waits until there is space"),
        )
        .with_remedy(format!("{}; then {goes_on}", lack.remedy()))
    }

    /// The disks, in the guest's order.
    pub fn disk_statuses(&self) -> Vec<DiskStatus> {
        let disks = self.spec.disks().zip(self.machine.disks());
        let statuses = disks.map(|(spec, open)| match open.pool_disk() {
            None => DiskStatus::of_file(spec),
            Some(disk) => DiskStatus {
                disk: DiskSpec {
                    source: DiskSource::Pool(disk.pool_name().to_owned()),
                    ..spec.clone()
                },
                drive: Some(disk.drive().to_owned()),
                is_kept_copy: disk.is_kept_copy(),
            },
        });
        statuses.collect()
    }

    /// The network cards, in the guest's order.
    pub fn net_statuses(&self) -> Vec<NetStatus> {
        let cards = self.spec.nets().zip(self.machine.nets());
        let statuses = cards.map(|(card, port)| {
            let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
            let counters = &port.counters;
            NetStatus {
                card: card.clone(),
                is_connected: card.source != NetSource::None && !port.is_gone(),
                traffic: NetTraffic {
                    sent_frames: count(&counters.sent_frames),
                    sent_bytes: count(&counters.sent_bytes),
                    received_frames: count(&counters.received_frames),
                    received_bytes: count(&counters.received_bytes),
                    denied_frames: count(&counters.denied_frames),
                    dropped_frames: count(&counters.dropped_frames),
                },
            }
        });
        statuses.collect()
    }

    /// Names the first network that is gone, for the status.
    pub fn lost_network(&self) -> Option<String> {
        let lost = self.machine.nets().iter().find(|port| port.is_gone())?;
        Some(format!(
            "its network ({}) is gone, and the link of its card is down; its log has more",
            lost.name()
        ))
    }

    /// Counters so far.
    pub fn stats(&self, name: &str, uptime_ms: u64) -> VmStats {
        let episode = self.episode();
        VmStats {
            name: name.to_owned(),
            uptime_ms,
            ram: self.ram_counters(),
            kernel_calls: episode.kernel_calls(&*self.engine),
            fault_latency: episode.fault_latency(&self.faults),
            held_us_max: self.faults.longest_held().all_us(),
            snapshots: episode.snapshots.stats(),
            pool: self.holder.pool().writes(),
            replica_lag_ms: None,
        }
    }

    /// State of the VM now.
    pub fn state(&self) -> VmState {
        if self.seen().ending {
            VmState::Stopping
        } else if self.machine.is_held(Hold::Pause) {
            VmState::Paused
        } else if self.faults.waits_for_arrival() {
            VmState::Fetching
        } else if self.faults.starved_of() == Some(Lack::Store) {
            VmState::StoreAway
        } else if self.faults.waits_for_lock() {
            VmState::Waiting
        } else if self.faults.is_starved() {
            VmState::NoSpace
        } else {
            VmState::Running
        }
    }

    /// The report of the restore, once the guest has run.
    pub fn restore_report(&self) -> Option<RestoreReport> {
        self.episode().restore_report(self.machine.first_entry())
    }

    /// Has the VM be one whose restore began then, with this report: for those who restore a VM by
    /// other means.
    pub fn note_restore(&self, started: Instant, report: RestoreReport) {
        let origin = self.episode().origin.clone();
        self.begin_episode(Episode::first(origin, Some((started, report))));
    }

    /// Facts begin anew.
    pub(super) fn begin_episode(&self, episode: Episode) {
        *self.episode.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(episode);
    }

    /// Facts since the guest started last.
    pub fn episode(&self) -> Arc<Episode> {
        let episode = self.episode.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&episode)
    }
}

/// While an access waits for space the whole guest stands still, as far as it can without waiting
/// for that access. Devices need not be stopped: what they write meanwhile is written or held like
/// any other access.
fn hold_for_space(machine: &Machine, shortage: bool) {
    if shortage {
        machine.hold_vcpus(Hold::NoSpace);
    } else {
        machine.resume_vcpus(Hold::NoSpace);
    }
}
