//! The VM as a program that embeds it sees it.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, channel},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use nvvmm_snapshot::Pool;

use super::{
    RestoreOptions, VmError, VmExit, VmOptions, VmSource, life::live, supervisor::Supervisor,
};
use crate::{
    checkpoint::report::{AuditReport, SnapshotReport},
    control::{RewindRequest, RingRequest, SnapshotRequest, VmControl, VmState, VmStatus},
    ring::{RewindReport, RingStatus},
    spec::VmSpec,
    stats::VmStats,
    threads::{ThreadKind, begin as begin_thread},
};

/// Interval of checks if the guest's clock is set.
const CLOCK_POLL: Duration = Duration::from_millis(10);

/// A running VM of this process.
///
/// A thread of its own builds the machine, and builds it anew when the guest reboots or the VM is
/// rewound. All methods can be called from any thread. Dropping a `Vm` stops it.
///
/// A guest that waits for space in a full pool cannot always be stopped: its vCPU thread hangs in
/// an access to memory. Then the thread and the memory stay until the process ends.
pub struct Vm {
    supervisor: Arc<Supervisor>,
    ready: Mutex<Option<Receiver<VmStatus>>>,
    thread: Mutex<Option<JoinHandle<Result<VmExit, VmError>>>>,
}

impl Vm {
    /// Boots a machine, and returns when its guest has been entered.
    ///
    /// # Errors
    /// The host has no KVM or no userfaultfd, a file of the machine cannot be read, or the pool is
    /// full.
    pub fn boot(pool: &Arc<Pool>, spec: VmSpec, options: VmOptions) -> Result<Self, VmError> {
        let vm = Self::begin(pool, VmSource::Boot(spec), options)?;
        vm.wait_ready()?;
        Ok(vm)
    }

    /// Restores a snapshot as a new VM, and returns when its guest has been entered. The snapshot
    /// stays, unless [`RestoreOptions::once`] is set: it can be restored any number of times.
    ///
    /// # Errors
    /// There is no such snapshot, it is damaged, or as [`Vm::boot`].
    pub fn restore(
        pool: &Arc<Pool>,
        snapshot: impl Into<RestoreOptions>,
        options: VmOptions,
    ) -> Result<Self, VmError> {
        let vm = Self::begin(pool, VmSource::Restore(snapshot.into()), options)?;
        vm.wait_ready()?;
        Ok(vm)
    }

    /// Begins to boot or restore a VM, and returns at once. Its status can be asked for while it is
    /// built, and it can be stopped.
    ///
    /// # Errors
    /// The VM's thread cannot be started.
    pub fn begin(pool: &Arc<Pool>, source: VmSource, options: VmOptions) -> Result<Self, VmError> {
        let supervisor = Supervisor::new(pool, &source, &options);
        let (ready, wait) = channel();
        let thread = std::thread::Builder::new()
            .name("vm".into())
            .spawn({
                let (pool, supervisor) = (Arc::clone(pool), Arc::clone(&supervisor));
                // Nobody may wait for it any more.
                let on_ready = move |status| drop(ready.send(status));
                move || {
                    begin_thread(ThreadKind::Operations);
                    let exit = live(&pool, &supervisor, source, options, on_ready);
                    supervisor.set_ended();
                    exit
                }
            })
            .map_err(|e| VmError::io("start the VM's thread", &e))?;
        Ok(Self {
            supervisor,
            ready: Mutex::new(Some(wait)),
            thread: Mutex::new(Some(thread)),
        })
    }

    /// Waits until the guest has been entered for the first time, or until the machine is built if
    /// the VM starts paused. Gives the status at that moment, or now if that was earlier.
    ///
    /// # Errors
    /// The VM could not be started.
    pub fn wait_ready(&self) -> Result<VmStatus, VmError> {
        let wait = self
            .ready
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        match wait.map(|wait| wait.recv()) {
            None => Ok(self.status()),
            Some(Ok(status)) => Ok(status),
            Some(Err(_)) => Err(match self.join() {
                Err(error) => error,
                Ok(_) => VmError::failed("the VM ended before its guest ran"),
            }),
        }
    }

    /// Waits until the machine of a VM with [`VmOptions::standby`] stands by. Gives its status.
    ///
    /// # Errors
    /// The machine could not be built.
    pub fn wait_standby(&self) -> Result<VmStatus, VmError> {
        match self.supervisor.standby.wait() {
            true => Ok(self.status()),
            false => Err(match self.join() {
                Err(error) => error,
                Ok(_) => VmError::failed("the VM ended before it stood by"),
            }),
        }
    }

    /// Waits until somebody has taken a VM that stands by, and its guest has been entered or is
    /// paused. `None` when the VM was asked to end before.
    ///
    /// # Errors
    /// The VM could not be started, or its snapshot is not there any more.
    pub fn wait_taken(&self) -> Result<Option<VmStatus>, VmError> {
        let wait = self.ready.lock();
        let wait = wait.unwrap_or_else(PoisonError::into_inner).take();
        match wait.and_then(|wait| wait.recv().ok()) {
            Some(status) => Ok(Some(status)),
            None => self.join().map(|_| None),
        }
    }

    /// Waits until the guest's agent has set the guest's clock
    /// ([`TimeOfDay::StepAwaited`](crate::control::TimeOfDay::StepAwaited)), and knows that
    /// connections are to stay, if that was asked for: at most for `limit`, and not for a VM that
    /// is paused. Gives the status then; the report of the restore in it says what became of both.
    pub fn wait_agent(&self, limit: Duration) -> VmStatus {
        let until = Instant::now() + limit;
        let mut status = self.status();
        while status.state != VmState::Paused
            && self.supervisor.waits_for_agent()
            && Instant::now() < until
        {
            std::thread::sleep(CLOCK_POLL);
            status = self.status();
        }
        status
    }

    /// State and counters now. Does not wait for the guest.
    pub fn status(&self) -> VmStatus {
        VmControl::status(&*self.supervisor)
    }

    /// Counters since the VM was built. Does not wait for the guest.
    ///
    /// # Errors
    /// The VM is being built at the moment.
    pub fn stats(&self) -> Result<VmStats, VmError> {
        self.supervisor.stats()
    }

    /// Stops the vCPUs and devices until [`Vm::resume`]. A paused VM stays paused.
    ///
    /// # Errors
    /// The VM is being built at the moment, or a device does not come to rest.
    pub fn pause(&self) -> Result<(), VmError> {
        self.supervisor.pause()
    }

    /// Lets a paused VM go on. A running VM goes on running.
    ///
    /// # Errors
    /// The VM is being built at the moment, or waits for space in its pool.
    pub fn resume(&self) -> Result<(), VmError> {
        self.supervisor.resume()
    }

    /// Takes a snapshot, and returns when it is committed to the pool. The guest runs on.
    ///
    /// ```no_run
    /// # fn example(vm: &nvvmm::Vm) -> Result<(), nvvmm::VmError> {
    /// vm.snapshot("base")?;
    /// vm.snapshot(nvvmm::SnapshotRequest {
    ///     verify: true,
    ///     ..nvvmm::SnapshotRequest::from("verified")
    /// })?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// The name is taken, the pool is full, or the VM is being built at the moment.
    pub fn snapshot(&self, request: impl Into<SnapshotRequest>) -> Result<SnapshotReport, VmError> {
        VmControl::snapshot(&*self.supervisor, &request.into())
    }

    /// Takes the VM back to a snapshot of it, and returns when it runs from there.
    ///
    /// # Errors
    /// There is no such snapshot, or it is of another machine; the VM then runs on as before. The
    /// machine cannot be built anew; then the VM has ended, and the snapshot is still there.
    pub fn rewind(&self, request: impl Into<RewindRequest>) -> Result<RewindReport, VmError> {
        self.supervisor.rewind(&request.into())
    }

    /// Begins to take checkpoints in a rhythm. This ends the ring that was begun before.
    ///
    /// # Errors
    /// The settings make no sense, or the pool cannot be read.
    pub fn start_ring(&self, request: &RingRequest) -> Result<RingStatus, VmError> {
        self.supervisor.start_ring(request)
    }

    /// Ends the ring of checkpoints. The checkpoints stay.
    ///
    /// # Errors
    /// There is no ring.
    pub fn stop_ring(&self) -> Result<RingStatus, VmError> {
        self.supervisor.stop_ring()
    }

    /// Compares KVM's dirty log with the copy-on-write engine. For tests.
    ///
    /// # Errors
    /// The VM was started without [`VmOptions::dirty_log`].
    pub fn audit(&self) -> Result<AuditReport, VmError> {
        self.supervisor.audit()
    }

    /// Asks the VM to stop, and returns at once; [`Vm::wait`] waits for its end.
    pub fn stop(&self) {
        self.supervisor.end(Ok(VmExit::Stopped));
    }

    /// Waits for the end of the VM: its guest switches itself off, or it is stopped.
    ///
    /// # Errors
    /// The VM could not be started, or had to end.
    pub fn wait(self) -> Result<VmExit, VmError> {
        self.join()
    }

    /// Answers requests for this VM. A [`ControlServer`](crate::control::ControlServer) takes it.
    pub fn control(&self) -> Arc<dyn VmControl> {
        Arc::clone(&self.supervisor) as Arc<dyn VmControl>
    }

    fn join(&self) -> Result<VmExit, VmError> {
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(thread) = thread.take() else {
            return Err(VmError::failed("the VM has ended"));
        };
        thread
            .join()
            .unwrap_or_else(|_| Err(VmError::failed("the VM's thread panicked")))
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        self.stop();
        // Its end was asked for by nobody who waits for it.
        let _ = self.join();
    }
}
