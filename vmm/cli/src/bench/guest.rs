//! One VM of the benchmark with the bare-metal guest, in this process: built, snapshotted and
//! restored by what the commands call, without the commands' processes.

use std::{
    cell::OnceCell,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use nvvmm::{
    VmError,
    agent::link::AgentLink,
    checkpoint::Cleaner,
    checkpoint::report::{RestoreReport, SnapshotReport},
    control::SnapshotRequest,
    cow::CowError,
    ring::{Attempt, Ring, RingSettings},
    vm::{Arrivals, Builder, RunningVm},
};
use nvvmm_devices::{ConsoleStreams, HostSocket};
use nvvmm_snapshot::SnapshotId;

use super::{
    bench_pool::GuestSettings,
    console::{Console, number},
};

const FIRST_ENTRY_POLL: Duration = Duration::from_micros(50);
const FIRST_ENTRY_PATIENCE: Duration = Duration::from_secs(60);
const LET_GO_POLL: Duration = Duration::from_millis(1);

/// A running VM. Dropping it ends it.
pub struct Guest {
    name: String,
    vm: Option<Arc<RunningVm>>,
    console: Console,
    failure: Arc<Mutex<Option<CowError>>>,
    /// After the VM, which tells it things.
    _agent: AgentLink,
}

impl Guest {
    /// Has `build` make a VM, and lets it run. Returns when the guest has been entered.
    ///
    /// # Errors
    /// Whatever keeps the VM from running.
    pub fn start(
        settings: GuestSettings<'_>,
        build: impl FnOnce(&Builder<'_>, ConsoleStreams) -> Result<RunningVm, VmError>,
    ) -> Result<Self, VmError> {
        let socket = |kind: &str| settings.dir.join(format!("{}.{kind}", settings.name));
        let (console, vsock) = (socket("console"), socket("vsock"));
        let agent = AgentLink::start(&socket("agent"))
            .map_err(|e| VmError::io("make the socket for the guest's agent", &e))?;
        let failure = Arc::new(Mutex::new(None));
        let builder = Builder {
            name: &settings.name,
            pool: settings.pool,
            vsock: Some(&vsock),
            files: OnceCell::new(),
            vsock_socket: OnceCell::new(),
            agent: Some(&agent),
            dirty_log: false,
            techniques: settings.techniques,
            cleaner: Arc::new(Cleaner::new(Arc::clone(settings.pool))),
            arrivals: &Arrivals::default(),
            on_cow_failure: {
                let failure = Arc::clone(&failure);
                Arc::new(move |error| {
                    *failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error)
                })
            },
        };
        let socket = HostSocket::bind(&console);
        let mut streams = ConsoleStreams::default();
        streams.socket = Some(socket.map_err(|e| VmError::io("make the console socket", &e))?);
        let vm = Arc::new(build(&builder, streams)?);
        vm.start(false)?;
        let guest = Self {
            name: settings.name,
            vm: Some(vm),
            console: Console::connect(&console)?,
            failure,
            _agent: agent,
        };
        guest.wait_for_entry()?;
        Ok(guest)
    }

    fn wait_for_entry(&self) -> Result<(), VmError> {
        let until = Instant::now() + FIRST_ENTRY_PATIENCE;
        while self.vm().machine.first_entry().is_none() {
            if Instant::now() > until || self.vm().faults.is_stuck() {
                return Err(VmError::failed("the guest is not entered"));
            }
            thread::sleep(FIRST_ENTRY_POLL);
        }
        Ok(())
    }

    /// The VM.
    pub fn vm(&self) -> &Arc<RunningVm> {
        self.vm
            .as_ref()
            .unwrap_or_else(|| unreachable!("it is taken when this is dropped"))
    }

    /// Asks the guest something (guest/bare-metal/README.md, "The console").
    ///
    /// # Errors
    /// The guest refuses, its memory is wrong, or it cannot go on.
    pub fn ask(&mut self, command: &str) -> Result<String, VmError> {
        let vm = Arc::clone(self.vm());
        let answer = self.console.ask_while(command, || {
            if vm.faults.is_starved() {
                return Err(vm.no_space());
            }
            Ok(())
        });
        match self
            .failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
        {
            Some(error) => Err(VmError::failed(format!("the VM cannot go on: {error}"))),
            None => answer,
        }
    }

    /// Has the guest write so much memory for the first time.
    ///
    /// # Errors
    /// As [`Guest::ask`].
    pub fn fill(&mut self, size_bytes: u64, seed: u64) -> Result<(), VmError> {
        self.ask(&format!("fill {} {seed}", size_bytes >> 20))?;
        Ok(())
    }

    /// The first frame of the memory under test.
    ///
    /// # Errors
    /// As [`Guest::ask`].
    pub fn first_frame(&mut self) -> Result<u64, VmError> {
        number(&self.ask("stat")?, "first")
    }

    /// Has the guest compare all that it has filled with what it must hold; how many frames that
    /// are.
    ///
    /// # Errors
    /// One is wrong.
    pub fn verify(&mut self) -> Result<u64, VmError> {
        let answer = self.ask("check")?;
        number(&answer, "frames")
    }

    /// Takes a snapshot.
    ///
    /// # Errors
    /// As the command's.
    pub fn snapshot(&self, name: &str) -> Result<SnapshotReport, VmError> {
        self.take(name, false)
    }

    /// Takes a snapshot as `--verify` does: digests are made before this returns.
    ///
    /// # Errors
    /// As the command's.
    pub fn snapshot_with_digests(&self, name: &str) -> Result<SnapshotReport, VmError> {
        self.take(name, true)
    }

    fn take(&self, name: &str, verify: bool) -> Result<SnapshotReport, VmError> {
        self.vm().snapshot(&SnapshotRequest {
            name: name.into(),
            stop: false,
            durability: None,
            verify,
            disks_only: false,
        })
    }

    /// Begins a ring of checkpoints of it, as `nvvmm checkpoint` does. It is to end before the
    /// guest does.
    ///
    /// # Errors
    /// As the command's.
    pub fn begin_ring(&self, settings: RingSettings) -> Result<Ring, VmError> {
        let vm = Arc::downgrade(self.vm());
        let take = move |name: &str, replaced: &[SnapshotId]| match vm.upgrade() {
            Some(vm) => vm.checkpoint(name, replaced),
            None => Attempt::NotNow,
        };
        Ring::start(
            self.vm().holder.pool(),
            &self.name,
            settings,
            Box::new(take),
        )
    }

    /// Name of the VM.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Console of the guest.
    pub fn console(&mut self) -> &mut Console {
        &mut self.console
    }

    /// Report of the restore that the guest came from.
    ///
    /// # Errors
    /// It came from none.
    pub fn restored(&self) -> Result<RestoreReport, VmError> {
        let report = self.vm().restore_report();
        report.ok_or_else(|| VmError::failed("the VM was not restored"))
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let Some(vm) = self.vm.take() else {
            return;
        };
        if vm.faults.is_stuck() {
            // A vCPU waits for memory that nobody will give it. It ends with the process, and what
            // it uses stays until then.
            std::mem::forget(vm);
            return;
        }
        vm.digests.end();
        vm.machine.stop();
        // What it maps must be gone before anything is measured again.
        while Arc::strong_count(&vm) > 1 {
            thread::sleep(LET_GO_POLL);
        }
    }
}
